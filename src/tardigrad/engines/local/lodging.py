"""Lodging: where the processes that are one worker live. Here, as a rule: children of the forkserver."""

from __future__ import annotations

import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from multiprocessing.context import ForkServerProcess
from time import monotonic
from typing import Any

from tardigrad.children import CHILD
from tardigrad.engines.local.acting import Part, Role, act
from tardigrad.engines.local.nursery import context, importable_main
from tardigrad.engines.local.processes import Duty, SlotParcel, work
from tardigrad.transports.slots import Slot, ends

_GRACE = 5.0  # seconds for a process that was told to end


class Lodging(ABC):
    """Where the processes that are one worker live.

    Attributes:
        host: name of that machine; empty: this one.
        pid: of the worker's first process, where it is known; else 0.
        is_cut_off: whether that machine cannot be reached now.
    """

    host: str = ""
    is_cut_off: bool = False

    @property
    @abstractmethod
    def pid(self) -> int:
        """See the class."""

    @abstractmethod
    def work(self, duty: Duty, incarnation: int, down: Slot, up: Slot) -> socket.socket:
        """Begin a life of a worker that computes a task on these slots; return the server's end."""

    @abstractmethod
    def act(self, role: Role, parts: Sequence[Part]) -> list[socket.socket]:
        """Begin a life of a worker that runs a script, in as many processes; return the server's ends in order."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send its first process a signal, if there is one."""

    @abstractmethod
    def slow_down(self, seconds: float) -> None:
        """From now on let whatever passes the link to it, if there is one, take so much longer, each way."""

    @abstractmethod
    def cut(self, seconds: float) -> None:
        """Let nothing pass the link to it, if there is one, for so long."""

    @abstractmethod
    def kill(self) -> None:
        """End its processes at once."""

    @abstractmethod
    def reap(self) -> int | None:
        """Wait, for some seconds at most, until its processes have ended; the server's ends are closed.

        Returns:
            The exit code, negative for a signal; None where there was no process, or it is not known. Of several
            processes that of the first that did not end well.
        """


class Processes(Lodging):
    """Processes of this machine.

    Args:
        worker: its number; it shows in the processes' names.
    """

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._processes: list[ForkServerProcess] = []  # its own first, then those that are one worker with it

    @property
    def pid(self) -> int:
        """See `Lodging`."""
        return (self._processes[0].pid or 0) if self._processes else 0

    def work(self, duty: Duty, incarnation: int, down: Slot, up: Slot) -> socket.socket:
        """See `Lodging`."""
        mine, theirs = ends()
        with closing(theirs):
            self._begin(work, (theirs, SlotParcel(down), SlotParcel(up), duty), daemon=True)
        return mine

    def act(self, role: Role, parts: Sequence[Part]) -> list[socket.socket]:
        """See `Lodging`. They are no daemons: a script may have processes of its own."""
        leader, *members = parts
        mine, theirs = zip(*(ends() for _ in parts), strict=True)
        inside = [ends() for _ in members]
        own = tuple(end for end, _ in inside)
        with ExitStack() as given:
            for end in (*theirs, *own, *(other for _, other in inside)):
                given.callback(end.close)
            self._begin(act, (theirs[0], role, leader, own), daemon=False)
            for part, end, (_, other) in zip(members, theirs[1:], inside, strict=True):
                self._begin(act, (end, role, part, (other,)), daemon=False)
        return list(mine)

    def signal(self, number: signal.Signals) -> None:
        """See `Lodging`."""
        first = next(iter(self._processes), None)
        if first is not None and first.pid and first.is_alive():
            os.kill(first.pid, number)

    def slow_down(self, seconds: float) -> None:
        """There is no link."""

    def cut(self, seconds: float) -> None:
        """There is no link."""

    def kill(self) -> None:
        """See `Lodging`."""
        for process in self._processes:
            process.kill()

    def reap(self) -> int | None:
        """See `Lodging`."""
        processes, self._processes = self._processes, []
        until = monotonic() + _GRACE
        codes = [_reaped(process, until) for process in processes]
        return next((code for code in codes if code), codes[0] if codes else None)

    def _begin(self, target: Callable[..., None], arguments: tuple[Any, ...], *, daemon: bool) -> None:
        """Start a further process of this life; it ends with the others."""
        beside = f".{len(self._processes)}" if self._processes else ""
        name = f"{CHILD}worker-{self._worker}{beside}"
        process = context().Process(target=target, args=arguments, name=name, daemon=daemon)
        with importable_main():
            process.start()
        self._processes.append(process)


def _reaped(process: ForkServerProcess, until: float) -> int | None:
    """Wait for a process to end until that moment, then end it; its exit code."""
    process.join(max(0.0, until - monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode
