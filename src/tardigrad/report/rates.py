"""Error against learning rate: the first picture, because it says which rule tolerates what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tardigrad.metrics.cells import Cell, Series
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import counted
from tardigrad.report.style import PALE, Look, drawing, label_ends, looks, plain_ticks, value_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def error_against_rate(comparison: Comparison, *, rings: bool = False) -> Figure | None:
    """One panel per worker count: mean over seeds, single runs faint, a cross for each diverged one.

    ``sequential`` stands in every panel, and a ring around each chosen rate where trial runs are shown. None where
    only one learning rate was run.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if len(comparison.lrs) < 2:
        return None
    counts = comparison.worker_counts
    with drawing(8.0, 0.5 + 4.3 * len(counts)) as figure:
        panels = figure.subplots(len(counts), 1, squeeze=False)[:, 0]
        for axis, workers in zip(panels, counts, strict=True):
            _panel(axis, comparison, workers, rings=rings)
        panels[-1].set_xlabel("learning rate")
    return figure


def _panel(axis: Axes, c: Comparison, workers: int, *, rings: bool) -> None:
    series = ([c.sequential] if c.sequential is not None else []) + c.algorithms(workers)
    known = looks([s.label for s in c.series])
    values = [v for s in series for cell in s.cells for v in _values(cell, c.split)]
    axis.set_xscale("log")
    value_axis(axis, c.metric, values, close=rings)
    for place, one in enumerate(series):
        # Curves that coincide (all at chance) stay visible side by side.
        aside = 1.03 ** (place - (len(series) - 1) / 2)
        _curve(axis, one, known[one.label], split=c.split, aside=aside)
        _crosses(axis, one, known[one.label], aside=aside)
        if rings:
            _ring(axis, one, known[one.label], split=c.split, aside=aside)
    room = max(1.14, 1.03 ** (len(series) / 2 + 0.9))
    axis.set_xlim(c.lrs[0] / room, c.lrs[-1] * room)
    plain_ticks(axis.xaxis, c.lrs[0], c.lrs[-1])
    axis.set_xticks(_apart(c.lrs))
    _recipe_line(axis, c.recipe_lr, top=rings)
    ends = [(s.label, end, known[s.label]) for s in series if (end := _end(s, c.split)) is not None]
    label_ends(axis, ends)
    diverged = max(cell.diverged for s in series for cell in s.cells)
    axis.set_title(_title(c, workers, series), pad=14 + 8 * min(diverged, 5) if diverged else 10)
    if diverged:
        axis.text(1.05, 1.06, "x  a diverged run", transform=axis.transAxes, color=PALE, fontsize=9)


def _curve(axis: Axes, series: Series, look: Look, *, split: str, aside: float) -> None:
    for cell in series.cells:
        for s in cell.scores:
            value = s.split(split).last_ten
            if value is not None:
                axis.plot([cell.lr * aside], [value], ".", markersize=7, alpha=0.35, color=look.colour, zorder=3)
    means = [(cell.lr * aside, mean) for cell in series.cells if (mean := cell.last_ten(split).mean) is not None]
    x, y = [x for x, _ in means], [y for _, y in means]
    axis.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, zorder=4)


def _apart(lrs: Sequence[float]) -> list[float]:
    """Those rates that leave room for each other's names, the smallest first."""
    least = (lrs[-1] / lrs[0]) ** (1 / 14)
    kept = [lrs[0]]
    for lr in lrs[1:]:
        if lr >= kept[-1] * least:
            kept.append(lr)
    return kept


def _ring(axis: Axes, series: Series, look: Look, *, split: str, aside: float) -> None:
    """Around the chosen learning rate."""
    mean = series.chosen.last_ten(split).mean if series.chosen is not None else None
    if series.chosen is None or mean is None:
        return
    axis.plot(
        [series.chosen.lr * aside], [mean], "o", markersize=14, markerfacecolor="none", markeredgewidth=1.2,
        markeredgecolor=look.colour, zorder=5,
    )  # fmt: skip


def _crosses(axis: Axes, series: Series, look: Look, *, aside: float) -> None:
    """One cross per diverged run, stacked above the axes, where no curve hides it."""
    for cell in (cell for cell in series.cells if cell.diverged):
        step = min(0.026, 0.13 / max(1, cell.diverged))
        axis.plot(
            [cell.lr * aside] * cell.diverged, [1.03 + step * i for i in range(cell.diverged)], "x",
            markersize=4.5, markeredgewidth=1.4, color=look.colour, transform=axis.get_xaxis_transform(),
        clip_on=False, )  # fmt: skip


def _recipe_line(axis: Axes, lr: float | None, *, top: bool) -> None:
    """Named where no ring can be: rings stand at the lowest points."""
    if lr is None:
        return
    axis.axvline(lr, color=PALE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axis.annotate(
        "recipe", (lr, 1.0 if top else 0.0), xycoords=axis.get_xaxis_transform(), xytext=(4, -3 if top else 3),
        textcoords="offset points", color=PALE, fontsize=9, va="top" if top else "bottom",
    )  # fmt: skip


def _title(c: Comparison, workers: int, series: Sequence[Series]) -> str:
    seeds = max(len(cell.scores) for s in series for cell in s.cells)
    what = f"{c.split.capitalize()} {c.metric.name} after training"
    return f"{what}, {counted(workers, 'worker')}, {counted(seeds, 'seed')}"


def _values(cell: Cell, split: str) -> list[float]:
    return [v for s in cell.scores if (v := s.split(split).last_ten) is not None]


def _end(series: Series, split: str) -> float | None:
    means = [cell.last_ten(split).mean for cell in series.cells]
    return next((mean for mean in reversed(means) if mean is not None), None)
