"""Stores: a run directory kept a second time, on anything that fsspec reaches, so that the run can go on elsewhere.

    1f0c9a...-log.jsonl        what was kept, named by its checksum: never written anew, so never torn for a reader
    kept-000007.json           written last: which objects are the run's files after that checkpoint

The first line of ``kept-N.json`` is the checksum of the rest. A reader takes the newest one that is whole and whose
objects are; the one before it and its objects stay until the next but one is there. So neither an upload that breaks
off nor a reader in the midst of one ever sees half a run, on file systems that can rename and on those that cannot.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tardigrad.checkpoint import is_checkpoint_file, list_checkpoints
from tardigrad.directories import EVALUATIONS, lives
from tardigrad.durable import PIECE, checksum_of, pieces, sync
from tardigrad.errors import InvalidArgument, RunDirectoryError, TardigradError
from tardigrad.segments import CURRENT, Position, is_log_file, open_segments, segment_name

FORMAT = 1
_PLAIN = ("config.json", "environment.json")
_ENDS = ("summary.json", "weights.safetensors")
_UNDONE = re.compile(r"undone-\d+(-evaluations)?\.jsonl")
_MANIFEST = re.compile(r"kept-(\d{6,})\.json")
_OBJECT = re.compile(r"[0-9a-f]{32}-.+")

Content = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file of a run as it is kept.

    Attributes:
        name: in the run directory.
        bytes: how long it is.
        blake2b: checksum of its content, by which the object is named.
    """

    name: str
    bytes: int
    blake2b: str

    @property
    def object(self) -> str:
        """What it is called in the store."""
        return f"{self.blake2b}-{self.name}"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store holds of a run.

    Attributes:
        number: counts what was kept, from 1.
        version: of the checkpoint; of a run that has ended, of the last one that was kept, or 0.
        life: how often the run had been taken up again.
        ended: whether the run has ended.
        files: all of them.
    """

    number: int
    version: int
    life: int
    ended: bool
    files: tuple[KeptFile, ...]


class Store:
    """Keeps one run at an fsspec address.

    Args:
        url: a folder of the run's own: ``s3://bucket/run-7``, ``gs://...``, ``file:///mnt/shared/run-7``, a path.

    Raises:
        InvalidArgument: nothing that is installed reaches such an address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._root = _file_system(url)
        self._last: Kept | None = None

    def newest(self) -> Kept | None:
        """The newest whole account of what is kept; None where nothing is.

        Raises:
            RunDirectoryError: the store cannot be read, or nothing in it can be used.
        """
        with self._told("read"):
            return next(self._accounts(), None)

    def keep(self, directory: Path, *, version: int, growing: Mapping[str, Position]) -> None:
        """Keep a run as it was at a checkpoint that was written. May run in a thread while its files grow.

        Args:
            directory: of the run.
            version: of the checkpoint.
            growing: as of `write_checkpoint`: how much of the log and the evaluations belongs to it.

        Raises:
            RunDirectoryError: it could not be; what was kept before still stands.
        """
        with self._told("written"):
            self._put(directory, _at_checkpoint(directory, version, growing), version=version, ended=False)

    def keep_end(self, directory: Path) -> None:
        """Keep a run that writes nothing any more: the whole log, summary and final weights.

        Raises:
            RunDirectoryError: as `keep`.
        """
        with self._told("written"):
            version = max(list_checkpoints(directory), default=0)
            self._put(directory, _whole(directory), version=version, ended=(directory / _ENDS[0]).is_file())

    def restore(self, directory: Path) -> Kept | None:
        """Bring what is kept into a directory that is not there yet, or is empty; None where nothing is kept.

        All is fetched beside it and compared with its checksums first, then renamed: whatever instant it is broken
        off at, the directory is not there, or whole. Objects that are not whole are told of in a warning, and what
        was kept before is taken.

        Raises:
            RunDirectoryError: the store cannot be read, nothing in it is whole, or the directory holds something.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise RunDirectoryError(f"{directory} holds something; a run is restored into an empty directory.")
        damages: list[str] = []
        with self._told("read"):
            for kept in self._accounts():
                damage = self._fetched(kept, directory)
                if not damage:
                    return kept
                damages.append(damage)
                warnings.warn(f"{damage} What was kept before it is taken.", stacklevel=2)
        if damages:
            raise RunDirectoryError(f"Nothing in {self.url} is whole. {' '.join(damages)}")
        return None

    # -- writing -------------------------------------------------------------------------------------------------

    def _put(self, directory: Path, files: Iterator[tuple[str, Content]], *, version: int, ended: bool) -> None:
        before = self._last if self._last is not None else next(self._accounts(), None)
        there = {file.object for file in before.files} if before is not None else set()
        self._system.makedirs(self._root, exist_ok=True)
        held = tuple(self._uploaded(name, content, there) for name, content in files)
        number = max(self._numbers(), default=0) + 1
        kept = Kept(number, version, lives(directory), ended, held)
        self._write_account(kept)
        self._last = kept
        self._remove_older(kept, before)

    def _uploaded(self, name: str, content: Content, there: set[str]) -> KeptFile:
        """Put one file into the store, unless it is there; it is read twice, for its name first."""
        length = 0

        def counted() -> Iterator[bytes]:
            nonlocal length
            for piece in content():
                length += len(piece)
                yield piece

        file = KeptFile(name, 0, checksum_of(counted()))
        file = KeptFile(name, length, file.blake2b)
        if file.object not in there:
            with self._system.open(self._at(file.object), "wb") as target:
                for piece in content():
                    target.write(piece)
        return file

    def _write_account(self, kept: Kept) -> None:
        body = json.dumps({"format": FORMAT, **asdict(kept)}).encode()
        self._system.pipe_file(self._at(f"kept-{kept.number:06d}.json"), _first_line(body) + body)

    def _remove_older(self, kept: Kept, before: Kept | None) -> None:
        """Remove what neither of the last two accounts names; what stays by mistake only takes room."""
        last = [each for each in (before, kept) if each is not None]
        named = {file.object for each in last for file in each.files}
        numbers = {each.number for each in last}
        for name in self._names():
            account = _MANIFEST.fullmatch(name)
            old = int(account[1]) not in numbers if account else bool(_OBJECT.fullmatch(name)) and name not in named
            if old:
                with suppress(OSError):
                    self._system.rm_file(self._at(name))

    # -- reading -------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in found]

    def _numbers(self) -> list[int]:
        """Of all accounts, whole or not, the newest first."""
        return sorted((int(match[1]) for name in self._names() if (match := _MANIFEST.fullmatch(name))), reverse=True)

    def _accounts(self) -> Iterator[Kept]:
        """The accounts that are whole, the newest first."""
        numbers = self._numbers()
        torn = 0
        for number in numbers:
            kept = self._account(number)
            torn += kept is None
            if kept is not None:
                yield kept
        if numbers and torn == len(numbers):
            raise RunDirectoryError(f"No account in {self.url} is whole: they are torn, or were altered.")

    def _account(self, number: int) -> Kept | None:
        text: bytes = self._system.cat_file(self._at(f"kept-{number:06d}.json"))
        end = text.find(b"\n") + 1
        if text[:end] != _first_line(text[end:]):
            return None
        content = json.loads(text[end:])
        if content.pop("format") != FORMAT:
            raise RunDirectoryError(f"{self.url} was written by another version of Tardigrad; go on with that one.")
        files = tuple(KeptFile(**plain) for plain in content.pop("files"))
        return Kept(files=files, **content)

    def _fetched(self, kept: Kept, directory: Path) -> str:
        """Fetch all files beside the directory and put them in its place; else return what is not whole."""
        beside = directory.with_name(f".{directory.name}.restored")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            for file in kept.files:
                damage = self._fetch(file, beside)
                if damage:
                    return damage
            sync(beside)
            if directory.exists():
                directory.rmdir()
            os.replace(beside, directory)
            sync(directory.parent)
            return ""
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _fetch(self, file: KeptFile, folder: Path) -> str:
        if not _belongs(file.name):
            return f"{self.url} names {file.name!r}, which is no file of a run."
        path = folder / file.name
        try:
            with self._system.open(self._at(file.object), "rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, PIECE)
                target.flush()
                os.fsync(target.fileno())
        except FileNotFoundError:
            return f"{file.object} is missing in {self.url}."
        if checksum_of(pieces(path, 0)) != file.blake2b:
            return f"{file.object} in {self.url} is torn or was altered."
        return ""

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Errors of a store are its library's own, of any kind; they are told in one sentence."""
        try:
            yield
        except TardigradError:
            raise
        except Exception as error:
            raise RunDirectoryError(f"{self.url} could not be {what}: {type(error).__name__}: {error}") from error


