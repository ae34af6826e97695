"""Checkpoints: the whole state of a run between two pushes, on disk, so that the run can go on from there.

    checkpoint-120.json                     everything but tensors, and the checksum of what belongs to it
    checkpoint-120-1f0c9a2b.safetensors     the tensors, by their place in the state

Both are written beside their places, flushed to the disk and renamed, the JSON last: it makes the checkpoint. Its
first line is the checksum of the rest, which names the checksums of the tensors and of the run's growing files (log,
evaluations) as far as they reached. So a file that was torn or altered is noticed, and the checkpoint before is used.

A state and its positions are taken at one moment, which costs one copy. Writing them may then take its time, in
another thread, while the run goes on and its files grow.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tardigrad._version import __version__
from tardigrad.durable import disk_is_full, full, rename, sync
from tardigrad.errors import RunDirectoryError
from tardigrad.segments import CURRENT, Position, put_on_disk, require_whole
from tardigrad.tensorfile import write_tensors
from tardigrad.trees import packed, unpacked

FORMAT = 2
_STATE = re.compile(r"checkpoint-(\d+)\.json")
_TENSORS = re.compile(r"checkpoint-(\d+)-[0-9a-f]{8}\.safetensors")
_UNDER_WAY = re.compile(r"checkpoint-\d+\.\w+\.tmp")
_ANEW = "To begin the run anew, remove its checkpoint-* files."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint, read.

    Attributes:
        path: its JSON file.
        version: of the server.
        state: as it was given to `write_checkpoint`; keys are strings, sequences lists, tensors on the CPU.
        growing: for each file that grows, how much of it belongs to this state.
    """

    path: Path
    version: int
    state: dict[str, Any]
    growing: dict[str, Position]


class _Damaged(RunDirectoryError):
    """This checkpoint cannot be used; an older one may."""


def write_checkpoint(
    directory: Path, state: Mapping[str, Any], *, version: int, growing: Mapping[str, Position], kept: int = 2
) -> Path:
    """Write a state, then remove all but the last checkpoints; return its JSON file.

    May run in a thread of its own while the growing files grow; one call at a time.

    Args:
        directory: of the run.
        state: dicts, lists, tensors, numbers, strings and None, nested; floats are kept to the last bit. Nobody may
            change it before this returns.
        version: of the server; a checkpoint of the same version is replaced.
        growing: names of files beside it that only grow, with where they ended when the state was taken. Up to there
            they are with the system, and are put on the disk here.
        kept: how many checkpoints stay, >= 1. One may be torn by what it is there for; the one before it then serves.

    Raises:
        RunDirectoryError: the disk is full; what was written of this one is removed, and the ones before still stand.
    """
    tensors: dict[str, Tensor] = {}
    plain = packed(state, "", tensors)
    path = directory / f"checkpoint-{version}.json"
    with _all_or_nothing(path):
        content = {
            "format": FORMAT,
            "version": version,
            "written_with": _versions(),
            "tensors": _write_tensors(directory, tensors, version),
            "growing": {name: position.as_json() for name, position in growing.items()},
            "state": plain,
        }
        _sync_growing(directory, growing)
        _write_state(path, content)
    _remove_all_but_the_last(directory, version, content["tensors"]["file"], kept)
    return path


def read_checkpoint(directory: Path, version: int | None = None) -> Checkpoint | None:
    """The newest whole checkpoint of a run directory; None where there is none.

    One that is torn or altered is named in a warning, and the one before it read; a warning too says if this is not
    the torch, numpy or processor it was written with.

    Args:
        directory: of the run.
        version: read the checkpoint of this version and no other.

    Raises:
        RunDirectoryError: when none of those that are there can be used, the format is another one, or there is none
            of that version.
    """
    if version is not None:
        return _of_version(directory, version)
    damages = []
    for known in reversed(list_checkpoints(directory)):
        path = _path(directory, known)
        try:
            found = _read(path)
        except _Damaged as damage:
            damages.append(str(damage))
            continue
        for sentence in damages:
            warnings.warn(f"{sentence} The run goes on from {path.name}.", stacklevel=2)
        return found
    if damages:
        raise RunDirectoryError(" ".join([*damages, f"No checkpoint in {directory} can be used.", _ANEW]))
    return None


def list_checkpoints(directory: Path) -> list[int]:
    """The versions of the checkpoints of a run directory, whole or not, in order."""
    return sorted(_version_of(path) for path in _states(directory))


