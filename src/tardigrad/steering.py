"""Steering: a run with real workers shows itself to the outside and takes wishes from there, by two small files.

Files and no socket: whoever may read the run directory may watch it, nothing listens, and nothing is left to clean
up. At a run's end they are removed: summary.json or a checkpoint then say how it ended, and a second account could
only be an older one. See `tardigrad.presence` for what is in them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tardigrad.engines.base import Observer, View
from tardigrad.presence import FORMAT, MOST_WORKERS, REQUEST, STATUS, ProcessMark, write_beside
from tardigrad.records import Failure

_EVENTS = 20  # shown
_EVERY = 1.0  # seconds between two statuses
_PACE_OVER = 6  # statuses over which samples per second are measured


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a pace is measured by: samples applied, and pushes by worker."""

    now: float
    samples: int
    pushes: Mapping[int, int]


class Steering(Observer):
    """Writes a run's status and reads what is wished for; nothing that goes wrong with either ends the run.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mark = dataclasses.asdict(ProcessMark.own())
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._seen: deque[_Seen] = deque(maxlen=_PACE_OVER)
        self._next: float | None = None
        self._wished: int | None = None
        self._time = 0.0
        self._broken: set[str] = set()
        self._remove(REQUEST)  # a wish that came too late for an earlier life of this run
        self._write({})  # from here on nobody takes the run for one that was killed

    def tick(self, now: float, view: View) -> int | None:
        """At most once a second write the status and look for a wish.

        Args:
            now: seconds of any clock that only goes forward.
            view: what is known of the run.

        Returns:
            How many workers are wished for, from 1 to `MOST_WORKERS`, once for each wish; else None.
        """
        if self._next is not None and now < self._next:
            return None
        self._next, self._time = now + _EVERY, view.time
        wish = self._wish()
        self._wished = wish or self._wished
        self._seen.append(_Seen(now, view.samples, {worker.worker: worker.pushes for worker in view.workers}))
        self._write(dataclasses.asdict(view) | self._pace())
        return wish

    def close(self) -> None:
        """The run has ended: remove the files."""
        for name in (STATUS, REQUEST):
            self._remove(name)

    def failed(self, time: float, failure: Failure) -> None:
        """One line."""
        self._tell(time, "failed", in_words(failure))

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """One line."""
        self._tell(time, "joined", f"worker {worker} (life {incarnation}) takes part")

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """One line; of a worker that failed there is one already."""
        if reason != "failed":
            self._tell(time, "left", f"worker {worker} (life {incarnation}) takes part no longer: {reason}")

    def noted(self, time: float, words: str) -> None:
        """One line."""
        self._tell(time, "note", words)

    def _tell(self, time: float, kind: str, words: str) -> None:
        self._events.append({"time": round(time, 3), "kind": kind, "words": words})

    def _pace(self) -> dict[str, Any]:
        """Samples, and each worker's pushes, per second over the last seconds; None before there are two views."""
        first, last = self._seen[0], self._seen[-1]
        samples = _rate(last.samples - first.samples, last.now - first.now)
        return {
            "samples_per_second": samples,
            "pushes_per_second": {worker: self._pushes(worker) for worker in last.pushes},
        }

    def _pushes(self, worker: int) -> float | None:
        """Of a worker that was added meanwhile: since then."""
        views = [seen for seen in self._seen if worker in seen.pushes]
        first, last = views[0], views[-1]
        return _rate(last.pushes[worker] - first.pushes[worker], last.now - first.now)

    def _wish(self) -> int | None:
        """Take the request, if there is one. It is renamed first: one that is written meanwhile is a new one."""
        taken = self._directory / "request.taken"
        try:
            os.replace(self._directory / REQUEST, taken)
            with taken.open(encoding="utf-8", errors="replace") as file:
                text = file.read(1000)
            taken.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain(REQUEST, f"could not be read: {error}")
            return None
        self._broken.discard(REQUEST)
        return self._understood(text)

    def _understood(self, text: str) -> int | None:
        with suppress(ValueError):
            content = json.loads(text)
            wish = content.get("workers") if isinstance(content, dict) else None
            if type(wish) is int and 1 <= wish <= MOST_WORKERS:
                return wish
        example = '{"workers": 6}'
        self.noted(self._time, f"{REQUEST} was passed over: {text[:60]!r} is not like {example}, 1 to {MOST_WORKERS}")
        return None

    def _write(self, known: Mapping[str, Any]) -> None:
        content = {"format": FORMAT, "process": self._mark, "wished": self._wished, "events": list(self._events)}
        try:
            write_beside(self._directory / STATUS, content | dict(known))
            self._broken.discard(STATUS)
        except OSError as error:
            self._complain(STATUS, f"could not be written: {error}")
        except ValueError as error:  # a number that is not finite
            self._complain(STATUS, f"was left as it was: {error}")

    def _complain(self, name: str, words: str) -> None:
        """Once, until it works again: a full disk stays full for more than a second."""
        if name not in self._broken:
            self.noted(self._time, f"{name} {words}")
        self._broken.add(name)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            (self._directory / name).unlink(missing_ok=True)


def _rate(number: int, seconds: float) -> float | None:
    return round(number / seconds, 3) if seconds > 0.0 else None


def in_words(failure: Failure) -> str:
    """A failure in one line: who, how, when; of what was raised the last line."""
    words = f"worker {failure.worker} (life {failure.incarnation}) {failure.kind} at version {failure.version}"
    if failure.exit_code is not None:
        words += f", exit code {failure.exit_code}"
    lines = failure.traceback.strip().splitlines()
    return f"{words}: {lines[-1].strip()}" if lines else words
