"""Runs grouped into cells (algorithm, workers, learning rate) over seeds, and what can be said between cells.

The learning rate of each algorithm is chosen on validation data; shown and compared is test data.
Differences are paired over the seeds both sides have: the same seed means the same initial weights, sample
order and delays, so the pairing removes what both share.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tardigrad.errors import RunDirectoryError
from tardigrad.metrics.cells import Cell, Paired, Series, Window
from tardigrad.metrics.runs import Metric, RunRecord, find_plan
from tardigrad.metrics.scores import Basis, RunScores, choice_basis, choice_score, curve, metric_of, score
from tardigrad.metrics.student import t_interval
from tardigrad.metrics.tuned import Tuning, tuning_of
from tardigrad.metrics.tuned_plan import TunedPlan, tuned_plan
from tardigrad.metrics.variants import variant_labels

ORDER = (
    *("sequential", "ssgd", "ssgd-linear", "m-synchronous"),
    *("asgd", "staleness-lr", "dc-asgd-c", "dc-asgd-a", "dc-asgd", "dc-lowrank"),
    *("clipping", "sign-flipped", "sign-random", "its-length", "its-direction"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything a report shows.

    Attributes:
        metric: the task's metric.
        split: what is shown: ``test``, or ``validation`` for a task without test data.
        basis: what learning rates were chosen by.
        series: all algorithms and worker counts, in the comparison's order.
        recipe_lr: the learning rate of the unchanged recipe; None when unknown.
        recipe_lr_source: words saying where it comes from.
        tolerance: width of the window of learning rates, in the metric's displayed unit.
        left_out: sentences naming runs that were not counted.
        tuning: of a tuned comparison, its plan and all its points; None for a grid.
        trials: of a tuned comparison, its trial runs as a grid of their own, on validation data.
        notice: a sentence that stands before everything else; mostly empty.
    """

    metric: Metric
    split: str
    basis: Basis
    series: tuple[Series, ...]
    recipe_lr: float | None
    recipe_lr_source: str
    tolerance: float
    left_out: tuple[str, ...]
    tuning: Tuning | None = None
    trials: Comparison | None = None
    notice: str = ""

    @property
    def runs(self) -> list[RunRecord]:
        """Every run that counts."""
        return [s.run for series in self.series for cell in series.cells for s in cell.scores]

    @property
    def lrs(self) -> list[float]:
        """Every learning rate tried, rising."""
        return sorted({cell.lr for series in self.series for cell in series.cells})

    @property
    def seeds(self) -> list[int]:
        """Every seed, rising."""
        return sorted({run.seed for run in self.runs})

    @property
    def sequential(self) -> Series | None:
        """The series called ``sequential``, else the first with one worker."""
        single = [s for s in self.series if s.workers == 1]
        return next((s for s in single if s.label == "sequential"), single[0] if single else None)

    @property
    def worker_counts(self) -> list[int]:
        """The worker counts to compare at, rising; [1] only where nothing ran in parallel."""
        return sorted({s.workers for s in self.series if s.workers > 1}) or [1]

    def algorithms(self, workers: int) -> list[Series]:
        """What ran with this many workers, ``sequential`` left out."""
        return [s for s in self.series if s.workers == workers and s is not self.sequential]

    def baseline(self, workers: int) -> Series | None:
        """``asgd`` at this worker count: what compensation has to improve on."""
        return next((s for s in self.algorithms(workers) if s.label == "asgd"), None)

    def at_recipe(self, series: Series) -> Cell | None:
        """Its cell at the recipe's learning rate, in a tuned comparison at the recipe's rule too; None if not run."""
        return series.at(self.recipe_lr) if self.tuning is None else series.recipe

    def by_seed(self, cell: Cell) -> dict[int, float]:
        """What is compared, per seed: the mean of the last ten, for the seeds that have one."""
        values = ((s.run.seed, s.split(self.split).last_ten) for s in cell.scores)
        return {seed: value for seed, value in values if value is not None}

    def paired(self, a: Cell, b: Cell) -> Paired | None:
        """Advantage of ``a`` over ``b`` over the seeds both have a number for; None where they share none."""
        mine, other = self.by_seed(a), self.by_seed(b)
        seeds = tuple(seed for seed in mine if seed in other)
        sign = 1.0 if self.metric.lower_is_better else -1.0
        differences = tuple(sign * (other[seed] - mine[seed]) for seed in seeds)
        if not differences:
            return None
        return Paired(seeds, differences, statistics.fmean(differences), t_interval(differences))

    def window(self, series: Series) -> Window:
        """The learning rates the algorithm tolerates; empty where it diverged even at the chosen one."""
        cells, chosen = series.cells, series.chosen
        if chosen is None or not self._tolerates(chosen, chosen):
            return Window((), False, False)
        low = high = cells.index(chosen)
        while low > 0 and self._tolerates(cells[low - 1], chosen):
            low -= 1
        while high < len(cells) - 1 and self._tolerates(cells[high + 1], chosen):
            high += 1
        return Window(tuple(c.lr for c in cells[low : high + 1]), low == 0, high == len(cells) - 1)

    def time_to(self, cell: Cell, target: float) -> list[float | None]:
        """Per seed: seconds to the first evaluation no worse than ``target``; None where there is none."""
        return [self._first(s.run, target) for s in cell.scores]

    def _first(self, run: RunRecord, target: float) -> float | None:
        if run.diverged:
            return None
        times, values = curve(run, self.split, self.metric, against="time")
        reached = (v <= target if self.metric.lower_is_better else v >= target for v in values)
        return next((t for t, done in zip(times, reached, strict=True) if done), None)

    def _tolerates(self, cell: Cell, chosen: Cell) -> bool:
        here, there = cell.last_ten(self.split).mean, chosen.last_ten(self.split).mean
        if cell.diverged or here is None or there is None:
            return False
        worse = here - there if self.metric.lower_is_better else there - here
        return worse <= self.tolerance + 1e-9


