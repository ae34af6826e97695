"""Checkpoints: the whole state of a run between two pushes, on disk, so that the run can go on from there.

    checkpoint-120.json                     everything but tensors, and the checksum of what belongs to it
    checkpoint-120-1f0c9a2b.safetensors     the tensors, by their place in the state

Both are written beside their places, flushed to the disk and renamed, the JSON last: it makes the checkpoint. Its
first line is the checksum of the rest, which names the checksums of the tensors and of the run's growing files (log,
evaluations) as far as they reached. So a file that was torn or altered is noticed, and the checkpoint before is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tardigrad._version import __version__
from tardigrad.errors import InvalidArgument, RunDirectoryError

FORMAT = 1
KEPT = 2  # the last one may be torn by what it is there for; the one before it then serves
_STATE = re.compile(r"checkpoint-(\d+)\.json")
_TENSORS = re.compile(r"checkpoint-(\d+)-[0-9a-f]{8}\.safetensors")
_UNDER_WAY = re.compile(r"checkpoint-\d+\.\w+\.tmp")
_TENSOR, _FLOAT = "<tensor>", "<float>"  # stand in for what JSON has no word for
_ANEW = "To begin the run anew, remove its checkpoint-* files."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint, read.

    Attributes:
        path: its JSON file.
        version: of the server.
        state: as it was given to `write_checkpoint`; keys are strings, sequences lists, tensors on the CPU.
        lengths: for each growing file, how many bytes of it belong to this state.
    """

    path: Path
    version: int
    state: dict[str, Any]
    lengths: dict[str, int]


class _Damaged(RunDirectoryError):
    """This checkpoint cannot be used; an older one may."""


def write_checkpoint(directory: Path, state: Mapping[str, Any], *, version: int, growing: Iterable[str]) -> Path:
    """Write a state, then remove all but the last two checkpoints; return its JSON file.

    Args:
        directory: of the run.
        state: dicts, lists, tensors, numbers, strings and None, nested; floats are kept to the last bit.
        version: of the server; a checkpoint of the same version is replaced.
        growing: names of files beside it that only grow, flushed to the disk up to their present ends.
    """
    tensors: dict[str, Tensor] = {}
    packed = _packed(state, "", tensors)
    content = {
        "format": FORMAT,
        "version": version,
        "written_with": _versions(),
        "tensors": _write_tensors(directory, tensors, version),
        "growing": {name: _seal(directory / name) for name in growing},
        "state": packed,
    }
    body = f'"content": {json.dumps(content, allow_nan=False)}}}\n'.encode()
    path = directory / f"checkpoint-{version}.json"
    beside = path.with_suffix(".json.tmp")
    with beside.open("wb") as file:
        file.write(_first_line(body) + body)
        file.flush()
        os.fsync(file.fileno())
    _rename(beside, path)
    _remove_all_but_the_last(directory, version, content["tensors"]["file"])
    return path


def read_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run directory; None where there is none.

    One that is torn or altered is named in a warning, and the one before it read; a warning too says if this is not
    the torch, numpy or processor it was written with.

    Raises:
        RunDirectoryError: when none of those that are there can be used, or the format is another one.
    """
    damages = []
    for path in sorted(_states(directory), key=_version_of, reverse=True):
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


def has_checkpoint(directory: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return any(True for _ in _states(directory))


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


def _write_tensors(directory: Path, tensors: Mapping[str, Tensor], version: int) -> dict[str, str]:
    """Write the tensors; their file's name holds its checksum, so that it replaces no other one."""
    beside = directory / f"checkpoint-{version}.safetensors.tmp"
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(plain, beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    digest = _digest(beside)
    path = directory / f"checkpoint-{version}-{digest[:8]}.safetensors"
    _rename(beside, path)
    return {"file": path.name, "blake2b": digest}


def _rename(beside: Path, path: Path) -> None:
    """Put a file in its place, and that on the disk."""
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_all_but_the_last(directory: Path, version: int, tensors: str) -> None:
    """Keep this checkpoint and the ones before it that are kept; one of a later version was not usable."""
    kept = sorted({known for path in _states(directory) if (known := _version_of(path)) <= version})[-KEPT:]
    for path in _files(directory):
        stray = _TENSORS.fullmatch(path.name) and _version_of(path) == version and path.name != tensors
        if stray or _version_of(path) not in kept or _UNDER_WAY.fullmatch(path.name):
            path.unlink()


# -- checksums -----------------------------------------------------------------------------------------------


def _digest(path: Path, length: int | None = None) -> str:
    """The checksum of a file, or of its first ``length`` bytes."""
    state, left = hashlib.blake2b(digest_size=16), math.inf if length is None else length
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(int(min(left, 1 << 20)))):
            state.update(piece)
            left -= len(piece)
    return state.hexdigest()


def _seal(path: Path) -> dict[str, Any]:
    length = path.stat().st_size
    return {"bytes": length, "blake2b": _digest(path, length)}


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
    _require_whole(tensors, content["tensors"]["blake2b"])
    for name, seal in content["growing"].items():
        _require_whole(_beside(path, name), seal["blake2b"], seal["bytes"])
    _warn_of_other_versions(path, content["written_with"])
    state = _unpacked(content["state"], safetensors.torch.load_file(tensors))
    lengths = {name: int(seal["bytes"]) for name, seal in content["growing"].items()}
    return Checkpoint(path, content["version"], state, lengths)


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


def _require_whole(path: Path, digest: str, length: int | None = None) -> None:
    if not path.is_file():
        raise _Damaged(f"{path}, which a checkpoint needs, is missing.")
    if _digest(path, length) != digest:
        raise _Damaged(f"{path}, which a checkpoint needs, is torn or was altered: its checksum is another.")


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


# -- from a state to JSON and tensors, and back ----------------------------------------------------------------


def _packed(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON; its tensors are put aside by their place."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, Tensor):
        name = place if place not in tensors else f"{place}#{len(tensors)}"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {
            str(key): _packed(item, f"{place}/{key}" if place else str(key), tensors) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_packed(item, f"{place}/{number}", tensors) for number, item in enumerate(value)]
    raise InvalidArgument(
        f"the state {place} is a {type(value).__name__}; a checkpoint can hold dicts, lists, tensors, numbers, "
        "strings and None."
    )


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    if value.keys() == {_FLOAT}:
        return float(value[_FLOAT])
    return {key: _unpacked(item, tensors) for key, item in value.items()}
