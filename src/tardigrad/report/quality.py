"""Relative error and cosine of compensated gradients over a run, one line for each rule that its probes judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quality import Probes, probed_run, read_probes
from tardigrad.metrics.quantities import counted, rate
from tardigrad.report.compensation import running_median
from tardigrad.report.style import PALE, Look, drawing, label_ends, looks, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RAW = Look(PALE, "", "--")
_PIECES, _PROBES = 20, 4  # medians that a line is drawn through, at most, and probes behind each, at least
_Curve = tuple[str, Sequence[float], Look]


def quality(comparison: Comparison) -> Figure | None:
    """Left the relative error, right the cosine with the gradient of now; None where no run was probed.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunDirectoryError: a log is missing or damaged.
    """
    run = probed_run(comparison)
    probes = read_probes(run) if run is not None else None
    if run is None or probes is None:
        return None
    rules = [rule for rule in probes.rules if np.isfinite(rule.coefficient).any()]  # others are the raw gradient
    known = looks([rule.label for rule in rules])
    with drawing(9.0, 4.4) as figure:
        left, right = figure.subplots(1, 2)
        errors = [(rule.label, rule.relative_error, known[rule.label]) for rule in rules]
        cosines = [(rule.label, rule.cosine, known[rule.label]) for rule in rules]
        _errors(left, probes, errors)
        _cosines(right, probes, [("raw", probes.raw_cosine, _RAW), *cosines])
        figure.suptitle(
            f"Compensated gradients against those of now: {run.label}, {counted(run.workers, 'worker')}, "
            f"learning rate {rate(run.lr)}, seed {run.seed}",
            x=0.01, ha="left", fontsize=11.5,
        )  # fmt: skip
    return figure


def _errors(axis: Axes, probes: Probes, curves: Sequence[_Curve]) -> None:
    """Logarithmic where the lines span more than a factor of 4, around the raw gradient's 1."""
    ends = _draw(axis, probes, curves)
    axis.axhline(1.0, color=PALE, linewidth=1.5, linestyle="--")
    heights = [1.0, *(y for _, line, _ in ends for y in line)]
    low, high = min(heights) / 1.2, max(heights) * 1.2
    if high / low > 4.0 and low > 0.0:
        axis.set_yscale("log")
        plain_ticks(axis.yaxis, low, high)
    axis.set_ylim(low, high)
    axis.set_ylabel("relative error (raw: 1)")


def _cosines(axis: Axes, probes: Probes, curves: Sequence[_Curve]) -> None:
    ends = _draw(axis, probes, curves)
    heights = [y for _, line, _ in ends for y in line]
    axis.set_ylim(min([0.0, *heights]) - 0.03, 1.03)
    axis.set_ylabel("cosine with the gradient of now")
    label_ends(axis, [(label, line[-1], look) for label, line, look in ends])


def _draw(axis: Axes, probes: Probes, curves: Sequence[_Curve]) -> list[tuple[str, list[float], Look]]:
    """Single probes faint, and running medians, which are returned; a rule without a finite number is left out."""
    drawn = []
    for label, values, look in curves:
        finite = np.isfinite(values)
        if not finite.any():
            continue
        x, y = np.asarray(probes.epochs)[finite].tolist(), np.asarray(values)[finite].tolist()
        axis.plot(x, y, color=look.colour, marker=".", markersize=3, linestyle="", alpha=0.25)
        at, line = running_median(x, y, pieces=min(_PIECES, max(1, len(x) // _PROBES)))
        axis.plot(at, line, color=look.colour, linestyle=look.line, marker=look.marker, markersize=4)
        drawn.append((label, line, look))
    axis.set_xlim(left=0)
    axis.set_xlabel("epochs of samples applied")
    return drawn
