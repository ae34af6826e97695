"""Differences between two points of a comparison, paired by seed: best against best, at the recipe, against controls.

The sign is that of the numbers shown: *cell minus reference*, so that for an error below 0 is better. Two differences
have names. The **recipe penalty** of an algorithm is its result at the untouched recipe minus that of ``sequential`` at
the same untouched recipe: what a recipe tuned for one machine loses on many. Its **own loss** is its result at the
untouched recipe minus its result at its own best point: what tuning would give back.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from tardigrad.metrics.cells import Cell, Paired, Series
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.power import pairs_needed
from tardigrad.metrics.student import t_interval
from tardigrad.metrics.tuned_plan import Point

Kind = Literal["better", "worse", "noise", "diverged", "one", "none"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """One cell minus another.

    Attributes:
        cell: what is looked at.
        reference: what it is held against.
        paired: the advantage of the cell, seed by seed; None where they share no seed with a number.
        difference: cell minus reference, in the metric's displayed unit; None likewise.
        interval: 95 % interval of the difference; None for fewer than two seeds.
        kind: ``better`` or ``worse`` where the interval excludes 0; ``noise`` where it does not; ``diverged`` where it
            does not and runs diverged, which no interval describes; ``one`` seed; ``none`` in common.
        needed: paired seeds that would show a difference of this mean and spread in four comparisons of five; infinite
            beyond a thousand; None where there is no spread to judge by, or a run diverged.
    """

    cell: Cell
    reference: Cell
    paired: Paired | None
    difference: float | None
    interval: tuple[float, float] | None
    kind: Kind
    needed: float | None

    @property
    def seeds(self) -> int:
        """How many seeds both sides have."""
        return len(self.paired.seeds) if self.paired is not None else 0


def contrast(c: Comparison, cell: Cell, reference: Cell) -> Contrast:
    """Hold one cell against another."""
    paired = c.paired(cell, reference)
    diverged = cell.diverged + reference.diverged
    kind = kind_of(paired, diverged)
    if paired is None:
        return Contrast(cell, reference, None, None, None, kind, None)
    difference, interval = paired.mean, paired.interval
    if c.metric.lower_is_better:
        difference, interval = -difference, _mirrored(interval)
    return Contrast(cell, reference, paired, difference, interval, kind, None if diverged else needed(paired))


def kind_of(paired: Paired | None, diverged: int) -> Kind:
    """What may be said of a paired advantage, where ``diverged`` runs took part in it."""
    if paired is None:
        return "none"
    if paired.interval is None:
        return "one"
    if not paired.clear:
        return "diverged" if diverged else "noise"
    return "better" if paired.mean > 0 else "worse"


def needed(paired: Paired) -> float | None:
    """Paired seeds that a difference of the observed mean and spread needs; None without a spread."""
    if len(paired.differences) < 2 or paired.same:
        return None
    return pairs_needed(paired.mean, statistics.stdev(paired.differences))


def best_against(c: Comparison, workers: int, reference: Cell | None) -> list[Contrast]:
    """Every algorithm's best point at a worker count against one cell, which is itself left out."""
    cells = [series.chosen for series in c.algorithms(workers)]
    return _against(c, cells, reference)


def recipe_against(c: Comparison, workers: int, reference: Cell | None) -> list[Contrast]:
    """Every algorithm at the untouched recipe against one cell, which is itself left out."""
    return _against(c, [c.at_recipe(series) for series in c.algorithms(workers)], reference)


def penalties(c: Comparison, workers: int) -> list[Contrast]:
    """The recipe penalty of every algorithm at a worker count."""
    sequential = c.sequential
    return recipe_against(c, workers, c.at_recipe(sequential) if sequential is not None else None)


def own_losses(c: Comparison, workers: int) -> list[Contrast]:
    """What each algorithm loses at the untouched recipe against its own best point, where the two are not one."""
    return [found for series in c.algorithms(workers) if (found := own_loss(c, series)) is not None]


def own_loss(c: Comparison, series: Series) -> Contrast | None:
    """The same of one algorithm; None where its best point is the recipe, or one of them has not run."""
    recipe, best = c.at_recipe(series), series.chosen
    return None if recipe is None or best is None or recipe is best else contrast(c, recipe, best)


def controls_against(c: Comparison, workers: int, point: Point) -> list[Contrast]:
    """Every control that has run at one of the treated rule's points against the treated rule there."""
    tuning = c.tuning
    treated = treated_cell(c, workers, point)
    if tuning is None or treated is None:
        return []
    labels = [label for label in _spoiling(c) if label != tuning.plan.treated]
    return _against(c, [tuning.control(label, workers, point) for label in labels], treated)


def treated_cell(c: Comparison, workers: int, point: Point) -> Cell | None:
    """The rule that the controls spoil, at one of its points; None without controls or while it has not run."""
    if c.tuning is None or not c.tuning.plan.treated:
        return None
    return c.tuning.point(c.tuning.plan.treated, workers, point)


def plain_beside(c: Comparison, cell: Cell) -> Cell | None:
    """``asgd`` at the same learning rate and worker count; None where it did not run with the reported seeds."""
    return c.tuning.at("asgd", cell.workers, lr=cell.lr) if c.tuning is not None else None


def beyond_half(c: Comparison, part: Cell, whole: Cell, start: Cell) -> bool:
    """Whether ``part`` surely makes more than half of the way in which ``whole`` leads ``start``.

    Decided by the 95 % interval of (start - part) - (start - whole) / 2, paired by seed.
    """
    values = [c.by_seed(cell) for cell in (part, whole, start)]
    seeds = [seed for seed in values[0] if all(seed in value for value in values)]
    sign = 1.0 if c.metric.lower_is_better else -1.0
    rest = [sign * (0.5 * values[2][seed] + 0.5 * values[1][seed] - values[0][seed]) for seed in seeds]
    interval = t_interval(rest)
    return interval is not None and max(rest) - min(rest) > 1e-9 and interval[0] > 0.0


def _spoiling(c: Comparison) -> tuple[str, ...]:
    return c.tuning.plan.spoiling if c.tuning is not None else ()


def _against(c: Comparison, cells: list[Cell | None], reference: Cell | None) -> list[Contrast]:
    if reference is None:
        return []
    return [contrast(c, cell, reference) for cell in cells if cell is not None and cell is not reference]


def _mirrored(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (-interval[1], -interval[0])
