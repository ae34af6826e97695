"""Time to a target: when the mean curve of a point first reaches it.

The target of a comparison is where ``sequential`` ends at its chosen point, plus the tolerance. The mean curve takes
the k-th evaluations of all seeds together, mean value against mean time. A run that ended early keeps its last value,
so a diverged seed holds the mean up, as it should.
"""

from __future__ import annotations

import math
import statistics

from tardigrad.metrics.cells import Cell
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.scores import curve


def target(c: Comparison) -> float | None:
    """What is to be reached, in the metric's displayed unit; None without a ``sequential`` that has ended."""
    goal = c.sequential.chosen if c.sequential is not None else None
    ends = goal.last_ten(c.split).mean if goal is not None else None
    if ends is None:
        return None
    return ends + c.tolerance * (1 if c.metric.lower_is_better else -1)


def mean_curve(c: Comparison, cell: Cell) -> tuple[list[float], list[float]]:
    """Mean time in seconds and mean value of the k-th evaluations after version 0, over the seeds."""
    curves = [curve(s.run, c.split, c.metric, against="time") for s in cell.scores]
    if not all(values for _, values in curves):
        return [], []
    times, means = [], []
    for k in range(max(len(values) for _, values in curves)):
        times.append(statistics.fmean(at[k] for at, _ in curves if k < len(at)))
        means.append(statistics.fmean(values[min(k, len(values) - 1)] for _, values in curves))
    return times, means


def arrival(c: Comparison, cell: Cell, goal: float) -> float:
    """Seconds until the mean curve first is no worse than ``goal``; infinite for never."""
    sign = 1.0 if c.metric.lower_is_better else -1.0
    times, means = mean_curve(c, cell)
    return next((at for at, mean in zip(times, means, strict=True) if sign * (mean - goal) <= 0), math.inf)
