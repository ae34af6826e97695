"""Greeting: what an agent and a run's server say to each other before a worker begins, as plain JSON.

An agent says who it is and what it would compute with (`Hello`). The server compares that with its own, and answers
with a word: ``refused``, ``wait``, ``resumed``, or ``assign`` with an `Assignment`: which worker, which life of it,
and what it needs to begin. Nothing is ever unpickled: whoever holds the secret may send numbers and words, no objects.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.engines.joined.facts import Facts, import_digests
from tardigrad.engines.local.acting import Part
from tardigrad.engines.local.processes import Duty
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.session.scripts import Script
from tardigrad.transports.parts import Elsewhere
from tardigrad.transports.slots import SlotLayout

FORMAT = 1
HELLO = "hello"
"""What an agent says first."""
REFUSED, WAIT, RESUMED, ASSIGN, OVER = "refused", "wait", "resumed", "assign", "over"
"""What the server answers: {message}, {seconds}, {received}, an assignment, or {words, finished, only_this}: with
``only_this`` the run goes on for others."""
SIGNAL, DRAIN = "signal", "drain"
"""Words later: the server's {number}, as OVER; and the agent's {}."""


@dataclass(frozen=True, slots=True)
class Resumes:
    """What an agent that was cut off goes on with.

    Attributes:
        life: of the server, as of `Assignment`.
        received: how many messages of its bridge came in.
    """

    life: str
    received: int


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent offers a place for one worker.

    Attributes:
        place: random letters that stay the same over all its connections.
        facts: what a worker there would compute with.
        host: name of the agent's machine.
        resumes: None: whatever it did is over, or this is the first time.
        wants: number of the worker that it was last; None: it was none.
    """

    place: str
    facts: Facts
    host: str
    resumes: Resumes | None = None
    wants: int | None = None

    @classmethod
    def own(cls, place: str, facts: Facts) -> Self:
        """Of this process."""
        return cls(place, facts, socket.gethostname())

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"place": self.place, "host": self.host, "wants": self.wants}
        resumes = None if self.resumes is None else dataclasses.asdict(self.resumes)
        return {"format": FORMAT, **plain, **self.facts.as_json(), "resumes": resumes}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`.

        Raises:
            ProtocolError: it is no hello, or one of another format; the sentence is for the agent.
        """
        if plain.get("format") != FORMAT:
            raise ProtocolError(
                f"this server greets in format {FORMAT}, the agent in {plain.get('format')!r}: they are of different "
                "versions of Tardigrad. Install the same version on both machines."
            )
        try:
            resumes, wants = plain["resumes"], plain["wants"]
            return cls(
                place=_text(plain["place"]),
                facts=Facts.from_json(plain),
                host=_text(plain["host"]),
                resumes=None if resumes is None else Resumes(_text(resumes["life"]), _whole(resumes["received"])),
                wants=None if wants is None else _whole(wants),
            )
        except (KeyError, TypeError, ValueError, ProtocolError) as error:
            raise ProtocolError(f"what an agent said first is no hello: {error!r}.") from error


@dataclass(frozen=True, slots=True)
class TaskAssignment:
    """What a worker that computes a task begins with.

    Attributes:
        blueprint: of the run. Device and folder of data sets are the agent's own.
        speed: as of `tardigrad.engines.local.processes.Duty`.
        layout: hash of the model's flat layout; a worker that builds another one is refused.
        slots: layout of the slots.
        imports: digest of each file or module that the blueprint imports; see `Facts`.
    """

    blueprint: Blueprint
    speed: float
    layout: str
    slots: SlotLayout
    imports: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, duty: Duty, slots: SlotLayout, layout: str) -> Self:
        """What the server would start a process of its own with; ``layout``: the hash."""
        return cls(duty.blueprint, duty.speed, layout, slots, import_digests(duty.blueprint.imports))

    def as_json(self) -> dict[str, Any]:
        """Plain data; InvalidArgument where the task is an object: see `blueprint_json`."""
        plain = {"speed": self.speed, "layout": self.layout, "imports": dict(self.imports)}
        return plain | {"blueprint": blueprint_json(self.blueprint), "slots": slots_json(self.slots)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`."""
        blueprint, slots = blueprint_of_json(plain["blueprint"]), slots_of_json(plain["slots"])
        return cls(blueprint, float(plain["speed"]), plain["layout"], slots, dict(plain["imports"]))


@dataclass(frozen=True, slots=True)
class ScriptAssignment:
    """What a worker that runs a script begins with.

    Attributes:
        script: `Script.as_json`: leads to the function, on the server's machine. Its ``args`` are None where the
            function was called with objects: then only an agent that makes the same call itself can run it.
        part: of the worker's first process. The device is the agent's own.
    """

    script: Mapping[str, Any]
    part: Part

    @classmethod
    def of(cls, script: Script, part: Part) -> Self:
        """What the server would start a process of its own with."""
        return cls(script.as_json(), part)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"script": dict(self.script), "part": dataclasses.asdict(self.part)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(dict(plain["script"]), Part(**plain["part"]))


@dataclass(frozen=True, slots=True)
class Assignment:
    """A place is to be this worker, for one life of it. Either ``task`` or ``script`` is given.

    Attributes:
        life: random letters of the server's process: another process, or another run, has others.
        worker, incarnation: which worker, and which life of it.
        task, script: what it begins with.
        parts: what of its slots travels straight to and from other shards than the first.
    """

    life: str
    worker: int
    incarnation: int
    task: TaskAssignment | None = None
    script: ScriptAssignment | None = None
    parts: tuple[Elsewhere, ...] = ()

    @property
    def kind(self) -> Literal["task", "script"]:
        """What the worker computes, and how it speaks to the server."""
        return "script" if self.task is None else "task"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"life": self.life, "worker": self.worker, "incarnation": self.incarnation}
        found = {name: None if each is None else each.as_json() for name, each in self._works}
        return plain | found | {"parts": [[each.address, each.start, each.stop] for each in self.parts]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`.

        Raises:
            ProtocolError: it is no assignment.
        """
        try:
            task = None if plain["task"] is None else TaskAssignment.from_json(plain["task"])
            script = None if plain["script"] is None else ScriptAssignment.from_json(plain["script"])
            parts = tuple(Elsewhere(str(address), start, stop) for address, start, stop in plain["parts"])
            found = cls(plain["life"], plain["worker"], plain["incarnation"], task, script, parts)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"what the server assigned is no assignment: {error!r}.") from error
        if (task is None) == (script is None):
            raise ProtocolError("what the server assigned is neither a task nor a script.")
        return found

    @property
    def _works(self) -> list[tuple[str, TaskAssignment | ScriptAssignment | None]]:
        return [("task", self.task), ("script", self.script)]


