"""Stores: a run directory kept a second time, on anything that fsspec reaches, so that the run can go on elsewhere.

    1f0c9a...-log.jsonl        what was kept, named by its checksum: never written anew, so never torn for a reader
    kept-000007-2.json         written last: which objects are the run's files after that checkpoint, in its life 2

The first line of ``kept-N-LIFE.json`` is the checksum of the rest. A reader takes the newest one that is whole and
whose objects are; the one before it and its objects stay until the next but one is there. So neither an upload that
breaks off nor a reader in the midst of one ever sees half a run, on file systems that can rename and on those that
cannot.

One process keeps a run, and each that takes it up begins its next life. A later life is newer, whatever its number; the
process of an earlier one, or a second one of the same, finds an account that is not its own, and writes no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

from tardigrad.checkpoint import list_checkpoints
from tardigrad.config import RunConfig
from tardigrad.directories import lives, may_go_on, put_in_place, require_usable
from tardigrad.durable import PIECE, checksum_of, pieces, sync
from tardigrad.errors import InvalidArgument, RunDirectoryError, TardigradError
from tardigrad.parcels import Content, Item, Parcel, belongs

FORMAT = 1
_CONFIG = "config.json"
_ACCOUNT = re.compile(r"kept-(\d{6,})-(\d+)\.json")
_OBJECT = re.compile(r"[0-9a-f]{32}-.+")
_ANYTHING: Mapping[str, Any] = MappingProxyType({})


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
        writer: the process that kept it, by a name that it drew.
        files: all of them.
    """

    number: int
    version: int
    life: int
    ended: bool
    writer: str
    files: tuple[KeptFile, ...]

    @property
    def order(self) -> tuple[int, int]:
        """What is newer has the greater one: a later life, whatever its number."""
        return self.life, self.number


