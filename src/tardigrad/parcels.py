"""Parcels: the files of a run as they were at one moment, to be kept elsewhere while the run goes on.

Files that only grow are read as far as they had come. Those of a checkpoint are opened at once: they may be removed
before they are read, as newer ones are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from tardigrad.checkpoint import is_checkpoint_file, list_checkpoints
from tardigrad.directories import EVALUATIONS, lives
from tardigrad.durable import PIECE, pieces
from tardigrad.segments import CURRENT, Position, is_log_file, open_segments, segment_name

_PLAIN = ("config.json", "environment.json")
_ENDS = ("summary.json", "weights.safetensors")
_UNDONE = re.compile(r"undone-\d+(-evaluations)?\.jsonl")

Content = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a parcel.

    Attributes:
        name: in the run directory.
        content: gives its bytes piece by piece, the same each time.
        mark: of a file that nobody writes any more: as long as this is the same, so is its content; empty: of others.
    """

    name: str
    content: Content
    mark: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parcel:
    """What is to be kept of a run. Holds files open: close it, or use it as a context.

    Attributes:
        version: of the checkpoint; of a run that has ended, of the last one that is there, or 0.
        life: how often the run had been taken up again.
        ended: whether the run has ended.
        items: all files.
    """

    version: int
    life: int
    ended: bool
    items: tuple[Item, ...]
    _open: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def at_checkpoint(cls, directory: Path, *, version: int, growing: Mapping[str, Position]) -> Self:
        """A run as it was at a checkpoint that is written.

        Args:
            directory: of the run.
            version: of the checkpoint.
            growing: as of `write_checkpoint`: how much of the log and the evaluations belongs to it.

        Raises:
            OSError: a file cannot be opened.
        """
        with ExitStack() as opening:
            items = tuple(_at_checkpoint(directory, version, growing, opening))
            return cls(version, lives(directory), False, items, opening.pop_all())

    @classmethod
    def at_end(cls, directory: Path) -> Self:
        """A run that writes nothing any more: the whole log, summary and final weights.

        Raises:
            OSError: the directory cannot be read.
        """
        items = tuple(
            Item(path.name, partial(pieces, path, 0)) for path in sorted(directory.iterdir()) if belongs(path.name)
        )
        version = max(list_checkpoints(directory), default=0)
        return cls(version, lives(directory), (directory / _ENDS[0]).is_file(), items)

    def close(self) -> None:
        """It is kept, or not wanted any more."""
        self._open.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()


def belongs(name: str) -> bool:
    """Whether a file of this name is kept."""
    known = name in (*_PLAIN, *_ENDS, EVALUATIONS) or _UNDONE.fullmatch(name) is not None
    return not name.endswith(".tmp") and (known or is_log_file(name) or is_checkpoint_file(name))


def _at_checkpoint(
    directory: Path, version: int, growing: Mapping[str, Position], opening: ExitStack
) -> Iterator[Item]:
    for path in sorted(directory.iterdir()):
        if path.name in _PLAIN or _UNDONE.fullmatch(path.name):
            yield Item(path.name, partial(pieces, path, 0))
        elif _is_of(path.name, version):
            yield Item(path.name, partial(_from_beginning, opening.enter_context(path.open("rb"))))
    for name, position in growing.items():
        if name != CURRENT:
            yield Item(name, partial(pieces, directory / name, 0, position.bytes))
    yield from _log_until(directory, growing[CURRENT])


def _is_of(name: str, version: int) -> bool:
    """Whether a file is part of the checkpoint of this version."""
    whole = is_checkpoint_file(name) and not name.endswith(".tmp")
    return whole and re.fullmatch(rf"checkpoint-{version}[.-].*", name) is not None


def _from_beginning(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece


def _log_until(directory: Path, position: Position) -> Iterator[Item]:
    """The log up to a position: closed segments as they lie there, and of the last one its beginning."""
    for number in range(1, position.segment):
        yield _closed(directory, number)
    yield Item(CURRENT, partial(_beginning, directory, position))


def _closed(directory: Path, number: int) -> Item:
    """A closed segment, compressed or about to be; whichever is there is whole."""
    packed = directory / f"{segment_name(number)}.gz"
    if packed.is_file():
        found = packed.stat()
        return Item(packed.name, partial(pieces, packed, 0), (found.st_ino, found.st_size, found.st_mtime_ns))
    return Item(segment_name(number), partial(_plain_segment, directory, number))


def _plain_segment(directory: Path, number: int) -> Iterator[bytes]:
    _, file = next(iter(open_segments(directory, number)))  # compressed meanwhile, it reads the same
    with file:
        while piece := file.read(PIECE):
            yield piece


def _beginning(directory: Path, position: Position) -> Iterator[bytes]:
    left = position.bytes
    for piece in _plain_segment(directory, position.segment):
        yield piece[:left]
        left -= len(piece[:left])
        if not left:
            return
