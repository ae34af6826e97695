"""Error against epochs and against time, each algorithm at its own chosen point or at the untouched recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tardigrad.metrics.cells import Cell
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import counted, rate
from tardigrad.metrics.runs import RunRecord
from tardigrad.metrics.scores import curve
from tardigrad.metrics.tuned_plan import Point
from tardigrad.report.paper import PaperCurve, paper_curves
from tardigrad.report.style import (
    PALE,
    Look,
    drawing,
    greyish,
    label_ends,
    looks,
    plain_ticks,
    value_axis,
    whole_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Against = Literal["epoch", "time"]
_POINTS = 200


@dataclass(frozen=True, slots=True)
class Band:
    """A curve over seeds: mean, lowest and highest at common positions."""

    label: str
    lr: float
    x: Any
    mean: Any
    low: Any
    high: Any


def error_against(
    comparison: Comparison, against: Against = "epoch", *, point: Point = "best", since: float = 0.0
) -> Figure | None:
    """One panel per worker count: mean over seeds, and a band from the best seed to the worst.

    The evaluation at version 0 is left out; a diverged run keeps its last value to the end. Against epochs the
    paper's curves stand behind ours where the setting is the paper's. None where no run has two evaluations.

    Args:
        comparison: what to draw.
        against: the x axis.
        point: each algorithm at its chosen point, or at the untouched recipe.
        since: leave out what lies before this epoch or second, and scale the axes to what is left.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    bands = {workers: _bands(comparison, workers, against, point, since) for workers in comparison.worker_counts}
    bands = {workers: found for workers, found in bands.items() if found}
    if not bands:
        return None
    with drawing(8.0, 0.5 + 4.3 * len(bands)) as figure:
        panels = figure.subplots(len(bands), 1, squeeze=False)[:, 0]
        for axis, (workers, found) in zip(panels, bands.items(), strict=True):
            _panel(axis, comparison, found, against=against, workers=workers, point=point, since=since)
        clock = comparison.runs[0].clock
        panels[-1].set_xlabel("epochs" if against == "epoch" else f"{clock} time (s)")
    return figure


def close_up(comparison: Comparison) -> Figure | None:
    """The part of the learning curves at the recipe that the paper's figures show; None for any other setting.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    known = [curve for workers in comparison.worker_counts for curve in paper_curves(comparison, workers).values()]
    first = min((paper.epochs[0] for paper in known), default=None)
    reach = max((float(run.config.get("epochs", 0)) for run in comparison.runs), default=0.0)
    if first is None or reach < first + 1.0:
        return None
    point: Point = "best" if comparison.tuning is None else "recipe"
    return error_against(comparison, "epoch", point=point, since=first - 1.0)


def _bands(c: Comparison, workers: int, against: Against, point: Point, since: float) -> list[Band]:
    series = ([c.sequential] if c.sequential is not None else []) + c.algorithms(workers)
    cells = [s.chosen if point == "best" else c.at_recipe(s) for s in series]
    found = (_band(c, cell, against, since) for cell in cells if cell is not None)
    return [band for band in found if band is not None]


def _band(c: Comparison, cell: Cell, against: Against, since: float) -> Band | None:
    curves = [curve(s.run, c.split, c.metric, against=against) for s in cell.scores]
    pairs = [(s.run, x, y) for s, (x, y) in zip(cell.scores, curves, strict=True) if x]
    if not pairs or max(len(x) for _, x, _ in pairs) < 2:
        return None
    grid = _grid(pairs)
    grid = grid[grid >= since]
    if not len(grid):
        return None
    rows = np.stack([np.interp(grid, x, y) for _, x, y in pairs])  # (seeds, positions); the ends are held
    return Band(cell.label, cell.lr, grid, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))


def _grid(pairs: Sequence[tuple[RunRecord, list[float], list[float]]]) -> Any:
    """The evaluations' own positions where seeds share them, else points over the range all seeds cover."""
    whole = [x for run, x, _ in pairs if not run.diverged] or [x for _, x, _ in pairs]
    if all(x == whole[0] for x in whole):
        return np.asarray(max(whole, key=len))
    start, stop = max(x[0] for x in whole), min(x[-1] for x in whole)
    return np.linspace(start, max(stop, start), _POINTS)


