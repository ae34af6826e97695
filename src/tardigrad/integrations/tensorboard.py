"""TensorBoard: a run's curves as event files in its directory, wherever the package tensorboard is installed.

    tensorboard --logdir runs

The axis counts samples applied, so that runs with other numbers of workers or other batches lie on one axis. The
"relative" axis is the run's own clock: seconds, virtual ones in the simulator.

An event file is a row of records: length, checksum, one `Event` of protobuf, checksum. Package and format:
https://github.com/tensorflow/tensorboard, ``tensorboard/summary/writer/record_writer.py``.
"""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import time as clock
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tardigrad.engines.base import Evaluation, Observer
from tardigrad.records import Commit, Push, Rejected

PREFIX = "events.out.tfevents."
"""How the names of event files begin; TensorBoard looks for it."""
_EVERY = 25  # commits whose mean makes one point of a curve


def installed() -> bool:
    """Whether TensorBoard is there, and not switched off by TARDIGRAD_TENSORBOARD=off; nothing of it is imported."""
    return os.environ.get("TARDIGRAD_TENSORBOARD") != "off" and importlib.util.find_spec("tensorboard") is not None


def event_files(directory: Path, *, samples: int = 0) -> EventFiles | None:
    """What writes a run's curves; None where TensorBoard is not installed, or cannot be imported.

    Args:
        directory: of the run.
        samples: applied already, of a run that goes on: what the curves show beyond is taken back.
    """
    if not installed():
        return None
    try:
        return EventFiles(directory, samples=samples)
    except (ImportError, OSError):  # broken, or of another version; or a full disk, which the record will tell of
        return None


class EventFiles(Observer):
    """Writes loss, learning rate, staleness, refusals, evaluations and the user's own numbers as TensorBoard scalars.

    Its own curves are called ``tardigrad/loss`` and so on, and are means over 25 commits; evaluations are
    ``test/error``, split and score; the user's numbers have the names that the user gave. It never fails a run: where
    a file cannot be written any more, the curves end.

    Args:
        directory: of the run; it exists.
        samples: applied already.

    Raises:
        ImportError: there is no TensorBoard that can be imported.
        OSError: the file cannot be made.
    """

    def __init__(self, directory: Path, *, samples: int = 0) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._session = event_pb2.Event, summary_pb2.Summary, event_pb2.SessionLog
        self._begun = clock.time()
        self._offset: float | None = None  # between the run's clock and the wall's
        self._samples = samples
        self._rejected = 0
        self._commits = _Means()
        self._file = _new_file(directory, self._begun).open("wb", buffering=0)
        self._records: Any = RecordWriter(self._file)
        self._write(self._event(wall_time=self._begun, file_version="brain.Event:2"))
        if samples:
            log = self._session(status=self._session.START)
            self._write(self._event(wall_time=self._begun, step=samples + 1, session_log=log))

    def committed(self, time: float, commit: Commit) -> None:
        """Gather it; a point now and then."""
        self._samples += sum(part.samples for part in commit.contributions)
        self._commits.add(commit)
        if self._commits.number == _EVERY:
            self._point(time)

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """Count it."""
        self._rejected += 1

    def evaluated(self, evaluation: Evaluation) -> None:
        """A point for each score; an evaluation beside training arrives late, and stands where it belongs."""
        self._point(evaluation.time)
        splits = evaluation.scores.items()
        named = {f"{split}/{name}": value for split, scores in splits for name, value in scores.items()}
        self._scalars(evaluation.time, named, samples=evaluation.samples)

    def logged(self, time: float, worker: int, version: int, values: Mapping[str, float]) -> None:
        """A point for each number of the user's own."""
        self._scalars(time, values)

    def close(self) -> None:
        """Write what is gathered, and close the file; nothing happens after that."""
        if self._records is not None:
            self._point(self._commits.time)
            self._end()

    def _point(self, time: float) -> None:
        """One point of each of the run's own curves, if there was a commit since the last."""
        if self._commits.number:
            named = self._commits.scalars() | {"rejected": float(self._rejected)}
            self._scalars(time, {f"tardigrad/{name}": value for name, value in named.items()})
        self._commits = _Means(time)

    def _scalars(self, time: float, values: Mapping[str, float], *, samples: int | None = None) -> None:
        if self._offset is None:
            self._offset = self._begun - time
        made = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        at = self._samples if samples is None else samples
        self._write(self._event(wall_time=self._offset + time, step=at, summary=self._summary(value=made)))

    def _write(self, event: Any) -> None:
        """One record, which a reader sees at once: the file is not buffered."""
        if self._records is None:
            return
        try:
            self._records.write(event.SerializeToString())
        except OSError:  # most likely a full disk
            self._end()

    def _end(self) -> None:
        self._records = None
        self._file.close()


class _Means:
    """Sums over the commits since the last point."""

    def __init__(self, time: float = 0.0) -> None:
        self.number = 0
        self.time = time
        self._staleness = self._lr = self._loss = self._ratio = 0.0
        self._losses = self._ratios = 0

    def add(self, commit: Commit) -> None:
        self.number += 1
        self._lr = commit.lr
        self._staleness += commit.staleness
        for part in commit.contributions:
            if part.loss is not None and math.isfinite(part.loss):
                self._loss, self._losses = self._loss + part.loss, self._losses + 1
        if commit.compensation_ratio is not None:
            self._ratio, self._ratios = self._ratio + commit.compensation_ratio, self._ratios + 1

    def scalars(self) -> dict[str, float]:
        found = {"lr": self._lr, "staleness": self._staleness / self.number}
        if self._losses:
            found["loss"] = self._loss / self._losses
        if self._ratios:
            found["compensation_ratio"] = self._ratio / self._ratios
        return found


def _new_file(directory: Path, begun: float) -> Path:
    """A file that is not there yet, named as TensorBoard names them: second, host, process."""
    name = f"{PREFIX}{int(begun):010d}.{socket.gethostname()}.{os.getpid()}"
    number = 0
    while (path := directory / f"{name}.{number}").exists():
        number += 1
    return path
