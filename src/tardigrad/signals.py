"""SIGINT and SIGTERM while a run goes on: the first asks it to stop where it can go on, a second one ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_CAUGHT = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"  # a live line hides it
_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals:
    """While the context lasts, a first signal is kept and a second one ends the process with status 128 + its number.

    Only in the main thread, the only one that may set handlers; elsewhere signals do what they did. The old handlers
    are put back.

    Args:
        what: is done at the first one, in words.

    Attributes:
        received: the first signal, once there was one.
    """

    def __init__(self, what: str = "finishing the commit and writing a checkpoint") -> None:
        self._what = what
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, _Handler] = {}

    def asked(self) -> bool:
        """Whether the run is to stop."""
        return self.received is not None

    def __enter__(self) -> Self:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received = signal.Signals(number)
            _say(f"{name}: {self._what}; once more: leave at once")
            return
        _say(f"{name} again: leaving at once")
        os._exit(128 + number)  # the workers end by themselves when this process is gone


def _say(words: str) -> None:
    """Straight to the stream: a handler may have interrupted whoever holds the console's lock."""
    cursor = _SHOW_CURSOR if os.isatty(2) else ""
    os.write(2, f"{cursor}\ntardigrad: {words}\n".encode())