def _panel(
    axis: Axes, c: Comparison, bands: Sequence[Band], *, against: Against, workers: int, point: Point, since: float
) -> None:
    known = looks([s.label for s in c.series])
    behind = _behind(c, bands, workers) if against == "epoch" else []
    values = [float(v) for b in bands for v in (*b.low, *b.high)]
    values += [v for paper in behind for v in paper.error]
    value_axis(axis, c.metric, values, close=c.tuning is not None or since > 0)
    _paper(axis, behind, known)
    for band in bands:
        look = known[band.label]
        axis.fill_between(band.x, band.low, band.high, color=look.colour, alpha=0.13, linewidth=0)
        every = max(1, math.ceil(len(band.x) / 10))
        axis.plot(
            band.x, band.mean, color=look.colour, linestyle=look.line, marker=look.marker, markevery=every, markersize=5
        )
    if against == "time":
        _time_axis(axis, bands)
    else:
        axis.set_xlim(left=since)
        whole_ticks(axis.xaxis)
    _to_the_edge(axis, bands, known)
    same = len({b.lr for b in bands}) == 1 and point == "recipe"
    names = [b.label if same else f"{b.label}, lr {rate(b.lr)}" for b in bands]
    label_ends(axis, [(name, float(b.mean[-1]), known[b.label]) for name, b in zip(names, bands, strict=True)])
    what = f"{c.split.capitalize()} {c.metric.name}, {counted(workers, 'worker')}"
    axis.set_title(f"{what}{_where(c, point)}")


def _where(c: Comparison, point: Point) -> str:
    if point == "recipe":
        return f", all at the untouched recipe, learning rate {rate(c.recipe_lr)}"
    if c.tuning is not None:
        return ", each at its own best point"
    return ", each at its chosen learning rate" if len(c.lrs) > 1 else ""


def _behind(c: Comparison, bands: Sequence[Band], workers: int) -> list[PaperCurve]:
    """The paper's curves of what is drawn, where ours are long enough to stand before them."""
    shown = {band.label for band in bands}
    reach = max(float(band.x[-1]) for band in bands)
    known = paper_curves(c, workers).items()
    return [paper for label, paper in known if label in shown and paper.epochs[0] < reach]


def _paper(axis: Axes, curves: Sequence[PaperCurve], known: Mapping[str, Look]) -> None:
    """Thin, each in a greyish tint of its algorithm's colour, under everything else."""
    for paper in curves:
        axis.plot(paper.epochs, paper.error, color=greyish(known[paper.label].colour), linewidth=0.9, zorder=1.5)
    if curves:
        axis.text(
            0.02, 0.03, "thin, greyish: the paper's own curves, by the same colours", transform=axis.transAxes,
            color=PALE, fontsize=9,
        )  # fmt: skip


def _to_the_edge(axis: Axes, bands: Sequence[Band], known: Mapping[str, Look]) -> None:
    """A faint line from where a curve ends early to the height of its name."""
    right = axis.get_xlim()[1]
    for band in bands:
        ends = ([float(band.x[-1]), right], [float(band.mean[-1])] * 2)
        axis.plot(*ends, color=known[band.label].colour, linewidth=0.8, linestyle=(0, (1, 3)), scalex=False)


def _time_axis(axis: Axes, bands: Sequence[Band]) -> None:
    """Logarithmic where one algorithm needs several times as long as another."""
    first = min(float(b.x[0]) for b in bands)
    ends = [float(b.x[-1]) for b in bands]
    if first > 0 and max(ends) / min(ends) > 4:
        axis.set_xscale("log")
        axis.set_xlim(first / 1.1, max(ends) * 1.1)
        plain_ticks(axis.xaxis, first, max(ends))
    else:
        axis.set_xlim(left=0)
