"""Wishes: what is asked of an agent from outside, in any thread, and heard by all of its places."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

_LAST_WORDS = 15.0  # seconds for which an agent that is to go looks for a server it was cut off from


class Wishes:
    """What an agent is to do.

    Attributes:
        drains: its places leave when what they compute was handed in.
        leaves: they leave at once.
        over: the run is over, as one of them was told.
        finished, words: whether it came to its end, and what was said.
    """

    def __init__(self) -> None:
        self.drains = self.leaves = self.over = False
        self.finished, self.words = False, ""
        self._since = 0.0
        self._told: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def on_change(self, told: Callable[[], None]) -> None:
        """Have this called after every change."""
        self._told.append(told)

    def drain(self) -> None:
        """Leave when what is computed was handed in."""
        self._change("drains")

    def leave(self) -> None:
        """Leave at once."""
        self._change("leaves")

    def end(self, words: str, *, finished: bool) -> None:
        """The run is over: whoever does not work looks for it no longer."""
        self.words, self.finished = words, finished
        self._change("over")

    def done(self, words: str) -> None:
        """A place has done its part, while others go on."""
        if not self.over:
            self.words, self.finished = words, True

    def gives_up(self, *, working: bool) -> bool:
        """Whether a place is to stop looking for the server; ``working``: whether a worker of it still lives."""
        if self.leaves:
            return True
        return (self.drains or self.over) and (not working or monotonic() > self._since + _LAST_WORDS)

    def _change(self, name: str) -> None:
        with self._lock:
            if getattr(self, name):
                return
            setattr(self, name, True)
            self._since = monotonic()
        for told in self._told:
            told()