def bring(url: str, directory: Path) -> str:
    """Before a run begins or goes on: bring here what its store holds, where that is further than what is here.

    A directory that the run left behind on this machine, and went on from elsewhere, is set aside under another name.

    Args:
        url: of the store; empty: there is none.
        directory: of the run.

    Returns:
        What was done, in a sentence; empty: nothing.

    Raises:
        InvalidArgument, RunDirectoryError: as `Store`.
    """
    if not url:
        return ""
    store = Store(url)
    kept = store.newest()
    if kept is None:
        return ""
    if directory.is_dir() and any(directory.iterdir()):
        if (lives(directory), max(list_checkpoints(directory), default=0)) >= (kept.life, kept.version):
            return ""
        os.replace(directory, _aside(directory))
    restored = store.restore(directory)
    assert restored is not None
    return f"restored from {url}: version {restored.version}"


def _aside(directory: Path) -> Path:
    number = 1
    while (place := directory.with_name(f"{directory.name}.behind-{number}")).exists():
        number += 1
    return place


# -- which files, and what of them -------------------------------------------------------------------------------


def _at_checkpoint(directory: Path, version: int, growing: Mapping[str, Position]) -> Iterator[tuple[str, Content]]:
    """The files of a run as they were at a checkpoint."""
    for path in sorted(directory.iterdir()):
        if path.name in _PLAIN or _UNDONE.fullmatch(path.name) or _is_of(path.name, version):
            yield path.name, partial(pieces, path, 0)
    for name, position in growing.items():
        if name != CURRENT:
            yield name, partial(pieces, directory / name, 0, position.bytes)
    yield from _log_until(directory, growing[CURRENT])


