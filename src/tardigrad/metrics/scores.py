"""One run's numbers: last, best epoch, mean of the last ten; and the number a learning rate is chosen by.

Four rules hold throughout. The evaluation at version 0 never counts. The mean of the last ten evaluations takes
in at most the last half of them, so that a short run is not judged by how it began. A learning rate is chosen by
that mean on validation data, never by test data. A diverged run is worth what its diverged weights are worth: its
good epochs before are gone, so its ``last_ten`` is its last evaluation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tardigrad.metrics.runs import Metric, RunRecord

LAST = 10
Basis = Literal["validation", "training loss", "nothing"]


@dataclass(frozen=True, slots=True)
class SplitScores:
    """Numbers of one run on one split, in the metric's displayed unit; None where none was measured.

    Attributes:
        final: the last evaluation.
        best: the best evaluation, chosen on the split itself; on test data, as in the paper's Table 1.
        best_epoch: epochs applied when ``best`` was measured.
        last_ten: mean of the last ten evaluations, at most the last half (of a diverged run: the last).
        averaged: how many evaluations ``last_ten`` is the mean of, 0 to 10.
    """

    final: float | None = None
    best: float | None = None
    best_epoch: float | None = None
    last_ten: float | None = None
    averaged: int = 0


@dataclass(frozen=True, slots=True)
class RunScores:
    """One run and what it reached.

    Attributes:
        run: the run.
        test: scores on test data.
        validation: scores on validation data.
        training: the same for the training loss between evaluations.
    """

    run: RunRecord
    test: SplitScores
    validation: SplitScores
    training: SplitScores

    def split(self, name: str) -> SplitScores:
        """``test`` or ``validation`` by name."""
        return self.validation if name == "validation" else self.test


def score(run: RunRecord, metric: Metric) -> RunScores:
    """All scores of a run."""
    loss = Metric("loss")
    return RunScores(
        run=run,
        test=_split(run, "test", metric),
        validation=_split(run, "validation", metric),
        training=_split(run, "train", loss),
    )


def curve(run: RunRecord, split: str, metric: Metric, *, against: str = "epoch") -> tuple[list[float], list[float]]:
    """Positions (``epoch``, ``time`` in seconds or ``version``) and values of evaluations after version 0.

    Values are in the displayed unit; an evaluation without a finite number is left out.
    """
    pairs = [(float(r[against]), _value(r, split, metric)) for r in run.evaluations if r.get("version", 0) > 0]
    kept = [(x, y) for x, y in pairs if y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def metric_of(runs: Sequence[RunRecord]) -> Metric:
    """The metric of the runs' task; while none has ended, ``error`` in percent or what comes first."""
    for run in runs:
        if run.metric is not None:
            return run.metric
    names = [name for run in runs for record in run.evaluations for name in record.get("test", {})]
    if "error" in names:
        return Metric("error", 100.0, "%")
    return Metric(next((name for name in names if name != "loss"), "loss"))


def choice_basis(scores: Iterable[RunScores]) -> Basis:
    """What the learning rate can be chosen by for all these runs: validation data, else the training loss."""
    listed = list(scores)
    if any(s.validation.averaged for s in listed):
        return "validation"
    return "training loss" if any(s.training.averaged for s in listed) else "nothing"


def choice_score(scores: RunScores, basis: Basis, metric: Metric) -> float:
    """What the learning rate is chosen by, the smaller the better; infinite for a run without."""
    if basis == "training loss":
        value = scores.training.last_ten
        return math.inf if value is None else value
    value = scores.validation.last_ten
    if value is None:
        return math.inf
    return value if metric.lower_is_better else -value


def averaged_of(evaluations: int) -> int:
    """How many of so many evaluations after version 0 the mean of the last ten takes in: at most the last half, >= 1.

    >>> [averaged_of(n) for n in (1, 2, 4, 19, 20, 160)]
    [1, 1, 2, 9, 10, 10]
    """
    return min(LAST, max(1, evaluations // 2))


def _split(run: RunRecord, split: str, metric: Metric) -> SplitScores:
    records = [r for r in run.evaluations if r.get("version", 0) > 0 and split in r]
    if not records:
        return SplitScores()
    values = [_value(r, split, metric) for r in records]
    measured = [(v, float(r["epoch"])) for v, r in zip(values, records, strict=True) if v is not None]
    best, epoch = _best(measured, metric)
    tail = values[-1:] if run.diverged else values[-averaged_of(len(values)) :]
    finite = [v for v in tail if v is not None]
    whole = len(finite) == len(tail)  # a mean over what is left of a broken tail would flatter the run
    return SplitScores(
        final=values[-1],
        best=best,
        best_epoch=epoch,
        last_ten=statistics.fmean(finite) if whole else None,
        averaged=len(tail),
    )


def _best(measured: list[tuple[float, float]], metric: Metric) -> tuple[float | None, float | None]:
    if not measured:
        return None, None
    # Of equal values the earliest epoch is named.
    return min(measured, key=lambda pair: (pair[0] if metric.lower_is_better else -pair[0], pair[1]))


def _value(record: object, split: str, metric: Metric) -> float | None:
    stored = record.get(split, {}).get(metric.name) if isinstance(record, dict) else None
    if stored is None or not math.isfinite(stored):
        return None
    return float(stored) * metric.scale
