"""The segments of a log on disk: their names, opening them, going back to a position.

    log.jsonl               the segment that grows
    log-000001.jsonl.gz     closed ones, in order, compressed
    log-000002.jsonl        a closed one that is not compressed yet

Where both forms of a closed segment are there they hold the same. Segment n + 1 is `log.jsonl` where n is the last
closed one. Whatever instant a process ends at, the log can be read and gone on with.

Imports no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

from tardigrad.durable import PIECE, checksum, checksum_of, rename, sync, told_if_full
from tardigrad.errors import RunDirectoryError

CURRENT = "log.jsonl"
UNREADABLE = (EOFError, gzip.BadGzipFile, zlib.error)
_LEVEL = 6  # of gzip: the highest one takes three times as long for less than 1 %
_CLOSED = re.compile(r"log-(\d{6,})\.jsonl(\.gz)?")
_BESIDE = re.compile(r"log-\d{6,}\.jsonl(\.gz)?\.tmp")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a growing file reached at one moment, and what it held.

    Attributes:
        bytes: of the file, or of the log's segment, as if it were not compressed.
        blake2b: checksum of these bytes.
        segment: of the log, from 1; 0 for a file without segments.
        before: checksum of the checksums of all segments before this one; empty for the first.
    """

    bytes: int
    blake2b: str
    segment: int = 0
    before: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data; ``Position(**plain)`` is the inverse."""
        return asdict(self)


def is_log_file(name: str) -> bool:
    """Whether a file of this name is part of a log, or was to become one."""
    return name == CURRENT or any(pattern.fullmatch(name) for pattern in (_CLOSED, _BESIDE))


def has_log(directory: Path) -> bool:
    """Whether there is any segment."""
    return (directory / CURRENT).is_file() or bool(_closed(directory))


def pack(directory: Path, number: int) -> None:
    """Compress one segment beside it, then remove it; whichever is there is whole."""
    plain, packed = directory / segment_name(number), directory / f"{segment_name(number)}.gz"
    beside = packed.with_name(f"{packed.name}.tmp")
    try:
        with plain.open("rb") as source, beside.open("wb") as target:
            with gzip.GzipFile("", "wb", _LEVEL, target, mtime=0) as stream:  # no name, no time: the same bytes again
                shutil.copyfileobj(source, stream, PIECE)
            target.flush()
            os.fsync(target.fileno())
        rename(beside, packed)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    plain.unlink()


def put_on_disk(directory: Path) -> None:
    """Wait until all that was flushed is on the disk. May be called from any thread, while the log grows.

    The current segment goes first: if it is closed meanwhile, it was open here or is among the closed ones below.
    """
    with suppress(FileNotFoundError):
        sync(directory / CURRENT)
    for number in not_compressed(directory):
        with suppress(FileNotFoundError):  # compressed meanwhile, which was put on the disk before it was renamed
            sync(directory / segment_name(number))
    sync(directory)


# -- opening -----------------------------------------------------------------------------------------------


def open_segments(directory: Path, first: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """The segments in order, opened; a log that grows ends for its reader where it ended when the last was opened."""
    for number in count(first):
        path, file = _open(directory, number)
        yield path, file
        if path.name == CURRENT:
            return


def _open(directory: Path, number: int) -> tuple[Path, IO[bytes]]:
    """Open one segment, which may be closed or compressed at this very moment."""
    current = directory / CURRENT
    if not directory.is_dir():
        raise _missing(current)
    while True:
        closed = _open_closed(directory, number)
        if closed is not None:
            return closed
        file: IO[bytes] | None = None
        with suppress(FileNotFoundError):
            file = current.open("rb")
        known = _closed(directory)
        if not known or max(known) < number:  # so what was opened was this segment, whatever happens to its name
            return current, _nothing_or(current, file, number)
        if file is not None:
            file.close()
        if number not in known:
            raise _missing(directory / f"{segment_name(number)}.gz")


def _nothing_or(current: Path, file: IO[bytes] | None, number: int) -> IO[bytes]:
    """The file; or nothing where a process ended between closing a segment and beginning the next."""
    if file is None and number == 1:
        raise _missing(current)
    return file if file is not None else open(os.devnull, "rb")


def _open_closed(directory: Path, number: int) -> tuple[Path, IO[bytes]] | None:
    plain = directory / segment_name(number)
    packed = plain.with_name(f"{plain.name}.gz")
    with suppress(FileNotFoundError):
        return plain, plain.open("rb")
    with suppress(FileNotFoundError):
        return packed, cast(IO[bytes], gzip.open(packed, "rb"))
    return None


def segment_name(number: int) -> str:
    """What a closed segment is called that is not compressed."""
    return f"log-{number:06d}.jsonl"


def remove_unfinished(directory: Path) -> None:
    """Remove what a process that ended had begun to compress."""
    for path in directory.iterdir():
        if _BESIDE.fullmatch(path.name):
            path.unlink()


def _closed(directory: Path) -> set[int]:
    """Numbers of the closed segments."""
    if not directory.is_dir():
        return set()
    return {int(found[1]) for path in directory.iterdir() if (found := _CLOSED.fullmatch(path.name))}


def not_compressed(directory: Path) -> list[int]:
    """Numbers of those that are not compressed, or not only."""
    found = (_CLOSED.fullmatch(path.name) for path in directory.iterdir())
    return [int(match[1]) for match in found if match and not match[2]]


def _missing(path: Path) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} is missing: {path.parent} is not a whole run directory. Train the run again, or leave this one out."
    )


def damaged(path: Path, why: str) -> RunDirectoryError:
    """What is said of a file that cannot be read."""
    return RunDirectoryError(
        f"{path} is damaged ({why}). Delete {path.parent} and train the run again, or leave it out."
    )


# -- positions -----------------------------------------------------------------------------------------------


def require_whole(path: Path, position: Position) -> None:
    """Refuse a growing file, or a log with its segments, that is not up to there what it was.

    Raises:
        RunDirectoryError: it is torn, was altered, or is missing; the message names the file.
    """
    if not position.segment:
        _require(path, checksum(path, position.bytes) if path.is_file() else None, position.blake2b)
        return
    directory, before = path.parent, ""
    for number in range(1, position.segment):
        place, file = _open(directory, number)
        before = chained(before, _read_checksum(place, file, None))
    if before != position.before:
        names = f"{segment_name(1)}.gz to {segment_name(position.segment - 1)}.gz"
        raise RunDirectoryError(f"One of {names} in {directory}, which a checkpoint needs, was altered.")
    place, file = _open(directory, position.segment)
    _require(place, _read_checksum(place, file, position.bytes), position.blake2b)


def cut_back(path: Path, position: Position, undone: Path) -> None:
    """Let a growing file, or a log, end at a position; what came after goes to ``undone``, if there is any.

    A process that ends in between leaves a log that still holds the position, and may be cut back again.
    """
    beside = undone.with_name(f"{undone.name}.tmp")
    try:
        with told_if_full(undone, "Nothing was undone yet; make room."):
            if _tail(path, position, beside):
                rename(beside, undone)
    finally:
        beside.unlink(missing_ok=True)
    if position.segment:
        _make_current(path.parent, position.segment)
    with path.open("r+b" if path.exists() else "w+b") as file:
        if file.seek(0, os.SEEK_END) < position.bytes:
            raise damaged(path, f"it holds less than {position.bytes} bytes")
        file.truncate(position.bytes)
        os.fsync(file.fileno())
    sync(path.parent)


def _tail(path: Path, position: Position, beside: Path) -> bool:
    """Write what comes after the position, a piece at a time; whether there was any."""
    places = open_segments(path.parent, position.segment) if position.segment else iter([(path, path.open("rb"))])
    start = position.bytes
    with beside.open("wb") as target:
        for _, file in places:
            with file:
                file.seek(start)
                shutil.copyfileobj(file, target, PIECE)
            start = 0
        target.flush()
        os.fsync(target.fileno())
        return target.tell() > 0


def _make_current(directory: Path, segment: int) -> None:
    """Make this segment the one that grows: what is later goes first, so that at every step the rest is a log."""
    later = sorted((number for number in _closed(directory) if number >= segment), reverse=True)
    if not later:
        return
    (directory / CURRENT).unlink(missing_ok=True)
    for number in later:
        plain = directory / segment_name(number)
        packed = plain.with_name(f"{plain.name}.gz")
        if number == segment and not plain.exists():
            _unpack(packed, plain)
        packed.unlink(missing_ok=True)
        if number > segment:
            plain.unlink(missing_ok=True)
    os.replace(directory / segment_name(segment), directory / CURRENT)


def _unpack(packed: Path, plain: Path) -> None:
    beside = plain.with_name(f"{plain.name}.tmp")
    with gzip.open(packed, "rb") as source, beside.open("wb") as target:
        shutil.copyfileobj(source, target, PIECE)
    rename(beside, plain)


def _read_checksum(path: Path, file: IO[bytes], length: int | None) -> str:
    """The checksum of an open segment, or of its first ``length`` bytes."""

    def content() -> Iterator[bytes]:
        left = length
        while piece := file.read(PIECE if left is None else min(PIECE, left)):
            left = None if left is None else left - len(piece)
            yield piece

    try:
        with file:
            return checksum_of(content())
    except UNREADABLE as error:
        raise RunDirectoryError(f"{path}, which a checkpoint needs, is torn or was altered: {error}") from error


def _require(path: Path, found: str | None, known: str) -> None:
    if found is None:
        raise RunDirectoryError(f"{path}, which a checkpoint needs, is missing.")
    if found != known:
        raise RunDirectoryError(f"{path}, which a checkpoint needs, is torn or was altered: its checksum is another.")


def chained(before: str, digest: str) -> str:
    """The checksum of all segments so far: of the one for those before, and this segment's."""
    return hashlib.blake2b(f"{before}{digest}".encode(), digest_size=16).hexdigest()