class Store:
    """Keeps one run at an fsspec address; for the process that trains it one object, as long as it does.

    Args:
        url: a folder of the run's own: ``s3://bucket/run-7``, ``gs://...``, ``file:///mnt/shared/run-7``, a path.

    Attributes:
        moved: when `keep` last began or got on, by `time.monotonic`. Any thread may ask.

    Raises:
        InvalidArgument: nothing that is installed reaches such an address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.moved = monotonic()
        self._system, self._root = _file_system(url)
        self._writer = secrets.token_hex(8)
        self._known: dict[tuple[str, tuple[int, ...]], KeptFile] = {}  # files that nobody writes any more

    def newest(self) -> Kept | None:
        """The newest whole account of what is kept; None where nothing is.

        Raises:
            RunDirectoryError: the store cannot be read, or nothing in it can be used.
        """
        with self._told("read"):
            found = next(self._accounts(), None)
            if found is None and self._listed():
                raise RunDirectoryError(f"No account in {self.url} is whole: they are torn, or were altered.")
            return found

    def keep(self, parcel: Parcel) -> None:
        """Keep a run as it was. May run in a thread while its files grow.

        Raises:
            RunDirectoryError: it could not be, or another process keeps a run here; what was kept still stands.
        """
        self.moved = monotonic()
        with self._told("written"):
            before = self._newest_before(parcel.life)
            there = self._objects_of(before)
            self._system.makedirs(self._root, exist_ok=True)
            files = tuple(self._uploaded(item, there) for item in parcel.items)
            self._newest_before(parcel.life)  # an upload may take long
            number = max((number for _, number in self._listed()), default=0) + 1
            kept = Kept(number, parcel.version, parcel.life, parcel.ended, self._writer, files)
            self._write_account(kept)
            self._remove_older(kept, before)

    def restore(self, directory: Path, *, wanted: Mapping[str, Any] = _ANYTHING, aside: bool = False) -> Kept | None:
        """Bring what is kept into a directory that is not there yet, or is empty; None where nothing is kept.

        All is fetched beside it and compared with its checksums first, then renamed: whatever instant it is broken
        off at, the directory is not there, or whole. Objects that are not whole are told of in a warning, and what
        was kept before is taken.

        Args:
            directory: of the run.
            wanted: settings that the run must have been begun with, as of `RunConfig.computes`.
            aside: whether what the directory holds is moved to ``DIRECTORY.behind-N`` instead of being refused.

        Raises:
            RunDirectoryError: the store cannot be read, nothing in it is whole, the run was begun with other settings,
                or the directory holds something or is the current one; nothing was changed.
        """
        place = Path(os.path.abspath(directory))
        if not aside and place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise RunDirectoryError(f"{directory} holds something; a run is restored into an empty directory.")
        if Path.cwd().is_relative_to(place):
            raise RunDirectoryError(
                f"{directory} is where you are: to restore {self.url} there go to its parent first."
            )
        beside = place.with_name(f".{place.name}.restored")
        try:
            with self._told("read"):
                kept = self._fetched(beside, wanted)
            if kept is not None:
                put_in_place(beside, place)
            return kept
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    # -- writing -------------------------------------------------------------------------------------------------

    def _newest_before(self, life: int) -> Kept | None:
        """The newest account, which this process may go on from."""
        found = next(self._accounts(), None)
        if found is not None and found.writer != self._writer and found.life >= life:
            raise RunDirectoryError(
                f"another process keeps a run in {self.url} (life {found.life}, version {found.version}), so this one, "
                f"of life {life}, leaves it alone. One folder is for one run."
            )
        return found

    def _objects_of(self, kept: Kept | None) -> set[str]:
        """What need not be uploaded again."""
        return set() if kept is None else {file.object for file in kept.files}.intersection(self._names())

    def _uploaded(self, item: Item, there: set[str]) -> KeptFile:
        """Put one file into the store, unless it is there; it is read twice, for its name first."""
        file = self._known.get((item.name, item.mark)) if item.mark else None
        if file is None:
            file = self._named(item)
        if item.mark:
            self._known[item.name, item.mark] = file
        if file.object not in there:
            with self._system.open(self._at(file.object), "wb") as target:
                for piece in self._moving(item.content):
                    target.write(piece)
        return file

    def _named(self, item: Item) -> KeptFile:
        length = 0

        def counted() -> Iterator[bytes]:
            nonlocal length
            for piece in self._moving(item.content):
                length += len(piece)
                yield piece

        digest = checksum_of(counted())
        return KeptFile(item.name, length, digest)

    def _moving(self, content: Content) -> Iterator[bytes]:
        for piece in content():
            self.moved = monotonic()
            yield piece

    def _write_account(self, kept: Kept) -> None:
        body = json.dumps({"format": FORMAT, **asdict(kept)}).encode()
        self._system.pipe_file(self._at(_account_name(*kept.order)), _first_line(body) + body)

    def _remove_older(self, kept: Kept, before: Kept | None) -> None:
        """Remove what neither of the last two accounts names; what stays by mistake only takes room."""
        last = [each for each in (before, kept) if each is not None]
        if any(order > kept.order for order in self._listed()):
            return  # a later life has begun meanwhile: all that is its own
        named = {file.object for each in last for file in each.files}
        named |= {_account_name(*each.order) for each in last}
        for name in self._names():
            if name not in named and (_ACCOUNT.fullmatch(name) or _OBJECT.fullmatch(name)):
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

    def _listed(self) -> list[tuple[int, int]]:
        """Life and number of all accounts, whole or not, the newest first."""
        found = (_ACCOUNT.fullmatch(name) for name in self._names())
        return sorted(((int(each[2]), int(each[1])) for each in found if each is not None), reverse=True)

    def _accounts(self) -> Iterator[Kept]:
        """The accounts that are whole, the newest first."""
        for life, number in self._listed():
            kept = self._account(life, number)
            if kept is not None:
                yield kept

    def _account(self, life: int, number: int) -> Kept | None:
        text: bytes = self._system.cat_file(self._at(_account_name(life, number)))
        end = text.find(b"\n") + 1
        if text[:end] != _first_line(text[end:]):
            return None
        content = json.loads(text[end:])
        if content.pop("format") != FORMAT:
            raise RunDirectoryError(f"{self.url} was written by another version of Tardigrad; go on with that one.")
        files = tuple(KeptFile(**plain) for plain in content.pop("files"))
        return Kept(files=files, **content)

    def _fetched(self, beside: Path, wanted: Mapping[str, Any]) -> Kept | None:
        """Fetch the newest that is whole; None where nothing was kept."""
        damages: list[str] = []
        for kept in self._accounts():
            damage = self._fetch_all(kept, beside, wanted)
            if not damage:
                return kept
            damages.append(damage)
            warnings.warn(f"{damage} What was kept before it is taken.", stacklevel=4)
        if damages:
            raise RunDirectoryError(f"Nothing in {self.url} is whole. {' '.join(damages)}")
        return None

    def _fetch_all(self, kept: Kept, beside: Path, wanted: Mapping[str, Any]) -> str:
        """Fetch all files, the configuration first; else return what is not whole."""
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for file in sorted(kept.files, key=lambda file: file.name != _CONFIG):
            damage = self._fetch(file, beside)
            if damage:
                return damage
            if file.name == _CONFIG and wanted:
                require_same(wanted, json.loads((beside / _CONFIG).read_text()), self.url)
        sync(beside)
        return ""

    def _fetch(self, file: KeptFile, folder: Path) -> str:
        if not belongs(file.name):
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


def bring(url: str, directory: Path, wanted: Mapping[str, Any] = _ANYTHING) -> str:
    """Before a run begins or goes on: bring here what its store holds, where that is further than what is here.

    A directory that the run left behind on this machine, and went on from elsewhere, is set aside under another name.

    Args:
        url: of the store; empty: there is none.
        directory: of the run.
        wanted: settings that the run must have been begun with, as of `RunConfig.computes`.

    Returns:
        What was done, in a sentence; empty: nothing.

    Raises:
        InvalidArgument: as `Store`.
        RunDirectoryError: as `Store.restore`, or the directory holds what is no run that may go on; it was left as it
            was.
    """
    if not url:
        return ""
    store = Store(url)
    kept = store.newest()
    if kept is None:
        return ""
    goes_on = may_go_on(directory)
    if not goes_on:
        require_usable(directory)
    here = list_checkpoints(directory)
    if here and (lives(directory), max(here)) >= (kept.life, kept.version):
        return ""
    if goes_on:
        require_same(wanted, json.loads((directory / _CONFIG).read_text()), directory)
    restored = store.restore(directory, wanted=wanted, aside=True)
    assert restored is not None
    return f"restored from {url}: version {restored.version}"


def require_same(wanted: Mapping[str, Any], plain: Mapping[str, Any], place: Path | str) -> None:
    """Raise `RunDirectoryError` where a run was begun with settings that compute something else.

    Args:
        wanted: settings as of `RunConfig.computes`, or some of them.
        plain: the run's configuration, as of `RunConfig.as_json`.
        place: where the run is.
    """
    theirs = RunConfig.from_json(plain).computes
    others = [f"{name}={theirs[name]!r}, not {value!r}" for name, value in wanted.items() if theirs[name] != value]
    if others:
        raise RunDirectoryError(
            f"{place} holds a stopped run with {', '.join(others)}. Name another one, or go on with the settings it "
            "was begun with."
        )


def _account_name(life: int, number: int) -> str:
    return f"kept-{number:06d}-{life}.json"


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