def blueprint_json(blueprint: Blueprint) -> dict[str, Any]:
    """A blueprint as plain data.

    Raises:
        InvalidArgument: its task is an object, and no name that another machine could build it by.
    """
    if blueprint.made is not None:
        raise InvalidArgument(
            "a task that was given as an object cannot be built on another machine: nothing is pickled between "
            "machines. Register it in a file (TASKS.register), name it, and give imports=['your_file.py']."
        )
    plain = {name: getattr(blueprint, name) for name in ("task", "seed", "threads", "recalibrate")}
    arithmetic = dataclasses.asdict(blueprint.arithmetic) | {"device": str(blueprint.arithmetic.device)}
    return plain | {"arithmetic": arithmetic, "imports": list(blueprint.imports)}


def blueprint_of_json(plain: Mapping[str, Any]) -> Blueprint:
    """The inverse of `blueprint_json`; where data lie is not in it."""
    return Blueprint(
        task=plain["task"],
        seed=plain["seed"],
        arithmetic=Arithmetic(**plain["arithmetic"]),
        threads=plain["threads"],
        recalibrate=plain["recalibrate"],
        imports=tuple(plain["imports"]),
    )


def slots_json(layout: SlotLayout) -> dict[str, Any]:
    """A slot's layout as plain data."""
    buffers = [[name, _word(dtype), list(shape), place] for name, dtype, shape, place in layout.buffers]
    return {"dtype": _word(layout.dtype), "elements": layout.elements, "buffers": buffers, "size": layout.size}


def slots_of_json(plain: Mapping[str, Any]) -> SlotLayout:
    """The inverse of `slots_json`.

    Raises:
        ProtocolError: it is none, or a buffer lies outside it.
    """
    buffers = tuple((name, _dtype(word), _shape(shape), _whole(place)) for name, word, shape, place in plain["buffers"])
    layout = SlotLayout(_dtype(plain["dtype"]), _whole(plain["elements"]), buffers, _whole(plain["size"]))
    ends = [layout.elements * layout.dtype.itemsize]
    ends += [place + torch.Size(shape).numel() * dtype.itemsize for _, dtype, shape, place in buffers]
    if max(ends) > layout.size:
        raise ProtocolError(f"a slot of {layout.size} bytes cannot hold what ends at byte {max(ends)}.")
    return layout


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(word: str) -> torch.dtype:
    found = getattr(torch, word, None)
    if not isinstance(found, torch.dtype):
        raise ProtocolError(f"{word!r} is no type of numbers.")
    return found


def _text(words: Any) -> str:
    if not isinstance(words, str):
        raise ProtocolError(f"{words!r} is no text.")
    return words


def _shape(lengths: Sequence[Any]) -> tuple[int, ...]:
    return tuple(_whole(length) for length in lengths)


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ProtocolError(f"{number!r} is no size or number.")
    return number
