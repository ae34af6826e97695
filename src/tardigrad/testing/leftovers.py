"""Leftovers: what a run may leave in this process and on this machine, looked at before and after."""

from __future__ import annotations

import gc
import os
import re
import select
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

_SECONDS = 10.0  # a process that was told to end may take so long


@dataclass(frozen=True, slots=True)
class Held:
    """What is held now.

    Attributes:
        processes: descendants of this process, but for Python's forkserver and resource tracker, which stay.
        descriptors: open files, sockets, pipes and memory files, by kind, with their number.
        mappings: segments of shared memory mapped into this process.
        threads: by name.
        segments: files in /dev/shm, but for semaphores: any program's multiprocessing makes and removes them.
    """

    processes: frozenset[int]
    descriptors: Counter[str]
    mappings: int
    threads: Counter[str]
    segments: frozenset[str]


def held_now() -> Held:
    """Look."""
    gc.collect()  # a segment is unmapped with its last tensor
    shared = [path.name for path in Path("/dev/shm").glob("*")]
    return Held(
        processes=frozenset(_descendants()),
        descriptors=Counter(_kinds_of_descriptors()),
        mappings=sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines()),
        threads=Counter(thread.name for thread in threading.enumerate()),
        segments=frozenset(name for name in shared if not name.startswith("sem.")),
    )


def left_since(before: Held) -> list[str]:
    """What is held now and was not before, in words; processes are given ten seconds to end."""
    _await_ends(set(_descendants()) - before.processes)
    now = held_now()
    found = [f"process {_name(pid)}" for pid in sorted(now.processes - before.processes)]
    found += [f"{count} descriptors of {kind}" for kind, count in (now.descriptors - before.descriptors).items()]
    if now.mappings > before.mappings:
        found.append(f"{now.mappings - before.mappings} segments of shared memory")
    found += [f"thread {name!r}" for name in now.threads - before.threads]
    return found + [f"/dev/shm/{name}" for name in sorted(now.segments - before.segments)]


def _descendants() -> list[int]:
    """Processes below this one that run, or that nobody has asked for the end of."""
    stay = {getattr(forkserver._forkserver, "_forkserver_pid", None)}
    stay.add(getattr(resource_tracker._resource_tracker, "_pid", None))
    parents = {int(path.name): _parent_and_state(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found, asked = [], [os.getpid()]
    while asked:
        parent = asked.pop()
        for pid, (its_parent, state) in parents.items():
            if its_parent == parent:
                asked.append(pid)
                ended = state == "Z" and parent in stay  # the forkserver asks for it in a moment
                found += [] if pid in stay or ended else [pid]
    return found


def _parent_and_state(process: Path) -> tuple[int, str]:
    try:
        state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:  # it has ended meanwhile
        return 0, ""
    return int(parent), state


def _kinds_of_descriptors() -> list[str]:
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds.append(re.sub(r":?\[\d+\]", "", os.readlink(f"/proc/self/fd/{name}")))
        except OSError:  # that of the listing itself
            continue
    return kinds


def _await_ends(processes: set[int]) -> None:
    """Wait until these have ended, for ten seconds at most each."""
    with ExitStack() as stack:
        for pid in processes:
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            stack.callback(os.close, descriptor)
            select.select([descriptor], [], [], _SECONDS)


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    return " ".join([str(pid), *(word.decode(errors="replace") for word in words[:4])]).strip()
