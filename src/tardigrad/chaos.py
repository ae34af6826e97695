"""Chaos: faults to bring about on purpose, written as a script or drawn from a seed.

A script is a list of sentences separated by ``;``:

>>> planned = fault_plan("kill worker 2 at push 40; pause worker 1 at push 3 for 3 s", workers=4, pushes=500)
>>> print(describe(planned))
pause worker 1 at push 3 for 3 s; kill worker 2 at push 40 after 0.5 of a step

A seed draws the faults, as many as suit the number of workers and of pushes:

>>> print(describe(fault_plan("7", workers=2, pushes=100)))  # doctest: +ELLIPSIS
kill worker ...

The plan depends on the text, the workers and the pushes expected, and on nothing else: the same text brings about the
same faults in the simulator, in virtual time, and with real processes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

from numpy.random import Generator

from tardigrad.errors import InvalidArgument
from tardigrad.faults import OF_LINKS, Fault, FaultKind, FaultPlan
from tardigrad.seeding import random_stream

ENDING: frozenset[FaultKind] = frozenset({"kill", "raise", "hang"})
"""Faults after which a worker is restarted."""

_MOST_ENDINGS = 3  # of one worker in a seed's plan: as often as it is restarted by default
_PUSHES_FOR_A_FAULT = 8  # at least so many in a seed's plan, so that most of a run is work
_HANG_CHANCE = 0.25  # of a seed: a hang costs real workers half a minute
_SERVER_AT = (0.4, 0.95)  # part of the versions that even a synchronous run reaches

_NUMBER = r"(?P<{}>\d+)"
_SECONDS = r"(?P<seconds>\d+(?:\.\d+)?)"
_PATTERNS: dict[FaultKind, str] = {
    "kill": rf"kill worker {_NUMBER.format('worker')} at push {_NUMBER.format('at')}"
    r"(?: after (?P<moment>0(?:\.\d+)?) of a step)?",
    "raise": f"raise in worker {_NUMBER.format('worker')} at push {_NUMBER.format('at')}",
    "hang": f"hang worker {_NUMBER.format('worker')} at push {_NUMBER.format('at')}",
    "pause": f"pause worker {_NUMBER.format('worker')} at push {_NUMBER.format('at')} for {_SECONDS} ?s",
    "corrupt": f"corrupt push {_NUMBER.format('at')} of worker {_NUMBER.format('worker')}",
    "cut": f"cut worker {_NUMBER.format('worker')} at push {_NUMBER.format('at')} for {_SECONDS} ?s",
    "delay": rf"delay worker {_NUMBER.format('worker')} by (?P<milliseconds>\d+(?:\.\d+)?) ?ms"
    rf"(?: from push {_NUMBER.format('at')})?",
    "kill-server": f"kill server at version {_NUMBER.format('at')}",
}
ACCEPTED = (
    "kill worker 2 at push 40",
    "kill worker 2 at push 40 after 0.25 of a step",
    "raise in worker 1 at push 5",
    "hang worker 0 at push 9",
    "pause worker 1 at push 3 for 3 s",
    "corrupt push 7 of worker 0",
    "cut worker 2 at push 5 for 20 s",
    "delay worker 1 by 50 ms",
    "delay worker 1 by 50 ms from push 30",
    "kill server at version 100",
)
"""One sentence of each form that a script may have."""


def fault_plan(text: str, *, workers: int, pushes: int, unlinked: int = 0) -> FaultPlan:
    """What a configuration's ``chaos`` asks for.

    Args:
        text: empty; a seed, ``"7"``; a seed whose plan also kills the server once, ``"7+server"``; or a script.
            Pushes are counted from 1 for each worker over all its lives, workers from 0.
        workers: how many there are at first, >= 1.
        pushes: how many are expected in all, >= 0; only a seed's plan depends on it. See `expected_pushes`.
        unlinked: so many workers, those of the lowest numbers, are processes of the server's own machine: nothing lies
            between them and the server that could be cut or delayed.

    Raises:
        InvalidArgument: the text is none of these; the message lists what is accepted. Or it names the link of a
            worker that has none.
    """
    text = text.strip()
    seed = re.fullmatch(r"(\d+)(\s*\+\s*server)?", text, re.IGNORECASE)
    if seed:
        return FaultPlan(_drawn(int(seed[1]), workers, pushes, server=seed[2] is not None))
    faults = [_sentence(words, workers) for words in map(str.strip, text.split(";")) if words]
    _require_distinct(faults)
    _require_links(faults, unlinked)
    return FaultPlan(_sorted(faults))


def expected_pushes(samples: int, batch_size: int | Sequence[int], *, epochs: int) -> int:
    """How many pushes an undisturbed run makes, about: samples x epochs / mean batch, rounded up."""
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    return -(-samples * epochs * len(sizes) // sum(sizes))


def describe(plan: FaultPlan) -> str:
    """The plan as a script that asks for it; empty for a plan without faults."""
    return "; ".join(_WORDS[fault.kind](fault) for fault in plan.faults)


_WORDS: dict[FaultKind, Callable[[Fault], str]] = {
    "kill": lambda f: f"kill worker {f.worker} at push {f.at} after {f.moment:g} of a step",
    "raise": lambda f: f"raise in worker {f.worker} at push {f.at}",
    "hang": lambda f: f"hang worker {f.worker} at push {f.at}",
    "pause": lambda f: f"pause worker {f.worker} at push {f.at} for {f.seconds:g} s",
    "corrupt": lambda f: f"corrupt push {f.at} of worker {f.worker}",
    "cut": lambda f: f"cut worker {f.worker} at push {f.at} for {f.seconds:g} s",
    "delay": lambda f: f"delay worker {f.worker} by {1000.0 * f.seconds:g} ms from push {f.at}",
    "kill-server": lambda f: f"kill server at version {f.at}",
}


# -- scripts -----------------------------------------------------------------------------------------------------------


def _sentence(words: str, workers: int) -> Fault:
    """One sentence of a script."""
    plain = " ".join(words.lower().split())
    for kind, pattern in _PATTERNS.items():
        if found := re.fullmatch(pattern, plain):
            return _checked(words, _fault(kind, found.groupdict()), workers)
    raise InvalidArgument(
        f"chaos: {words!r} is not understood. Accepted is a seed such as '7', or '7+server', or sentences "
        f"separated by ';' such as: {'; '.join(ACCEPTED)}."
    )


def _fault(kind: FaultKind, found: dict[str, str | None]) -> Fault:
    moment = found.get("moment") or ("0.5" if kind == "kill" else "0")
    seconds = float(found.get("seconds") or 0.0) + float(found.get("milliseconds") or 0.0) / 1000.0
    return Fault(
        kind,
        at=int(found["at"] or (1 if kind == "delay" else 0)),
        worker=int(found.get("worker") or (0 if "worker" in found else -1)),
        seconds=seconds,
        moment=float(moment),
    )


def _checked(words: str, fault: Fault, workers: int) -> Fault:
    if fault.at < 1:
        raise InvalidArgument(f"chaos: {words!r}: pushes and versions are counted from 1.")
    if fault.worker >= workers:
        raise InvalidArgument(f"chaos: {words!r}: there are {workers} workers, numbered from 0 to {workers - 1}.")
    return fault


def _require_distinct(faults: Sequence[Fault]) -> None:
    """A worker's gradient has one fault at most."""
    for (worker, at), count in Counter((fault.worker, fault.at) for fault in faults).items():
        if count > 1:
            where = f"push {at} of worker {worker}" if worker >= 0 else f"version {at} of the server"
            raise InvalidArgument(f"chaos: {count} faults at {where}; name one.")


def _require_links(faults: Sequence[Fault], unlinked: int) -> None:
    named = next((fault for fault in faults if fault.kind in OF_LINKS and fault.worker < unlinked), None)
    if named is not None:
        raise InvalidArgument(
            f"chaos: {_WORDS[named.kind](named)!r}: worker {named.worker} is a process of the server's own machine, "
            "with no link that could be cut or delayed. Links have the simulator's workers, and with engine='joined' "
            "or 'ray' those that are not own_workers."
        )


def _sorted(faults: Sequence[Fault]) -> list[Fault]:
    """By worker and push, the server's last: the order in which they are described."""
    return sorted(faults, key=lambda fault: (fault.kind == "kill-server", fault.worker, fault.at))


# -- seeds -------------------------------------------------------------------------------------------------------------


def _drawn(seed: int, workers: int, pushes: int, *, server: bool) -> list[Fault]:
    """The faults of a seed: each at a worker and a push of its own, in the first nine tenths of the run."""
    stream = random_stream(seed, "chaos", workers, pushes)
    last = max(1, int(0.9 * pushes / workers))
    kept: dict[tuple[int, int], Fault] = {}
    endings: Counter[int] = Counter()
    for kind in _kinds(stream, workers)[: max(1, pushes // _PUSHES_FOR_A_FAULT)]:
        fault = _draw(stream, kind, workers, last)
        if (fault.worker, fault.at) in kept or endings[fault.worker] + (kind in ENDING) > _MOST_ENDINGS:
            continue
        endings[fault.worker] += kind in ENDING
        kept[fault.worker, fault.at] = fault
    faults = list(kept.values())
    if server:
        part = float(stream.uniform(*_SERVER_AT))
        faults.append(Fault("kill-server", at=max(1, int(part * pushes / workers))))
    return _sorted(faults)


def _kinds(stream: Generator, workers: int) -> list[FaultKind]:
    """What goes wrong, in the order in which it is drawn: at least one kill, the first."""
    half = 1 + workers // 2
    counts: dict[FaultKind, int] = {
        "kill": int(stream.integers(0, half)),
        "raise": int(stream.integers(0, half)),
        "pause": int(stream.integers(0, half + 1)),
        "corrupt": int(stream.integers(0, half + 1)),
        "hang": int(stream.random() < _HANG_CHANCE),
    }
    names = [kind for kind in get_args(FaultKind) for _ in range(counts.get(kind, 0))]
    return ["kill", *(names[int(place)] for place in stream.permutation(len(names)))]


def _draw(stream: Generator, kind: FaultKind, workers: int, last: int) -> Fault:
    worker, at = int(stream.integers(workers)), int(stream.integers(1, last + 1))
    moment, seconds = round(float(stream.uniform(0.0, 0.95)), 2), round(float(stream.uniform(0.05, 0.5)), 2)
    return Fault(
        kind,
        at=at,
        worker=worker,
        seconds=seconds if kind == "pause" else 0.0,
        moment=moment if kind == "kill" else 0.0,
    )
