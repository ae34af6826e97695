"""Timers: what is to be done at a moment."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timers:
    """A heap of moments."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._added = 0

    @property
    def next_at(self) -> float:
        """The next moment; infinity where there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def add(self, moment: float, action: Callable[[], None]) -> None:
        """Do something then."""
        self._added += 1
        heapq.heappush(self._heap, (moment, self._added, action))

    def run(self, now: float) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
