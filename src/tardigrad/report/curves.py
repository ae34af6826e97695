"""Error against epochs and against time, each algorithm at its own chosen learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tardigrad.metrics.comparison import Cell, Comparison
from tardigrad.metrics.quantities import counted, rate
from tardigrad.metrics.runs import RunRecord
from tardigrad.metrics.scores import curve
from tardigrad.report.style import Look, drawing, label_ends, looks, plain_ticks, value_axis, whole_ticks

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


def error_against(comparison: Comparison, against: Against = "epoch") -> Figure | None:
    """One panel per worker count: mean over seeds, and a band from the best seed to the worst.

    The evaluation at version 0 is left out; a diverged run keeps its last value to the end. None where no
    run has two evaluations.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    bands = {workers: _bands(comparison, workers, against) for workers in comparison.worker_counts}
    bands = {workers: found for workers, found in bands.items() if found}
    if not bands:
        return None
    with drawing(8.0, 0.5 + 4.3 * len(bands)) as figure:
        panels = figure.subplots(len(bands), 1, squeeze=False)[:, 0]
        for axis, (workers, found) in zip(panels, bands.items(), strict=True):
            _panel(axis, comparison, found, against=against, workers=workers)
        clock = comparison.runs[0].clock
        panels[-1].set_xlabel("epochs" if against == "epoch" else f"{clock} time (s)")
    return figure


def _bands(c: Comparison, workers: int, against: Against) -> list[Band]:
    series = ([c.sequential] if c.sequential is not None else []) + c.algorithms(workers)
    cells = [s.chosen for s in series if s.chosen is not None]
    found = (_band(c, cell, against) for cell in cells)
    return [band for band in found if band is not None]


def _band(c: Comparison, cell: Cell, against: Against) -> Band | None:
    curves = [curve(s.run, c.split, c.metric, against=against) for s in cell.scores]
    pairs = [(s.run, x, y) for s, (x, y) in zip(cell.scores, curves, strict=True) if x]
    if not pairs or max(len(x) for _, x, _ in pairs) < 2:
        return None
    grid = _grid(pairs)
    rows = np.stack([np.interp(grid, x, y) for _, x, y in pairs])  # (seeds, positions); the ends are held
    return Band(cell.label, cell.lr, grid, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))


def _grid(pairs: Sequence[tuple[RunRecord, list[float], list[float]]]) -> Any:
    """The evaluations' own positions where seeds share them, else points over the range all seeds cover."""
    whole = [x for run, x, _ in pairs if not run.diverged] or [x for _, x, _ in pairs]
    if all(x == whole[0] for x in whole):
        return np.asarray(max(whole, key=len))
    start, stop = max(x[0] for x in whole), min(x[-1] for x in whole)
    return np.linspace(start, max(stop, start), _POINTS)


def _panel(axis: Axes, c: Comparison, bands: Sequence[Band], *, against: Against, workers: int) -> None:
    known = looks([s.label for s in c.series])
    value_axis(axis, c.metric, [float(v) for b in bands for v in (*b.low, *b.high)])
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
        axis.set_xlim(left=0)
        whole_ticks(axis.xaxis)
    _to_the_edge(axis, bands, known)
    label_ends(axis, [(f"{b.label}, lr {rate(b.lr)}", float(b.mean[-1]), known[b.label]) for b in bands])
    what = f"{c.split.capitalize()} {c.metric.name}, {counted(workers, 'worker')}"
    axis.set_title(f"{what}, each at its chosen learning rate" if len(c.lrs) > 1 else what)


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
