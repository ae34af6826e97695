"""The two small files by which a run with real workers shows itself and is asked for something, and whose they are.

    status.json     what is known of the run now: written anew once a second while it lives, removed at its end
    request.json    {"workers": 6}: how many workers are wished for; read once, then removed

A status that outlives its run, because the process was killed, is recognised by the process that it names: its
number, the moment it was started, and the boot of the machine since which both count.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tardigrad.errors import RunDirectoryError

FORMAT = 1
STATUS, REQUEST = "status.json", "request.json"
MOST_WORKERS = 1024  # more is a slip of the finger


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """A process that is told from a later one of the same number.

    Attributes:
        pid: its number.
        started: when it was started, in clock ticks since the machine's boot.
        boot: which boot of which machine that was.
        host: the machine's name.
    """

    pid: int
    started: int
    boot: str
    host: str

    @classmethod
    def own(cls) -> ProcessMark:
        """Of this process."""
        pid = os.getpid()
        return cls(pid, _started(pid) or 0, _boot(), socket.gethostname())

    @property
    def lives(self) -> bool:
        """Whether that very process is there now, on this machine."""
        return self.here and _started(self.pid) == self.started

    @property
    def here(self) -> bool:
        """Whether it was a process of this machine, since its last boot."""
        return self.boot == _boot()


def write_beside(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file beside its place and rename it; `OSError` or `ValueError` leave the old one."""
    beside = path.with_suffix(".tmp")
    try:
        beside.write_text(json.dumps(content, allow_nan=False) + "\n")
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise


def read_status(directory: Path) -> dict[str, Any] | None:
    """What a run last showed of itself; None where there is nothing, or nothing that can be read."""
    try:
        content: dict[str, Any] = json.loads((directory / STATUS).read_text())
        process_of(content)
        return content if content["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def process_of(status: Mapping[str, Any]) -> ProcessMark:
    """The process that wrote a status."""
    return ProcessMark(**status["process"])


def require_nobody(directory: Path) -> None:
    """Raise `RunDirectoryError` where another living process trains into this directory."""
    status = read_status(directory)
    if status is None:
        return
    process = process_of(status)
    if process.lives and process.pid != os.getpid():
        raise RunDirectoryError(
            f"{directory} is being trained into by process {process.pid}. To watch it: tardigrad status {directory}; "
            f"to stop it so that it can go on: kill -TERM {process.pid}."
        )


def _started(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None where there is none, or only its remains."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])  # a zombie runs nothing any more


def _boot() -> str:
    """Which boot of which machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
