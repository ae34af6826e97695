"""What a comparison is made of: cells over seeds, series of cells, paired differences, windows of learning rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tardigrad.metrics.scores import RunScores


@dataclass(frozen=True, slots=True)
class Stat:
    """Mean over seeds and spread (ddof 1; None for one seed); mean None where a run has no number."""

    mean: float | None
    std: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Cell:
    """All seeds of one algorithm, worker count and learning rate; ``scores`` in order of the seed."""

    label: str
    workers: int
    lr: float
    scores: tuple[RunScores, ...]

    @property
    def rule(self) -> str:
        """The rule of its runs, with every keyword."""
        return self.scores[0].run.rule

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, rising."""
        return tuple(s.run.seed for s in self.scores)

    @property
    def diverged(self) -> int:
        """How many of the runs diverged."""
        return sum(s.run.diverged for s in self.scores)

    def last_ten(self, split: str) -> Stat:
        """Over seeds: mean of the last ten evaluations."""
        return stat([s.split(split).last_ten for s in self.scores])

    def best(self, split: str) -> Stat:
        """Over seeds: best epoch, chosen on this same split."""
        return stat([s.split(split).best for s in self.scores])


@dataclass(frozen=True, slots=True)
class Series:
    """One algorithm at one worker count.

    Attributes:
        label: the algorithm.
        workers: its worker count.
        cells: one per learning rate, rising.
        chosen: the cell whose learning rate was chosen; None where there is nothing to choose by.
        recipe: in a tuned comparison, the cell at the untouched recipe; elsewhere None.
    """

    label: str
    workers: int
    cells: tuple[Cell, ...]
    chosen: Cell | None
    recipe: Cell | None = None

    @property
    def runs(self) -> int:
        """How many runs, over all learning rates and seeds."""
        return sum(len(cell.scores) for cell in self.cells)

    @property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(cell.diverged for cell in self.cells)

    def at(self, lr: float | None) -> Cell | None:
        """The cell at a learning rate, if it was run."""
        return next((c for c in self.cells if lr is not None and math.isclose(c.lr, lr, rel_tol=1e-9)), None)


@dataclass(frozen=True, slots=True)
class Paired:
    """Advantage of one cell over another, positive where the first is better, in the metric's displayed unit.

    Attributes:
        seeds: the seeds both have.
        differences: one per seed.
        mean: their mean.
        interval: Student-t 95 % interval of the mean; None for one seed.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None

    @property
    def same(self) -> bool:
        """Whether all differences are equal (to rounding), which leaves no spread to judge by."""
        return max(self.differences) - min(self.differences) <= 1e-9 * max(1.0, abs(self.mean))

    @property
    def clear(self) -> bool:
        """Whether there is a spread to judge by and the interval excludes 0."""
        if self.interval is None or self.same:
            return False
        return not self.interval[0] <= 0.0 <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Window:
    """The rates an algorithm tolerates around the chosen one: ``tolerance`` worse at most, none diverged.

    Attributes:
        lrs: the tolerated rates, rising, without a gap among those tried.
        open_below: the smallest rate tried is tolerated: the window may go on.
        open_above: the same for the largest.
    """

    lrs: tuple[float, ...]
    open_below: bool
    open_above: bool

    @property
    def factor(self) -> float:
        """Largest over smallest tolerated rate, >= 1; 1 for an empty window."""
        return self.lrs[-1] / self.lrs[0] if self.lrs else 1.0


def stat(values: Sequence[float | None]) -> Stat:
    """Mean and spread; one missing number leaves no mean, because a mean over the others would flatter."""
    finite = [v for v in values if v is not None]
    if not values or len(finite) < len(values):
        return Stat(None, None, len(values))
    std = statistics.stdev(finite) if len(finite) > 1 else None
    return Stat(statistics.fmean(finite), std, len(finite))
