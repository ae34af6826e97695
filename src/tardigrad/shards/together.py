"""Shards together: they are asked all at once, and stand behind the commit path and the backups of one server."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tardigrad.backups import Backups, Memory
from tardigrad.commit.base import CommitPath, Part
from tardigrad.commit.choice import ChosenPath
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import CompileError
from tardigrad.records import Facts, Quality
from tardigrad.shards.joining import joined, joined_path, split, split_path
from tardigrad.shards.links import Link
from tardigrad.shards.ranges import Range


class Shards:
    """All shards of one server, the first of them in this process.

    Args:
        ranges: that they hold.
        links: to them.
    """

    def __init__(self, ranges: Sequence[Range], links: Sequence[Link]) -> None:
        self.ranges, self.links = list(ranges), list(links)

    def tell(self, word: str, content: Mapping[str, Any]) -> None:
        """Tell all of them, and wait for nothing; what one far away raises is raised by the next question."""
        errors = []
        with self.undivided():
            for link in reversed(self.links):
                try:
                    link.tell(word, content)
                except Exception as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def ask(self, word: str, content: Mapping[str, Any] | None = None) -> list[Any]:
        """Ask all of them the same; their answers, in order. If one raises, the others are done all the same."""
        return self.ask_each(word, [content or {}] * len(self.links))

    def ask_each(self, word: str, contents: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Ask each of them its own question; see `ask`. While those far away are at it, so is the first."""
        asked: list[Link] = []
        answers, errors = [], []
        with self.undivided():
            for link, content in reversed(list(zip(self.links, contents, strict=True))):
                try:
                    link.send(word, content)
                    asked.append(link)
                except Exception as error:
                    errors.append(error)
            for link in reversed(asked):
                try:
                    answers.append(link.receive())
                except Exception as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return answers

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """What is begun within is brought to its end; where it is broken off nonetheless all of them are ended.

        After a KeyboardInterrupt nobody knows whose answers were read, and each later question would get another's.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all of them, whatever one of them raises."""
        with ExitStack() as stack:
            for link in self.links:
                stack.callback(link.close)

    def gather(self, word: str, into: Tensor, content: Mapping[str, Any] | None = None) -> Tensor:
        """Ask for a part of a flat buffer, and put all parts where they belong."""
        for part, answer in zip(self.ranges, self.ask(word, content), strict=True):
            part.of(into).copy_(answer)
        return into


class ShardedPath(ChosenPath):
    """The commit path of a server whose shards commit.

    Args:
        asked, whole, groups: what was asked for, and the path that a server would take which holds all weights.
        shards: that commit.
    """

    def __init__(self, asked: str, whole: CommitPath, groups: Sequence[ParameterGroup], shards: Shards) -> None:
        self.path = whole  # says what a commit is; its own state stays zero, and takes no memory
        self._asked, self._groups, self._shards, self._ready = asked, groups, shards, False
        self._groups_of = [part.group_numbers(groups) for part in shards.ranges]
        self._ups: dict[int, Tensor] = {}

    @property
    def reads_backup(self) -> bool:
        """No: each shard reads its own part of it."""
        return False

    def wants_probe(self, version: int, *, staleness: int) -> bool:
        """None is made: a probe is of the whole vector."""
        return False

    def comes_in(self, worker: int, up: Tensor | None) -> None:
        """Gradients of this worker come in memory that the shards know; None: they do so no longer."""
        if up is None:
            self._ups.pop(worker, None)
        else:
            self._ups[worker] = up

    def lies_in_place(self, worker: int, gradient: Tensor) -> bool:
        """Whether a gradient lies in that memory."""
        up = self._ups.get(worker)
        return up is not None and up.data_ptr() == gradient.data_ptr()

    def fetch(self, worker: int, gradient: Tensor) -> None:
        """Put the parts of a gradient that lie with shards alone where the first one's lies."""
        if not self.lies_in_place(worker, gradient):
            return
        asked = [link.apart and not link.carries(worker) for link in self._shards.links]
        if any(asked):
            parts = self._shards.ask("gradient", {"worker": worker})
            for place, part, is_asked in zip(self._shards.ranges, parts, asked, strict=True):
                if is_asked:
                    place.of(gradient).copy_(part)

    def apply(
        self,
        weights: Tensor,
        parts: Sequence[Part],
        *,
        measure: bool,
        mirrors: Sequence[Tensor],
        absent: Sequence[int] = (),
    ) -> tuple[float | None, tuple[Quality, ...] | None]:
        """Have every shard apply its part of one commit; what they measured is added up."""
        common = {"version": parts[0].facts.version, "measure": measure, "absent": list(absent)}
        contents = [
            common | {"parts": [self._told(part, number) for part in parts]} for number in range(len(self._groups_of))
        ]
        squares = self._shards.ask_each("apply", contents)
        if not measure:
            return None, None
        first, second = (sum(values) for values in zip(*squares, strict=True))
        return math.sqrt(first / second) if second > 0.0 else 0.0, None

    def _told(self, part: Part, number: int) -> list[Any]:
        """What one shard is told of a contribution: the gradient goes along where it does not lie there already."""
        link, place = self._shards.links[number], self._shards.ranges[number]
        there = self.lies_in_place(part.worker, part.gradient) and not link.carries(part.worker)
        gradient = None if there else place.of(part.gradient)
        return [part.worker, _plain(part.facts, self._groups_of[number]), part.weight, gradient]

    def _make_ready(self, **how: bool) -> None:
        """Make every shard's path ready; all take the same one, made by the same compiler."""
        answers = self._shards.ask("prepare", {"path": self.path.name, **how})
        made = sorted({answer["made_by"] for answer in answers})
        if len(made) > 1:
            raise CompileError(
                f"the shards' machines compile commits otherwise ({'; '.join(made)}), and would round otherwise. Use "
                "commit_path='exact'."
            )

    def state_dict(self) -> dict[str, Any]:
        """As of one path for all weights."""
        return joined_path(self._shards.ask("path"), self._shards.ranges, len(self.path.layout.shapes))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """No gradient lies where the shards know; the state each of them loads with everything else."""
        self._ups.clear()

    def state_bytes(self) -> int:
        """Bytes of state held now, by all shards."""
        return sum(answer["state"] for answer in self._shards.ask("bytes"))


