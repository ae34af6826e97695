"""Household: the processes of one worker on an agent's machine, of several that are started and ended in threads."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import connection
from signal import Signals
from time import monotonic
from types import ModuleType
from typing import Any

from tardigrad.blueprint import Blueprint
from tardigrad.children import CHILD
from tardigrad.engines.local.lodging import Processes
from tardigrad.engines.local.nursery import context, prepare, prepare_for_scripts
from tardigrad.engines.local.processes import Duty, SlotParcel, work
from tardigrad.session.scripts import MAIN, as_main
from tardigrad.transports.slots import Slot

_ENDING = 5.0  # seconds for processes that were told to end
_ONE_AT_A_TIME = threading.Lock()
"""Held while a process is started, and while the code of one that has ended is read: multiprocessing does both for all
children of this process, whichever thread asks."""


@dataclass(frozen=True, slots=True)
class Main:
    """What a new process imports first.

    Attributes:
        path: of the script; empty: nothing of whatever this process runs.
        argv: of the script.
        own: this process was started with the script itself.
    """

    path: str = ""
    argv: Sequence[str] = ()
    own: bool = False

    def while_starting(self) -> AbstractContextManager[object]:
        """The context in which a process is started that is to import this."""
        if self.own:
            return nullcontext()
        return as_main(self.path, self.argv) if self.path else _nothing()


class Household(Processes):
    """The processes of one worker.

    Args:
        worker: its number.
        main: what they import first.
    """

    def __init__(self, worker: int, main: Main) -> None:
        super().__init__(worker)
        self._main = main

    def compute(self, end: socket.socket, duty: Duty, down: Slot, up: Slot) -> None:
        """Begin a life of a worker that computes a task; ``end``: the worker's, which stays the caller's."""
        self._begin(work, (end, SlotParcel(down), SlotParcel(up), duty), daemon=True)

    def signal(self, number: Signals) -> None:
        """See `Lodging`."""
        with _ONE_AT_A_TIME:
            super().signal(number)

    def reap(self) -> int | None:
        """See `Lodging`; at the end of its patience it ends them."""
        until = monotonic() + _ENDING
        for process in self._processes:
            connection.wait([process.sentinel], max(0.0, until - monotonic()))
        with _ONE_AT_A_TIME:
            self.kill()
            return super().reap()

    def _begin(self, target: Callable[..., None], arguments: tuple[Any, ...], *, daemon: bool) -> None:
        with _ONE_AT_A_TIME, self._main.while_starting():
            super()._begin(target, arguments, daemon=daemon)


def make_ready(blueprint: Blueprint) -> None:
    """Start what workers of a task come from, if there is nothing yet; it goes on building the task."""
    with _ONE_AT_A_TIME:
        prepare(blueprint.task, imports=blueprint.imports, data_dir=blueprint.data_dir)


def make_ready_for_scripts() -> None:
    """Start what workers that run a script come from, and wait until one can be had at once.

    So a server that has one begin here does not wait for imports, during which nobody would answer it.
    """
    prepare_for_scripts()
    with _ONE_AT_A_TIME, _nothing():
        first = context().Process(target=_do_nothing, name=f"{CHILD}first", daemon=True)
        first.start()
        first.join()


def _do_nothing() -> None:
    pass


@contextmanager
def _nothing() -> Iterator[None]:
    before = sys.modules[MAIN]
    sys.modules[MAIN] = ModuleType(MAIN)
    try:
        yield
    finally:
        sys.modules[MAIN] = before
