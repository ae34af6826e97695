"""Forest plots: paired differences with their intervals, a row for each algorithm, a zero line to hold them against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.contrasts import (
    Contrast,
    best_against,
    contrast,
    controls_against,
    penalties,
    plain_beside,
    recipe_against,
    treated_cell,
)
from tardigrad.metrics.quantities import counted
from tardigrad.metrics.tuned_plan import POINTS, Point
from tardigrad.report.style import INK, PALE, Look, drawing, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.34  # inches
_WIDEST = 3.0  # an interval reaching further than so many times the largest mean is cut, and says so by an arrow


@dataclass(frozen=True, slots=True)
class Panel:
    """Differences from one reference at one worker count."""

    title: str
    reference: str
    found: tuple[Contrast, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """From where to where an axis reaches; ``linear`` is set where small differences need a stretched middle."""

    low: float
    high: float
    linear: float | None


def forest(comparison: Comparison, point: Point) -> Figure | None:
    """All algorithms minus ``asgd`` and minus ``sequential``, at their best points or at the untouched recipe.

    A row of panels per worker count. None where no two points can be held against each other.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    grid = [_panels(comparison, workers, point) for workers in comparison.worker_counts]
    return _draw(comparison, grid, order=[series.label for series in comparison.series])


def control_forest(comparison: Comparison) -> Figure | None:
    """The controls, and ``asgd`` at the same learning rate, minus the rule they spoil, at its two points.

    None without controls.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    grid = [_control_panels(comparison, workers) for workers in comparison.worker_counts]
    spoiling = comparison.tuning.plan.spoiling if comparison.tuning is not None else ()
    return _draw(comparison, grid, order=["asgd", *spoiling])


def _panels(c: Comparison, workers: int, point: Point) -> list[Panel]:
    where = counted(workers, "worker")
    asgd, alone = c.baseline(workers), c.sequential
    if point == "best":
        found = [best_against(c, workers, one.chosen if one is not None else None) for one in (asgd, alone)]
    else:
        plain = c.at_recipe(asgd) if asgd is not None else None
        found = [recipe_against(c, workers, plain), penalties(c, workers)]
    names = ("asgd", alone.label if alone is not None else "sequential")
    return [
        Panel(f"{where}, minus {name}", name, _numbers(contrasts)) for name, contrasts in zip(names, found, strict=True)
    ]


def _control_panels(c: Comparison, workers: int) -> list[Panel]:
    titles = {"best": "its best point", "recipe": "the recipe"}
    panels = []
    for point in POINTS:
        treated = treated_cell(c, workers, point)
        if treated is None:
            continue
        asgd = plain_beside(c, treated)
        beside = [contrast(c, asgd, treated)] if asgd is not None else []
        found = _numbers([*beside, *controls_against(c, workers, point)])
        panels.append(Panel(f"{counted(workers, 'worker')}, at {titles[point]}", treated.label, found))
    return panels


def _numbers(found: Sequence[Contrast]) -> tuple[Contrast, ...]:
    return tuple(one for one in found if one.difference is not None)


def _draw(c: Comparison, every: Sequence[Sequence[Panel]], *, order: Sequence[str]) -> Figure | None:
    grid = [panels for panels in every if any(panel.found for panel in panels)]
    if not grid:
        return None
    labels = [_labels(panels, order) for panels in grid]
    heights = [0.9 + _ROW * len(names) for names in labels]
    with drawing(8.0, sum(heights) + 0.55) as figure:
        wide = max(len(panels) for panels in grid)
        axes = figure.subplots(len(grid), wide, squeeze=False, height_ratios=heights)
        columns = [[panels[i] for panels in grid if i < len(panels)] for i in range(wide)]
        for i, column in enumerate(columns):
            scale = _scale([one for panel in column for one in panel.found])
            for row, panels in enumerate(grid):
                if i < len(panels):
                    _panel(axes[row, i], c, panels[i], labels[row], scale=scale, named=i == 0)
                else:
                    axes[row, i].set_visible(False)
            axes[-1, i].set_xlabel(_direction(c, column[-1].reference, scale))
    return figure


def _labels(panels: Sequence[Panel], order: Sequence[str]) -> list[str]:
    """Rows from the bottom up, so that the first algorithm stands on top."""
    shown = {one.cell.label for panel in panels for one in panel.found}
    return [label for label in reversed(list(dict.fromkeys(order))) if label in shown]


def _scale(found: Sequence[Contrast]) -> Scale:
    """All means and 0 are inside; an interval is, unless it reaches far beyond the largest mean."""
    means = [one.difference for one in found if one.difference is not None] or [1.0]
    largest = max(abs(mean) for mean in means) or 1.0
    ends = [min(max(edge, -_WIDEST * largest), _WIDEST * largest) for one in found for edge in one.interval or ()]
    low, high = min(0.0, *means, *ends), max(0.0, *means, *ends)
    middle = statistics.median(abs(mean) for mean in means)
    if max(high, -low) > 12 * middle:
        linear = max(middle, max(high, -low) / 200)
        return Scale(min(1.4 * low, -0.5 * linear), max(1.4 * high, 0.5 * linear), linear)
    margin = 0.07 * (high - low)
    return Scale(low - margin, high + margin, None)


def _panel(axis: Axes, c: Comparison, panel: Panel, labels: list[str], *, scale: Scale, named: bool) -> None:
    known = looks([series.label for series in c.series] + labels)
    if scale.linear is not None:
        axis.set_xscale("symlog", linthresh=scale.linear, linscale=1.2)
        _stretched_ticks(axis.xaxis, scale)
    axis.set_xlim(scale.low, scale.high)
    axis.set_ylim(-0.6, len(labels) - 0.4)
    axis.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
    for one in panel.found:
        _row(axis, one, known[one.cell.label], y=labels.index(one.cell.label), scale=scale)
    axis.set_yticks(range(len(labels)), labels if named else [""] * len(labels))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.set_title(panel.title)


def _row(axis: Axes, one: Contrast, look: Look, *, y: int, scale: Scale) -> None:
    """The interval, cut at the frame with an arrow; the marker filled where it excludes 0; diverged runs counted."""
    assert one.difference is not None
    low, high = one.interval or (one.difference, one.difference)
    inside = [max(low, scale.low), min(high, scale.high)]
    axis.plot(inside, [y, y], color=look.colour, linewidth=1.6, marker="|", markersize=9, markeredgewidth=1.6)
    for cut, side, arrow in ((low < scale.low, scale.low, "<"), (high > scale.high, scale.high, ">")):
        if cut:
            axis.plot([side], [y], arrow, color=look.colour, markersize=7, clip_on=False)
    sure = one.kind in ("better", "worse")
    axis.plot(
        [one.difference], [y], marker=look.marker, markersize=6.5, color=look.colour, linestyle="", zorder=4,
        markerfacecolor=look.colour if sure else "white", markeredgecolor=look.colour, markeredgewidth=1.4,
    )  # fmt: skip
    if one.cell.diverged:
        place = float((axis.transData + axis.transAxes.inverted()).transform((one.difference, y))[0])
        inwards = "right" if place > 0.75 else ("left" if place < 0.25 else "center")
        axis.annotate(
            f"{one.cell.diverged} of {len(one.cell.scores)} diverged", (one.difference, y), xytext=(0, 6),
            textcoords="offset points", ha=inwards, va="bottom", fontsize=8, color=PALE, zorder=5,
        )  # fmt: skip


def _stretched_ticks(axis: Any, scale: Scale) -> None:
    """0 and powers of ten on both sides, written as plain numbers, far enough apart to be read."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    assert scale.linear is not None
    powers = [p for p in (0.01, 0.1, 1.0, 10.0, 100.0) if 0.5 * scale.linear <= p]
    ticks = [*(-p for p in powers), 0.0, *powers]
    axis.set_major_locator(FixedLocator(sorted(tick for tick in ticks if scale.low <= tick <= scale.high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\u2212")))


def _direction(c: Comparison, reference: str, scale: Scale) -> str:
    unit = "points" if c.metric.unit == "%" else c.metric.unit
    stretched = f"\n(logarithmic beyond ±{scale.linear:.2g})" if scale.linear is not None else ""
    what = f"{c.split} {c.metric.name} minus {reference}'s" + (f" ({unit})" if unit else "")
    left, right = ("better", "worse") if c.metric.lower_is_better else ("worse", "better")
    return f"← {left}          {right} →\n{what}{stretched}"
