"""A run's directory: which files belong to it, when it may be written anew or gone on with, and going back.

Imports no more of torch than checkpoints do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tardigrad.checkpoint import has_checkpoint, is_checkpoint_file
from tardigrad.durable import sync
from tardigrad.errors import RunDirectoryError
from tardigrad.invitation import JOIN, SECRET
from tardigrad.segments import CURRENT, Position, has_log, is_log_file
from tardigrad.segments import cut_back as cut_back_file

EVALUATIONS = "evaluations.jsonl"
GROWING = (CURRENT, EVALUATIONS)
_BEGUN = {"config.json", "environment.json", EVALUATIONS}
_ENDS = {"weights.safetensors", "summary.json"}
_INVITING = {JOIN, SECRET}
_SHOWN = {"status.json", "request.json", "request.taken"}
_BESIDE = {Path(name).with_suffix(".tmp").name for name in _BEGUN | _ENDS | _SHOWN}
_UNDONE = re.compile(r"undone-(\d+)(-evaluations)?\.jsonl(\.tmp)?")


def create_directory(directory: Path) -> None:
    """Make a new run directory. One that holds anything but the files of an unfinished run is refused, untouched."""
    held = require_usable(directory)
    for name in sorted(held, key=(_BEGUN | {CURRENT}).__contains__):  # what tells that it is a run goes last
        (directory / name).unlink()
    directory.mkdir(parents=True, exist_ok=True)


def require_usable(directory: Path) -> set[str]:
    """Raise `RunDirectoryError` where no run can be recorded; else the names of an unfinished run's files there.

    How to join a run may be there already: its workers come before there is anything to record.
    """
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file; name a directory.")
    held = {path.name for path in directory.iterdir()} - _INVITING if directory.exists() else set()
    begun = held.issuperset(_BEGUN) and has_log(directory)
    if "summary.json" in held and begun:
        raise RunDirectoryError(f"{directory} holds a finished run; name another directory or remove it.")
    if held and (not begun or any(not _belongs(name) for name in held)):
        raise RunDirectoryError(f"{directory} holds files that are not a run; name another directory.")
    return held


def may_go_on(directory: Path) -> bool:
    """Whether a directory holds a run that did not end, with a checkpoint."""
    if not directory.is_dir() or not all((directory / name).is_file() for name in _BEGUN) or not has_log(directory):
        return False
    ended = directory / "summary.json"
    return has_checkpoint(directory) and (not ended.exists() or _status(ended) == "interrupted")


def cut_back(directory: Path, positions: Mapping[str, Position]) -> None:
    """Go back to a checkpoint: its log and its evaluations end there, what came after moves to ``undone-N``.

    An evaluation that arrived after the checkpoint is undone, be it of a version before it or after it.

    Args:
        directory: of the run.
        positions: for each of `GROWING`, where it is to end.
    """
    numbers = [int(found[1]) for path in directory.iterdir() if (found := _UNDONE.fullmatch(path.name))]
    undone = f"undone-{max(numbers, default=0) + 1}"
    for name, suffix in zip(GROWING, ("", "-evaluations"), strict=True):
        cut_back_file(directory / name, positions[name], directory / f"{undone}{suffix}.jsonl")
    for name in _ENDS | _SHOWN:
        (directory / name).unlink(missing_ok=True)


def put_in_place(beside: Path, directory: Path) -> None:
    """Rename a whole run directory to the name it is to have; both lie in the same folder.

    What is there is moved to ``DIRECTORY.behind-N``; the secret of this machine's agents stays.
    """
    if directory.exists():
        if (directory / SECRET).is_file():
            shutil.copy2(directory / SECRET, beside / SECRET)
        if {path.name for path in directory.iterdir()} <= _INVITING:
            shutil.rmtree(directory)
        else:
            os.replace(directory, _aside(directory))
    os.replace(beside, directory)
    sync(directory.parent)


def lives(directory: Path) -> int:
    """How often the run in a directory was taken up again, >= 0; 0 where there is none."""
    try:
        return len(json.loads((directory / "environment.json").read_text()).get("resumed", ()))
    except FileNotFoundError:
        return 0


def _aside(directory: Path) -> Path:
    number = 1
    while (place := directory.with_name(f"{directory.name}.behind-{number}")).exists():
        number += 1
    return place


def _belongs(name: str) -> bool:
    known = name in _BEGUN | _ENDS | _SHOWN | _BESIDE
    known |= name.startswith("events.out.tfevents.")  # TensorBoard's
    return known or is_log_file(name) or is_checkpoint_file(name) or _UNDONE.fullmatch(name) is not None


def _status(summary: Path) -> str:
    try:
        return str(json.loads(summary.read_text())["status"])
    except (ValueError, KeyError):
        return "unreadable"
