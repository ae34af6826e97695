"""||compensation|| / ||gradient|| over commits: how much of a step is repair, and whether it is about to diverge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import counted, rate
from tardigrad.metrics.runs import RunRecord
from tardigrad.report.style import PALE, Look, drawing, label_ends, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compensation_runs(comparison: Comparison) -> list[tuple[str, RunRecord]]:
    """Per algorithm at the largest worker count: the first seed at the chosen learning rate."""
    series = comparison.algorithms(comparison.worker_counts[-1])
    return [(s.label, s.chosen.scores[0].run) for s in series if s.chosen is not None]


def measured_ratios(run: RunRecord) -> tuple[list[int], list[float]]:
    """Version and ratio of every commit that measured a finite ratio above 0 (at staleness 0 it is 0).

    Raises:
        RunDirectoryError: the log is missing or damaged.
    """
    versions, ratios = [], []
    for event in run.events("commit"):
        ratio = event[6]
        if ratio is not None and math.isfinite(ratio) and ratio > 0:
            versions.append(int(event[2]))
            ratios.append(float(ratio))
    return versions, ratios


def compensation(comparison: Comparison) -> Figure | None:
    """Every measured commit faint, and a running median; None where nothing was measured.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunDirectoryError: a log is missing or damaged.
    """
    found = [(label, run, *measured_ratios(run)) for label, run in compensation_runs(comparison)]
    found = [item for item in found if item[2]]
    if not found:
        return None
    known = looks([s.label for s in comparison.series])
    with drawing(8.0, 4.2) as figure:
        axis = figure.subplots()
        axis.set_yscale("log")
        ends = [
            (f"{label}, lr {rate(run.lr)}", _line(axis, x, y, known[label]), known[label]) for label, run, x, y in found
        ]
        axis.axhline(1.0, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
        axis.set_xlim(left=0)
        axis.set_xlabel("commits")
        axis.set_ylabel("||compensation|| / ||gradient||")
        workers = comparison.worker_counts[-1]
        axis.set_title(f"Size of the compensation, {counted(workers, 'worker')}, one seed; 1: that of the gradient")
        label_ends(axis, ends)
    return figure


def _line(axis: Axes, versions: list[int], ratios: list[float], look: Look) -> float:
    """Draw one run; the height of its right end."""
    axis.plot(versions, ratios, color=look.colour, marker=".", markersize=3, linestyle="", alpha=0.3)
    x, y = running_median(versions, ratios)
    axis.plot(x, y, color=look.colour)
    return y[-1]


def running_median(
    versions: Sequence[float], ratios: Sequence[float], *, pieces: int = 40
) -> tuple[list[float], list[float]]:
    """Medians of up to ``pieces`` consecutive groups of equal size, at the groups' mean version."""
    groups = np.array_split(np.arange(len(versions)), min(pieces, len(versions)))
    x, y = np.asarray(versions, float), np.asarray(ratios, float)
    return [float(x[g].mean()) for g in groups], [float(np.median(y[g])) for g in groups]
