"""The log of a run: a header and one line per event, in segments that are closed, compressed and never written again.

The header is a JSON object, the first line of the first segment; an event is a JSON array that begins with its kind.
Only the last line may be torn. `tardigrad.segments` says how segments lie on the disk.

Imports no torch.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tardigrad.durable import GrowingFile, told_if_full
from tardigrad.errors import RunDirectoryError
from tardigrad.segments import (
    CURRENT,
    UNREADABLE,
    Position,
    chained,
    damaged,
    not_compressed,
    open_segments,
    pack,
    remove_unfinished,
    segment_name,
)

FORMAT = 2
SEGMENT_BYTES = 16 << 20


# -- writing -------------------------------------------------------------------------------------------------


class LogWriter:
    """Writes a log, line by line, and compresses what is closed beside it, in a thread.

    Args:
        directory: of the run.
        header: of a new log; None: go on with ``resume``.
        resume: where the log was `cut_back` to.
        segment_bytes: a segment that is longer is closed.

    Raises:
        RunDirectoryError: the disk is full (here and in every method); or the log does not end at ``resume``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        header: Mapping[str, Any] | None = None,
        resume: Position | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._limit = segment_bytes
        self._segment = 1 if resume is None else resume.segment
        self._before = "" if resume is None else resume.before
        self._packer = _Packer(directory)
        self._file = GrowingFile(directory / CURRENT, None if resume is None else resume.bytes)
        remove_unfinished(directory)
        for number in sorted(not_compressed(directory)):
            self._packer.add(number)  # closed by a process that ended before it compressed them
        if header is not None:
            self.write(json.dumps(header) + "\n")
            self.flush()

    def write(self, line: str) -> None:
        """Add one line of ASCII, line break included."""
        self._file.write(line)
        if self._file.length > self._limit:
            self._rotate()

    def flush(self) -> None:
        """Hand everything to the system, so that a reader sees it."""
        self._file.flush()

    def position(self) -> Position:
        """Where the log ends now. Nothing is read again for it, and nothing waits for the disk."""
        return Position(self._file.length, self._file.checksum(), self._segment, self._before)

    def close(self) -> None:
        """Close the file, and wait until the closed segments are compressed."""
        self._file.close()
        self._packer.close()

    def _rotate(self) -> None:
        """Close the segment and begin the next; between the two steps the log is whole, but for its empty end."""
        before = chained(self._before, self._file.checksum())
        closed = self._directory / segment_name(self._segment)
        with told_if_full(closed, "Make room; a run with a checkpoint goes on from there."):
            os.replace(self._directory / CURRENT, closed)
        self._file.close()
        self._file = GrowingFile(self._directory / CURRENT)
        self._packer.add(self._segment)
        self._segment, self._before = self._segment + 1, before


class _Packer:
    """Compresses closed segments in a thread of its own, begun with the first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers: SimpleQueue[int | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, number: int) -> None:
        """Compress this one, soon."""
        self._numbers.put(number)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tardigrad-log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the last."""
        if self._thread is not None:
            self._numbers.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (number := self._numbers.get()) is not None:
            with suppress(OSError):  # a full disk, say: it stays as it is, and is as good
                pack(self._directory, number)


# -- reading -------------------------------------------------------------------------------------------------


def read_header(directory: Path) -> dict[str, Any]:
    """The first line of the log: what a replay needs to know.

    Raises:
        RunDirectoryError: the log is missing, empty, or does not begin with an object.
    """
    for _, _, value in read_lines(directory):
        if isinstance(value, dict):
            return value
        break
    raise RunDirectoryError(
        f"{directory / CURRENT} does not begin with a header object: it is not the log of a run. "
        "Train the run again into a new directory."
    )


def read_events(directory: Path, *, start: int | Position = 0, kind: str | None = None) -> Iterator[list[Any]]:
    """The events in order, over all segments, read as they are asked for; a torn last line is passed over.

    Args:
        directory: of the run.
        start: how many events are passed over, >= 0, or a position that begins a line.
        kind: only events of this kind, such as "commit"; others are not parsed.

    Raises:
        RunDirectoryError: a segment is missing, or a line before the last cannot be read; the message names both.
    """
    for _, _, value in read_lines(directory, start=start, kind=kind):
        if isinstance(value, list):
            yield value


def read_lines(
    directory: Path, *, start: int | Position = 0, kind: str | None = None
) -> Iterator[tuple[Path, int, dict[str, Any] | list[Any]]]:
    """File, number and value of each line, the header included; else as `read_events`."""
    wanted = f'["{kind}"'.encode() if kind else b""
    left = start if isinstance(start, int) else 0
    broken: RunDirectoryError | None = None
    for path, number, line in _raw_lines(directory, start if isinstance(start, Position) else None):
        if broken is not None:
            raise broken
        if not line.strip():
            continue
        if left and line.startswith(b"["):
            left -= 1
        elif line.startswith(wanted):
            try:
                value = json.loads(line)
            except ValueError as error:
                broken = damaged(path, f"line {number}: {error}")
                continue
            if not isinstance(value, list | dict):
                raise damaged(path, f"line {number} is no event")
            yield path, number, value


def _raw_lines(directory: Path, start: Position | None) -> Iterator[tuple[Path, int, bytes]]:
    passed = 0 if start is None else start.bytes
    for path, file in open_segments(directory, 1 if start is None else start.segment):
        number = 0
        try:
            with file:
                for number, line in enumerate(file, 1):
                    if passed <= 0:
                        yield path, number, line
                    else:
                        passed -= len(line)
        except UNREADABLE as error:
            raise damaged(path, f"after line {number}: {error}") from error
        passed = 0
