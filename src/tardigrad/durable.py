"""Files that no instant leaves half written: put beside their place, renamed; grown only at the end; and a full disk.

Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tardigrad.errors import RunDirectoryError

PIECE = 1 << 20  # bytes read at once
_BUFFER = 1 << 16  # characters kept before they are handed to the system
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file beside its place and rename it, so that a reader never sees half of it."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where there is none.

    Raises:
        RunDirectoryError: it is not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged ({error}).") from error
    return content


def rename(beside: Path, path: Path) -> None:
    """Put a file in its place, and that on the disk."""
    os.replace(beside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Put a file's or a directory's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path, length: int | None = None) -> str:
    """The checksum of a file, or of its first ``length`` bytes."""
    return checksum_of(pieces(path, 0, length))


def checksum_of(content: Iterable[bytes]) -> str:
    """The checksum of bytes that come piece by piece."""
    state = hashlib.blake2b(digest_size=16)
    for piece in content:
        state.update(piece)
    return state.hexdigest()


def pieces(path: Path, start: int, stop: int | None = None) -> Iterator[bytes]:
    """The bytes ``[start, stop)`` of a file, a piece at a time; None: to its end."""
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(PIECE if stop is None else min(PIECE, stop - start)):
            start += len(piece)
            yield piece


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, or no more of it for this user."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def told_if_full(path: Path, consequence: str) -> Iterator[None]:
    """Say it in a sentence if the disk is full: which file, and ``consequence``.

    Raises:
        RunDirectoryError: the disk is full. Any other error passes.
    """
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise full(path, consequence) from error


def full(path: Path, consequence: str) -> RunDirectoryError:
    """What is said when the disk is full."""
    return RunDirectoryError(f"{path} could not be written: the disk is full. {consequence}")


class GrowingFile:
    """A text file in ASCII that only grows, and knows the checksum of what it holds without reading it again.

    A write that fails keeps what was not written: where room is made, the next one goes on exactly there.

    Args:
        path: of the file.
        length: None: a new file. Else how many bytes it holds already, which are read once.

    Attributes:
        length: bytes it holds, those not handed to the system yet included.

    Raises:
        RunDirectoryError: it does not hold ``length`` bytes; or, here and in every other method, the disk is full.
    """

    __slots__ = ("_file", "_hash", "_lines", "_pending", "_rest", "length", "path")

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        self.length = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._lines: list[str] = []
        self._pending = 0
        self._rest = b""
        with self._told():
            self._file = path.open("wb" if length is None else "ab", buffering=0)
        if length is not None:
            for piece in pieces(path, 0, length):
                self._hash.update(piece)
            self.length = self._file.tell()
            if self.length != length:
                raise RunDirectoryError(f"{path} holds {self.length} bytes, not {length}: it was altered meanwhile.")

    def write(self, text: str) -> None:
        """Add ASCII text; it reaches the system with the next 64 KiB, or with `flush`."""
        self._lines.append(text)
        self.length += len(text)
        self._pending += len(text)
        if self._pending > _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the system, so that a reader sees it."""
        if self._lines:
            new = "".join(self._lines).encode("ascii")
            self._lines, self._pending = [], 0
            self._hash.update(new)
            self._rest += new
        with self._told():
            while self._rest:
                self._rest = self._rest[self._file.write(self._rest) :]

    def checksum(self) -> str:
        """Of all it holds, which is then with the system."""
        self.flush()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Flush, and close."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        with told_if_full(self.path, "Make room; a run with a checkpoint goes on from there."):
            yield
