"""Pace: batches as large as their workers are fast, so that all of them step equally often."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

_REMEMBERED = 8  # pushes that a speed is told from
_SMALLEST = 4  # a batch is at least the usual one divided by this: BatchNorm and noise want no smaller one
_CHANGE = 0.15  # relative; a smaller one is not worth another size


class Pace:
    """Measures workers, and says how many samples a batch of each should have.

    Args:
        batch_size: the mean over the workers, >= 1.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self._least = batch_size, max(1, batch_size // _SMALLEST)
        self._speeds: dict[int, deque[float]] = {}
        self._sizes: dict[int, int] = {}

    def pushed(self, worker: int, samples: int, seconds: float, *, live: Sequence[int]) -> dict[int, int]:
        """A worker has computed so many samples in so many seconds; return the sizes that change.

        Args:
            worker, samples, seconds: of the push.
            live: workers taking part; nothing changes before each of them was measured often enough.
        """
        self._speeds.setdefault(worker, deque(maxlen=_REMEMBERED)).append(samples / max(seconds, 1e-6))
        known = [self._speeds.get(one, ()) for one in live]
        if any(len(speeds) < _REMEMBERED for speeds in known):
            return {}
        medians = {one: statistics.median(self._speeds[one]) for one in live}
        total = sum(medians.values())
        changed = {}
        for one, speed in medians.items():
            size = max(self._least, round(self._batch_size * len(live) * speed / total))
            before = self._sizes.get(one, self._batch_size)
            if abs(size - before) > max(_CHANGE * before, 0.5):
                changed[one] = self._sizes[one] = size
                self._speeds[one].clear()  # measured anew with batches of that size
        return changed