def compare_runs(
    runs: Sequence[RunRecord],
    plan: Mapping[str, Any] | None = None,
    *,
    recipe_lr: float | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Group runs, choose learning rates and fix what is compared.

    In a tuned comparison the choices are the plan's and trial runs are kept apart. While none of its reported runs
    has ended, what is compared are the trial runs, on validation data, and a sentence says so.

    Args:
        runs: as `tardigrad.metrics.runs.find_runs` gives them; one is enough.
        plan: ``comparison.json``; looked up beside the runs when None.
        recipe_lr: the unchanged recipe's learning rate; by default the plan's, else what ``sequential``
            chose.
        tolerance: width of the window of learning rates in the displayed unit; by default 2 points for a
            metric in percent, else a tenth of the best mean.

    Raises:
        RunDirectoryError: no run, runs of several tasks, or a ``comparison.json`` that cannot be read.
    """
    plan = find_plan(runs) if plan is None else plan
    counted, left_out = _counted(runs)
    metric = metric_of(counted)
    scores = [score(run, metric) for run in counted]
    basis = choice_basis(scores)
    split = "test" if any(s.test.averaged for s in scores) else "validation"
    tuned = tuned_plan(plan) if len(counted) > 1 else None
    if tuned is not None:
        draft = _tuned(scores, tuned, draft=Comparison(metric, split, basis, (), None, "", 0.0, tuple(left_out)))
    else:
        series = _series(scores, plan, basis=basis, metric=metric)
        draft = Comparison(metric, split, basis, series, None, "", 0.0, tuple(left_out))
    lr, source = _recipe_lr(draft, plan, recipe_lr)
    width = _tolerance(draft) if tolerance is None else tolerance
    trials = replace(draft.trials, recipe_lr=lr, recipe_lr_source=source, tolerance=width) if draft.trials else None
    return replace(draft, recipe_lr=lr, recipe_lr_source=source, tolerance=width, trials=trials)


def _tuned(scores: Sequence[RunScores], plan: TunedPlan, *, draft: Comparison) -> Comparison:
    tuning = tuning_of(scores, plan)
    trials = _trials(tuning, draft)
    series = tuning.series()
    if series:
        notes = draft.left_out + tuning.left_out
        return replace(draft, series=series, left_out=notes, tuning=tuning, trials=trials)
    if trials is None:
        raise RunDirectoryError(
            "none of these runs is one that comparison.json reports, and none a trial run with validation data. "
            "Run the comparison again with the same directory, or name single runs to look at."
        )
    notice = "Only trial runs have ended so far: shown are they, on validation data, and none of this is a result."
    return replace(trials, left_out=draft.left_out, notice=notice)


def _trials(tuning: Tuning, draft: Comparison) -> Comparison | None:
    """The trial runs over learning rates as a grid, each series at the rate the plan chose; None without any."""
    scores = [s for s in tuning.sweep() if s.validation.averaged]
    if not scores:
        return None
    order = {"algorithms": tuning.plan.algorithms}
    found = []
    for series in _series(scores, order, basis=draft.basis, metric=draft.metric):
        choice = tuning.plan.choice(series.label, series.workers)
        chosen = series.at(choice.lr) if choice is not None else series.chosen
        found.append(replace(series, chosen=chosen))
    return replace(draft, split="validation", series=tuple(found), left_out=())


def _counted(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    if not runs:
        raise RunDirectoryError("there is no run to report. Type the directory of a run or of a comparison.")
    tasks = sorted({str(run.config["task"]) for run in runs})
    if len(tasks) > 1:
        raise RunDirectoryError(
            f"runs of several tasks ({', '.join(tasks)}) cannot stand in one report: give one task."
        )
    ended = [run for run in runs if run.status in ("finished", "diverged")]
    notes = []
    if not ended:
        notes.append("No run has ended: the numbers are those of the last evaluation so far.")
    elif len(ended) < len(runs):
        names = ", ".join(run.path.name for run in runs if run not in ended)
        notes.append(f"{len(runs) - len(ended)} of {len(runs)} runs have not ended and are left out: {names}.")
    labels = variant_labels(ended or runs)
    unique: dict[tuple[str, int, float, int], RunRecord] = {}
    for run in ended or runs:
        key = (labels[run.path], run.workers, run.lr, run.seed)
        if key in unique:
            notes.append(f"{run.path.name} repeats {unique[key].path.name} and is left out.")
        unique.setdefault(key, run)
    return list(unique.values()), notes


def _series(
    scores: Sequence[RunScores], plan: Mapping[str, Any], *, basis: Basis, metric: Metric
) -> tuple[Series, ...]:
    labels = variant_labels([s.run for s in scores])
    grouped: dict[tuple[str, int], dict[float, list[RunScores]]] = defaultdict(lambda: defaultdict(list))
    for s in scores:
        grouped[labels[s.run.path], s.run.workers][s.run.lr].append(s)
    order = [str(name) for name in plan.get("algorithms", ())] or list(ORDER)
    keys = sorted(grouped, key=lambda key: (key[1], _rank(key[0], order), key[0]))
    result = []
    for label, workers in keys:
        by_lr = grouped[label, workers]
        cells = tuple(
            Cell(label, workers, lr, tuple(sorted(by_lr[lr], key=lambda s: s.run.seed))) for lr in sorted(by_lr)
        )
        result.append(Series(label, workers, cells, _choose(cells, basis=basis, metric=metric)))
    return tuple(result)


def _rank(label: str, order: Sequence[str]) -> int:
    name = label.partition(" (")[0]
    return order.index(name) if name in order else len(order)


def _choose(cells: Sequence[Cell], *, basis: Basis, metric: Metric) -> Cell | None:
    if len(cells) == 1:
        return cells[0]
    if basis == "nothing":
        return None
    # Of equally good rates the smallest: it is the one further from divergence.
    return min(cells, key=lambda c: (statistics.fmean(choice_score(s, basis, metric) for s in c.scores), c.lr))


def _recipe_lr(draft: Comparison, plan: Mapping[str, Any], given: float | None) -> tuple[float | None, str]:
    if given is not None:
        return given, "the recipe's own"
    if plan.get("recipe_lr") is not None:
        return float(plan["recipe_lr"]), "the recipe's own"
    sequential = draft.sequential
    if sequential is not None and sequential.chosen is not None and len(draft.series) > 1:
        return sequential.chosen.lr, f"the one chosen for {sequential.label} training"
    return None, ""


def _tolerance(draft: Comparison) -> float:
    if draft.metric.unit == "%":
        return 2.0
    means = [s.chosen.last_ten(draft.split).mean for s in draft.series if s.chosen is not None]
    finite = [m for m in means if m is not None]
    best = (min if draft.metric.lower_is_better else max)(finite, default=0.0)
    return 0.1 * abs(best)