def has_checkpoint(directory: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return bool(list_checkpoints(directory))


def is_checkpoint_file(name: str) -> bool:
    """Whether a file of this name is part of a checkpoint, or of one that was never finished."""
    return any(pattern.fullmatch(name) for pattern in (_STATE, _TENSORS, _UNDER_WAY))


def remove_checkpoints(directory: Path) -> None:
    """Remove every checkpoint: the run has ended, or begins anew."""
    for path in _files(directory):
        path.unlink()


# -- files ---------------------------------------------------------------------------------------------------


def _files(directory: Path) -> list[Path]:
    """All that belongs to checkpoints; JSON files first, so that what is left of a removal is no checkpoint."""
    files = [path for path in directory.iterdir() if is_checkpoint_file(path.name)]
    return sorted(files, key=lambda path: (path.suffix != ".json", path.name))


def _states(directory: Path) -> Iterator[Path]:
    return (path for path in directory.iterdir() if _STATE.fullmatch(path.name)) if directory.is_dir() else iter(())


def _version_of(path: Path) -> int:
    return int(path.name.split("-")[1].split(".")[0])


def _path(directory: Path, version: int) -> Path:
    return directory / f"checkpoint-{version}.json"


@contextmanager
def _all_or_nothing(path: Path) -> Iterator[None]:
    """Remove what was written of a checkpoint if the rest cannot be, and say so if the disk is full."""
    directory, version = path.parent, _version_of(path)
    before = {file for file in _files(directory) if not _UNDER_WAY.fullmatch(file.name)}
    try:
        yield
    except OSError as error:
        for file in _files(directory):
            mine = file not in before and _version_of(file) == version
            if mine and (path not in before or _UNDER_WAY.fullmatch(file.name)):  # else both may be in use now
                file.unlink(missing_ok=True)
        if disk_is_full(error):
            raise _full(path) from error
        raise


def _full(path: Path) -> RunDirectoryError:
    known = list_checkpoints(path.parent)
    if not known:
        return full(path, "There is no earlier checkpoint: make room, and begin anew.")
    return full(path, f"{_path(path.parent, known[-1])} still stands: make room, then go on from it.")


def _sync_growing(directory: Path, growing: Mapping[str, Position]) -> None:
    """Put the growing files on the disk as far as the system has them."""
    for name in growing:
        if name == CURRENT:
            put_on_disk(directory)
        else:
            sync(directory / name)


def _write_state(path: Path, content: Mapping[str, Any]) -> None:
    body = f'"content": {json.dumps(content, allow_nan=False)}}}\n'.encode()
    beside = path.with_suffix(".json.tmp")
    with beside.open("wb") as file:
        file.write(_first_line(body) + body)
        file.flush()
        os.fsync(file.fileno())
    rename(beside, path)


def _write_tensors(directory: Path, tensors: Mapping[str, Tensor], version: int) -> dict[str, str]:
    """Write the tensors; their file's name holds its checksum, so that it replaces no other one."""
    beside = directory / f"checkpoint-{version}.safetensors.tmp"
    digest = write_tensors(beside, tensors)
    path = directory / f"checkpoint-{version}-{digest[:8]}.safetensors"
    rename(beside, path)
    return {"file": path.name, "blake2b": digest}


def _remove_all_but_the_last(directory: Path, version: int, tensors: str, number: int) -> None:
    """Keep this checkpoint and the ones before it that are kept; one of a later version was not usable."""
    kept = [known for known in list_checkpoints(directory) if known <= version][-number:]
    for path in _files(directory):
        stray = _TENSORS.fullmatch(path.name) and _version_of(path) == version and path.name != tensors
        if stray or _version_of(path) not in kept or _UNDER_WAY.fullmatch(path.name):
            path.unlink()


# -- checksums -----------------------------------------------------------------------------------------------


def _first_line(body: bytes) -> bytes:
    return f'{{"blake2b": "{hashlib.blake2b(body, digest_size=16).hexdigest()}",\n'.encode()


def _read(path: Path) -> Checkpoint:
    content = _whole_content(path)
    if content["format"] != FORMAT:
        raise RunDirectoryError(
            f"{path} is a checkpoint of format {content['format']}, written by tardigrad "
            f"{content['written_with']['tardigrad']}; this one reads format {FORMAT}. Go on with that one. {_ANEW}"
        )
    tensors = _beside(path, content["tensors"]["file"])
    positions = {name: Position(**plain) for name, plain in content["growing"].items()}
    _require_all_whole(
        tensors, content["tensors"]["blake2b"], {_beside(path, name): positions[name] for name in positions}
    )
    _warn_of_other_versions(path, content["written_with"])
    state = unpacked(content["state"], safetensors.torch.load_file(tensors))
    return Checkpoint(path, content["version"], state, positions)


def _of_version(directory: Path, version: int) -> Checkpoint:
    known = list_checkpoints(directory)
    if version not in known:
        held = f"it has: {', '.join(map(str, known))}" if known else "it has none"
        raise RunDirectoryError(f"{directory} holds no checkpoint of version {version}; {held}.")
    return _read(_path(directory, version))


def _beside(path: Path, name: str) -> Path:
    """A file that a checkpoint names; it may lead nowhere else."""
    if Path(name).name != name:
        raise RunDirectoryError(f"{path} names {name!r}, which is no file of its directory: it is not from Tardigrad.")
    return path.with_name(name)


def _whole_content(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    end = text.find(b"\n") + 1
    if text[:end] != _first_line(text[end:]):
        raise _Damaged(f"{path} is torn or was altered: its checksum is another.")
    content: dict[str, Any] = json.loads(text)["content"]
    return content


def _require_all_whole(tensors: Path, digest: str, growing: Mapping[Path, Position]) -> None:
    try:
        require_whole(tensors, Position(tensors.stat().st_size if tensors.is_file() else 0, digest))
        for path, position in growing.items():
            require_whole(path, position)
    except RunDirectoryError as error:
        raise _Damaged(*error.args) from error


def _versions() -> dict[str, str]:
    """What the last bits of a run may depend on."""
    processor = torch.backends.cpu.get_cpu_capability()
    return {"tardigrad": __version__, "torch": torch.__version__, "numpy": np.__version__, "processor": processor}


def _warn_of_other_versions(path: Path, written_with: Mapping[str, str]) -> None:
    mine = _versions()
    others = [
        f"{what} {theirs}, not {mine.get(what)}" for what, theirs in written_with.items() if theirs != mine.get(what)
    ]
    if others:
        warnings.warn(
            f"{path.name} was written with {'; '.join(others)}: from here on the run may differ from an uninterrupted "
            "one.",
            stacklevel=4,
        )
