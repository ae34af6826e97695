"""Tiles: which samples of which epoch were settled, as stretches that are joined where they touch."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise


class Tiles:
    """What was settled of every epoch; memory grows with epochs that are not finished.

    Args:
        samples: of an epoch, >= 1.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._stretches: dict[int, list[tuple[int, int]]] = {}
        self._whole: set[int] = set()
        self._before = 0  # every epoch below is whole

    @property
    def finished(self) -> int:
        """Epochs of which every sample was settled."""
        return self._before + len(self._whole)

    def add(self, epoch: int, start: int, stop: int) -> tuple[int, int] | None:
        """Settle [start, stop); return a part of it that was settled before, or that no epoch has."""
        if start < 0 or stop > self._samples or start >= stop or self._is_whole(epoch):
            return start, stop
        held = self._stretches.setdefault(epoch, [])
        place = bisect_left(held, (start, stop))
        around = range(max(0, place - 1), min(len(held), place + 1))
        for number in around:
            low, high = max(start, held[number][0]), min(stop, held[number][1])
            if low < high:
                return low, high
        touching = [number for number in around if held[number][1] == start or held[number][0] == stop]
        for number in reversed(touching):
            start, stop = min(start, held[number][0]), max(stop, held[number][1])
            del held[number]
        held.insert(bisect_left(held, (start, stop)), (start, stop))
        if (start, stop) == (0, self._samples):
            self._finish(epoch)
        return None

    def holes(self, epoch: int) -> list[tuple[int, int]]:
        """Stretches that were not settled."""
        if self._is_whole(epoch):
            return []
        ends = [(0, 0), *self._stretches.get(epoch, []), (self._samples, self._samples)]
        return [(one[1], other[0]) for one, other in pairwise(ends) if one[1] < other[0]]

    def _is_whole(self, epoch: int) -> bool:
        return epoch < self._before or epoch in self._whole

    def _finish(self, epoch: int) -> None:
        del self._stretches[epoch]
        self._whole.add(epoch)
        while self._before in self._whole:
            self._whole.remove(self._before)
            self._before += 1