def _log_until(directory: Path, position: Position) -> Iterator[tuple[str, Content]]:
    """The log up to a position: closed segments as they lie there, and of the last one its beginning."""
    for number in range(1, position.segment):
        yield _closed(directory, number)
    yield CURRENT, partial(_beginning, directory, position)


def _closed(directory: Path, number: int) -> tuple[str, Content]:
    """A closed segment, compressed or about to be; whichever is there is whole."""
    packed = directory / f"{segment_name(number)}.gz"
    if packed.is_file():
        return packed.name, partial(pieces, packed, 0)
    return segment_name(number), partial(_plain_segment, directory, number)


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


def _whole(directory: Path) -> Iterator[tuple[str, Content]]:
    """Every file of a run that writes nothing any more."""
    for path in sorted(directory.iterdir()):
        if _belongs(path.name):
            yield path.name, partial(pieces, path, 0)


def _belongs(name: str) -> bool:
    """Whether a file of this name is kept."""
    known = name in (*_PLAIN, *_ENDS, EVALUATIONS) or _UNDONE.fullmatch(name) is not None
    return not name.endswith(".tmp") and (known or is_log_file(name) or is_checkpoint_file(name))


def _is_of(name: str, version: int) -> bool:
    """Whether a file is part of the checkpoint of this version."""
    whole = is_checkpoint_file(name) and not name.endswith(".tmp")
    return whole and re.fullmatch(rf"checkpoint-{version}[.-].*", name) is not None


def _first_line(body: bytes) -> bytes:
    return f"{hashlib.blake2b(body, digest_size=16).hexdigest()}\n".encode()


def _file_system(url: str) -> tuple[Any, str]:
    """The file system that an address leads to, and the folder in it."""
    try:
        import fsspec
    except ImportError as error:
        raise InvalidArgument("--store needs fsspec; type: pip install 'tardigrad[store]'.") from error
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InvalidArgument(f"no file system for {url!r}: {error}.") from error
    return system, root.rstrip("/")
