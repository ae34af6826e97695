"""A delay that was recorded: every worker replays the seconds of one that was.

Three sources are read:

* CSV with the header ``worker,seconds`` (other columns are passed over), one line for each gradient, in order;
* JSON lines, ``{"worker": 0, "seconds": 1.37}``, likewise;
* a run directory: for each gradient the time between its pull and its arrival (commit, rejection, or the beginning of
  its wait for others), from the log.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from tardigrad.delays.base import Delay, Draw
from tardigrad.errors import InvalidArgument, RunDirectoryError
from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.logs import read_header, read_lines
from tardigrad.segments import CURRENT, has_log

Recorded = Iterable[tuple[str, object, object]]
"""(where it stands, worker, seconds) of each gradient, in order; not checked yet."""

_SHORTEST = 1e-6  # seconds: logs are kept to the microsecond
_ACCEPTED = (
    "Give a CSV file with the header worker,seconds, a file with a line like "
    '{"worker": 0, "seconds": 1.37} for each gradient, or a run directory.'
)


@dataclass(frozen=True, slots=True)
class Trace(Delay):
    """Recorded seconds, replayed: from a CSV file, from JSON lines or from a run directory.

    Worker w replays the w-th of the recorded workers, and begins again when they are used up. Where fewer were
    recorded they are reused in turn; who replays a recording that another one replays already starts at a random
    place of it, so that the two do not run in step.

    Args:
        path: the file or run directory, read once, when the delay is built.
        mean: in seconds; all are scaled by one factor so that the mean over all recorded gradients is this. None: as
            recorded.
    """

    path: str
    mean: float | None = None
    recorded: tuple[tuple[float, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read and check what was recorded."""
        if not isinstance(self.path, str):
            raise InvalidArgument(f"delay 'trace': path={self.path!r} is not a path in quotes. {_ACCEPTED}")
        workers = _by_worker(_read(Path(self.path).expanduser()))
        if not workers:
            raise InvalidArgument(f"delay 'trace': {self.path} holds no delays. {_ACCEPTED}")
        factor = 1.0
        if self.mean is not None:
            require_number(
                "delay 'trace'", "mean", self.mean, low=0.0, high=math.inf, include_low=False, include_high=False
            )
            factor = self.mean / float(np.mean(list(chain.from_iterable(workers))))
        scaled = tuple(tuple(seconds * factor for seconds in own) for own in workers)
        object.__setattr__(self, "recorded", scaled)

    def draws(self, stream: np.random.Generator) -> Draw:
        """The first recorded worker's."""
        return self.draws_of(0, stream)

    def draws_of(self, worker: int, stream: np.random.Generator) -> Draw:
        """What the worker's namesake took, over and over."""
        turn, which = divmod(worker, len(self.recorded))
        own = self.recorded[which]
        start = int(stream.integers(len(own))) if turn else 0
        return _replay(own, start).__next__


def _replay(own: tuple[float, ...], start: int) -> Iterator[float]:
    """The numbers from one place on, over and over."""
    place = start
    while True:
        yield own[place]
        place = (place + 1) % len(own)


def _by_worker(recorded: Recorded) -> list[list[float]]:
    """Checked seconds of each worker in order, workers by number."""
    workers: dict[int, list[float]] = {}
    for place, worker, seconds in recorded:
        number = require_integer(f"delay 'trace': {place}", "worker", worker, low=0)
        value = require_number(
            f"delay 'trace': {place}", "seconds", seconds, low=0.0, high=math.inf, include_low=False, include_high=False
        )
        workers.setdefault(number, []).append(value)
    return [workers[number] for number in sorted(workers)]


def _read(path: Path) -> Recorded:
    """The gradients that a file or a run directory tells of."""
    if path.is_dir() and has_log(path):
        return _from_log(path)
    path = path / CURRENT if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidArgument(f"delay 'trace': {path} cannot be read ({error.strerror}). {_ACCEPTED}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"delay 'trace': {path} is not a text file. {_ACCEPTED}") from error
    return _from_json_lines(text, path) if text.lstrip().startswith("{") else _from_csv(text, path)


def _from_csv(text: str, file: Path) -> Recorded:
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        if not {"worker", "seconds"} <= set(rows.fieldnames or ()):
            raise InvalidArgument(
                f"delay 'trace': the first line of {file} does not name worker and seconds. {_ACCEPTED}"
            )
        for row in rows:
            yield f"{file} line {rows.line_num}", _as_number(row["worker"], int), _as_number(row["seconds"], float)
    except csv.Error as error:
        raise InvalidArgument(f"delay 'trace': {file} is not a CSV file ({error}). {_ACCEPTED}") from error


def _as_number(text: str | None, kind: type[int] | type[float]) -> object:
    """The number a cell holds, or else the cell, for the message."""
    try:
        return kind(text or "")
    except ValueError:
        return text


def _from_json_lines(text: str, file: Path) -> Recorded:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            place = f"{file} line {number}"
            record = _json(line, place)
            if not isinstance(record, dict):
                raise InvalidArgument(f"delay 'trace': {place} is not a line that can be read. {_ACCEPTED}")
            yield place, record.get("worker"), record.get("seconds")


def _from_log(directory: Path) -> Recorded:
    """Seconds from each pull to its arrival, as for a batch of the largest size in the log, which is read twice."""
    try:
        largest = max((samples for _, _, _, samples in _gradients(directory)), default=1)
        for place, worker, seconds, samples in _gradients(directory):
            yield place, worker, max(seconds, _SHORTEST) * largest / samples
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RunDirectoryError) as error:
        raise InvalidArgument(f"delay 'trace': {directory / CURRENT} is not the log of a run. {_ACCEPTED}") from error


def _gradients(directory: Path) -> Iterator[tuple[str, int, float, int]]:
    """(place, worker, seconds, samples) of each gradient that arrived; the header names the columns."""
    columns = read_header(directory)["events"]
    reading: dict[int, tuple[float, int]] = {}  # when each worker pulled, and the samples it was given
    for file, number, line in islice(read_lines(directory), 1, None):
        kind, *values = line
        event = dict(zip(columns[kind], values, strict=True))
        if kind == "pull":
            _, start, stop = event["lease"] or (0, 0, 1)
            reading[event["worker"]] = event["time"], stop - start
        parts = [dict(zip(columns["contribution"], part, strict=True)) for part in event.get("contributions", ())]
        for part in [event] if kind in ("held", "reject") else parts:
            if part["worker"] in reading:
                since, samples = reading.pop(part["worker"])
                yield f"{file} line {number}", part["worker"], event["time"] - since, samples


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"delay 'trace': {place} is not a line that can be read. {_ACCEPTED}") from error