class ShardedBackups(Backups):
    """Backups of which each shard keeps its part.

    Args:
        shards: that keep them.
        first: what the first of them keeps: which version each worker last read is the same everywhere.
    """

    def __init__(self, shards: Shards, first: Backups) -> None:
        super().__init__()
        self._shards, self._first = shards, first

    def keep_in(self, worker: int, place: Tensor) -> None:
        """The worker's backup lies in ``place`` from now on; its shards were told, see `keep_both`."""
        self._places[worker] = place

    def keep_both(self, worker: int, down: Memory, up: Memory) -> None:
        """Every shard keeps its part of the backup in ``down``, and finds its part of a gradient in ``up``."""
        with self._shards.undivided():
            for link in self._shards.links:
                link.keep_in(worker, down, up)
        self.keep_in(worker, down.flat)
        if worker in self._first and any(link.carries(worker) for link in self._shards.links):
            self._shards.gather("backup", down.flat, {"worker": worker})

    def __contains__(self, worker: int) -> bool:
        """Whether it is known what this worker last read."""
        return worker in self._first

    def version_of(self, worker: int) -> int:
        """The version this worker last read; 0 where it has no backup."""
        return self._first.version_of(worker)

    def wrote(self, worker: int, version: int) -> None:
        """The shards that wrote it know."""

    def of(self, worker: int) -> Tensor:
        """The backup of this worker, flat; where it has no place of its own, put together anew."""
        if worker in self._places:
            return self._places[worker]
        return torch.cat(self._shards.ask("backup", {"worker": worker}))

    def hand_out(self, worker: int, version: int, weights: Tensor, *, copy: bool) -> Tensor:
        """The shards' weights of this version for this worker; see the base class."""
        place, links = self._places.get(worker), self._shards.links
        told = {"worker": worker, "version": version, "copy": copy and place is None}
        carried = any(link.carries(worker) for link in links)
        if place is not None and self._first.stands(worker, version) and not carried:
            self._shards.tell("hand out", told | {"wanted": False})
            return place.clone() if copy else place
        answers = self._shards.ask_each(
            "hand out", [told | {"wanted": place is None or link.carries(worker)} for link in links]
        )
        if place is None:
            return torch.cat(answers)
        for part, answer in zip(self._shards.ranges, answers, strict=True):
            if answer is not None:
                part.of(place).copy_(answer)
        return place.clone() if copy else place

    def begin(self, worker: int, weights: Tensor) -> None:
        """A worker joins at version 0; see the base class."""
        self._shards.tell("begin", {"worker": worker, "version": 0})

    def drop(self, worker: int) -> None:
        """Forget the backup of this worker, and its place."""
        self._shards.tell("drop", {"worker": worker})
        self._places.pop(worker, None)

    def bytes_held(self) -> int:
        """Bytes of all copies, free ones and places included, of all shards."""
        return sum(answer["backups"] for answer in self._shards.ask("bytes"))

    def state_dict(self) -> dict[str, Any]:
        """As of the backups of one server."""
        found: dict[str, Any] = joined(self._shards.ask("backups"))
        return found

    def load_state_dict(self, state: Mapping[str, Any], *, like: Tensor) -> None:
        """No backup has a place of its own now; what they are, the shards load with everything else."""
        self._places.clear()


def parts_of(state: Mapping[str, Any], ranges: Sequence[Range]) -> list[dict[str, Any]]:
    """What each shard is to load of a server's whole state."""
    return [
        {
            "to": state["version"],
            "weights": part.of(state["weights"]),
            "backups": split(state["backups"], part),
            "path": split_path(state["path"], part),
        }
        for part in ranges
    ]


def _plain(facts: Facts, groups: Sequence[int]) -> list[Any]:
    """What a shard is told of a commit; each of its groups has the learning rate of the run's."""
    rates = [facts.rates[number] for number in groups] if facts.rates else []
    return [facts.staleness, facts.lr, facts.version, facts.live, facts.step, facts.samples, rates]
