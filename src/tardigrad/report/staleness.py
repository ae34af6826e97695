"""How late gradients were: staleness per worker and over all, with the law theory gives for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import counted, rate
from tardigrad.metrics.runs import RunRecord
from tardigrad.report.style import INK, LOOKS, drawing, whole_ticks
from tardigrad.specs import parse_spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TAIL = 0.995  # the picture ends at this quantile; its last column counts all beyond


def staleness_run(comparison: Comparison) -> RunRecord | None:
    """The run to show: finished, asynchronous, of the most workers, at its algorithm's chosen rate; no control."""
    spoiling = comparison.tuning.plan.spoiling if comparison.tuning is not None else ()
    able = [
        s.run
        for series in sorted(reversed(comparison.series), key=lambda series: series.label in spoiling)
        for s in (series.chosen.scores if series.chosen is not None else ())
        if series.workers > 1 and _histogram(s.run)
    ]
    waiting = [r for r in able if not str(r.config.get("consistency", "")).startswith("synchronous")]
    chosen = [r for r in waiting if not r.diverged] or waiting or able
    return max(chosen, key=lambda r: r.workers, default=None)


def staleness(run: RunRecord) -> Figure | None:
    """Left: share of each worker's commits by staleness. Right: the same over all workers, and theory's law.

    None for a run without a summary or without commits.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    counts = _counts(run)
    if counts is None:
        return None
    with drawing(8.0, 4.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _heat_map(figure, left, counts)
        _overall(right, counts, law=geometric_law(run, counts.shape[1]))
        figure.suptitle(
            f"Staleness: {run.label}, {counted(run.workers, 'worker')}, learning rate {rate(run.lr)}, seed {run.seed}",
            x=0.01, ha="left", fontsize=11.5,
        )  # fmt: skip
    return figure


def geometric_law(run: RunRecord, length: int) -> Any:
    """P(k) = (1/W) ((W-1)/W)^k for k below ``length``; None where its conditions do not hold.

    It holds for asynchronous workers of equal speed with exponential delays, a free network and a free
    server: whose push comes next is then a fair draw among W at every commit.
    """
    config = run.config
    free = all(not config.get(name) for name in ("straggler_probability", "latency", "bandwidth", "service"))
    equal = len(set(config.get("speeds") or [1.0])) == 1
    plain = config.get("consistency") == "asynchronous" and config.get("max_staleness") is None
    whole = isinstance(config.get("batch_size"), int)
    if not (free and equal and plain and whole and run.workers > 1 and _delay(run) == "exponential"):
        return None
    return (1 / run.workers) * ((run.workers - 1) / run.workers) ** np.arange(length)


def _delay(run: RunRecord) -> str:
    try:
        return parse_spec(str(run.config.get("delay", ""))).name
    except InvalidArgument:
        return ""


def _histogram(run: RunRecord) -> dict[str, dict[str, int]]:
    histogram: dict[str, dict[str, int]] = (run.summary or {}).get("staleness", {}).get("histogram", {})
    return {worker: counts for worker, counts in histogram.items() if counts}


def _counts(run: RunRecord) -> Any:
    """Commits as an array (workers, staleness); workers in order of their number; None where there are none."""
    histogram = _histogram(run)
    if not histogram:
        return None
    length = 1 + max(int(k) for per in histogram.values() for k in per)
    counts = np.zeros((run.workers, length))
    for worker, per in histogram.items():
        if int(worker) < run.workers:
            counts[int(worker), [int(k) for k in per]] = list(per.values())
    return counts if counts.sum() else None


def _cut(counts: Any) -> int:
    """The first staleness with at least `_TAIL` of all commits at or below it, at least 1."""
    total = np.cumsum(counts.sum(axis=0))
    return max(1, int(np.searchsorted(total, _TAIL * total[-1])))


def _folded(counts: Any) -> Any:
    """The same array up to the cut, with all that lies beyond in its last column."""
    cut = _cut(counts)
    folded = counts[:, : cut + 1].copy()
    folded[:, cut] = counts[:, cut:].sum(axis=1)
    return folded


def _heat_map(figure: Figure, axis: Axes, counts: Any) -> None:
    folded = _folded(counts)
    share = folded / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(share * 100, aspect="auto", cmap="Blues", interpolation="nearest", vmin=0, origin="lower")
    axis.grid(False)
    axis.set_title("each worker's commits")
    axis.set_xlabel("staleness (commits)")
    axis.set_ylabel("worker")
    whole_ticks(axis.xaxis)
    whole_ticks(axis.yaxis)
    figure.colorbar(image, ax=axis, label="share (%)", pad=0.02)


def _overall(axis: Axes, counts: Any, *, law: Any) -> None:
    folded = _folded(counts).sum(axis=0)
    share, at = folded / folded.sum() * 100, np.arange(len(folded))
    axis.bar(at, share, width=1.0, color=LOOKS["ssgd-linear"].colour, alpha=0.75, linewidth=0, label="measured")
    if law is not None:
        expected = 100 * np.append(law[: len(folded) - 1], 1 - law[: len(folded) - 1].sum())
        axis.plot(at, expected, color=LOOKS["asgd"].colour, marker=".", label="theory: (1/W) ((W-1)/W)$^k$")
    mean = float((counts.sum(axis=0) * np.arange(counts.shape[1])).sum() / counts.sum())
    axis.axvline(mean, color=INK, linewidth=1, linestyle=":", label=f"mean {mean:.1f}")
    axis.set_title(f"all workers (last bar: {len(folded) - 1} and more)")
    axis.set_xlabel("staleness (commits)")
    axis.set_ylabel("share of commits (%)")
    axis.legend(frameon=False, fontsize=9)
