"""`tune` and `compare --tuned`: every algorithm gets the same budget, then best is compared with best.

Three stages, each resumable since a finished run is not run again:

1. trials, equally many for every algorithm, on seeds that are used for nothing else: five learning rates, found by
   walking from the recipe's towards the better side in factors of 3 and then between the two best (or one common grid
   where one is given); then finer trials: of the algorithm's strength (lambda0 and the like) at its best learning rate
   where it has one, of learning rates beside the best where it has none;
2. the choice, by validation data;
3. the runs that are reported, on other seeds: each algorithm at its choice, and at the untouched recipe. The controls
   of one algorithm run where it runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tardigrad.algorithms import CONTROLS, TUNED, configure, control_of
from tardigrad.assembling import blueprint_of, resolve_rule
from tardigrad.compare import Outcome, prepare_directory, require_no_store, run_all
from tardigrad.config import FORMAT, RunConfig
from tardigrad.durable import write_json
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer
from tardigrad.imports import import_all
from tardigrad.metrics.runs import find_runs
from tardigrad.metrics.scores import choice_score, metric_of, score
from tardigrad.rules.base import make_rule

SEARCH = 5
"""Learning rates that are tried for each algorithm where no grid is given."""
_STEP = 3.0
_STRENGTH_STEP = 4.0
_LEARNT = 0.1  # a run that improves on its initial weights by less than a tenth has learnt nothing
_Setting = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Budget:
    """The trials that every algorithm is given alike.

    Attributes:
        lrs: one common grid of learning rates; empty: each algorithm searches its own five, from the recipe's on.
        finer: further trials around the best, an even number >= 0.
        seeds: of the trials.
    """

    lrs: tuple[float, ...] = ()
    finer: int = 2
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuse an odd number, and trials without a seed."""
        if require_integer("tune", "finer", self.finer, low=0) % 2:
            raise InvalidArgument(f"finer={self.finer} must be even: as many trials above the best as below it.")
        if not self.seeds:
            raise InvalidArgument("trials need at least one seed, such as --tune-seeds 0.")

    @property
    def trials(self) -> int:
        """Settings that are tried for each algorithm."""
        return (len(set(self.lrs)) or SEARCH) + self.finer


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was tried: learning rate and rule (in full), and what it is chosen by.

    Attributes:
        lr, rule: the setting.
        runs: the directories' names, one per seed.
        score: mean over the seeds, the smaller the better; infinite where a run diverged or failed.
        status: "finished", or that of the first of its runs that did not: "diverged", "failed", or "learnt nothing"
            where it ended hardly better than the weights it began with.
    """

    lr: float
    rule: str
    runs: tuple[str, ...]
    score: float
    status: str

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"lr": self.lr, "rule": self.rule, "run": self.runs[0], "runs": list(self.runs)}
        return plain | {"score": self.score if math.isfinite(self.score) else None, "status": self.status}


@dataclass(frozen=True, slots=True)
class TunedComparison:
    """Which algorithms are tuned and compared how.

    Attributes:
        base: the recipe.
        algorithms: names as `configure` takes them.
        workers: numbers of workers; empty: the recipe's.
        seeds: of the runs that are reported; none of them is used for a trial.
        budget: the trials.
        controls_of: the algorithm whose controls are run too; None: none.
    """

    base: RunConfig
    algorithms: tuple[str, ...] = TUNED
    workers: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    budget: Budget = field(default_factory=Budget)
    controls_of: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would make the comparison unfair or empty."""
        shared = set(self.seeds) & set(self.budget.seeds)
        if shared:
            raise InvalidArgument(
                f"seed {min(shared)} is used for trials and reported too; name other --seeds or --tune-seeds."
            )
        if not self.algorithms:
            raise InvalidArgument("name at least one algorithm.")
        if self.controls_of is not None and self.controls_of not in self.algorithms:
            raise InvalidArgument(
                f"the controls are of {self.controls_of!r}, which is not compared; add it to --algorithms."
            )

    def arms(self) -> list[Arm]:
        """What is tuned: every algorithm at every number of workers, and clipping where there are controls."""
        names = [*self.algorithms, *(["clipping"] if self.controls_of and "clipping" not in self.algorithms else [])]
        counts = self.workers or (self.base.workers,)
        every = [Arm(name, configure(name, self.base, workers=workers)) for workers in counts for name in names]
        return list({(arm.name, arm.config.workers): arm for arm in every}.values())

    def trials(self) -> int:
        """How many trial runs there are."""
        return len(self.arms()) * self.budget.trials * len(self.budget.seeds)

    def most_runs(self) -> int:
        """How many runs there are at most: fewer where an algorithm's best is the untouched recipe."""
        treated = sum(arm.name == self.controls_of for arm in self.arms())
        controls = treated * (2 * len(CONTROLS) + ("asgd" in self.algorithms))
        return self.trials() + len(self.seeds) * (2 * len(self.arms()) + controls)

    def as_json(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Plain data for comparison.json."""
        plain: dict[str, Any] = {
            "format": FORMAT,
            "recipe": self.base.recipe or self.base.task,
            "algorithms": list(dict.fromkeys(arm.config.label for arm in self.arms())),
            "workers": list(self.workers or (self.base.workers,)),
            "lrs": sorted({trial.lr for choice in choices for trial in choice.trials}),
            "recipe_lr": self.base.lr,
            "seeds": list(self.seeds),
            "tuned": {
                "seeds": list(self.budget.seeds),
                "trials": self.budget.trials,
                "basis": "validation",
                "choices": [choice.as_json() for choice in choices],
            },
        }
        if self.controls_of is not None:
            plain["controls"] = {"of": self.controls_of, "labels": [*CONTROLS, "clipping"]}
        return plain


@dataclass(frozen=True, slots=True)
class Arm:
    """One algorithm at one number of workers, as the recipe has it."""

    name: str
    config: RunConfig

    @property
    def rule(self) -> str:
        """The recipe's rule, in full."""
        return resolve_rule(self.config)[0]

    def at(self, lr: float, rule: str, seed: int) -> RunConfig:
        """This arm with a learning rate, a rule and a seed."""
        config = self.config.replace(lr=lr, rule=rule, seed=seed)
        made, optimizer = resolve_rule(config)
        return config.replace(rule=made, optimizer=optimizer)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for an arm, and from what."""

    arm: Arm
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """See `best_of`."""
        return best_of(self.trials)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "label": self.arm.config.label,
            "workers": self.arm.config.workers,
            "lr": self.best.lr,
            "rule": self.best.rule,
            "recipe_rule": self.arm.rule,
            "trials": [trial.as_json() for trial in self.trials],
        }


@dataclass(frozen=True, slots=True)
class Stages:
    """Runs the stages of a tuned comparison below a directory.

    Args:
        comparison: what to run.
        directory: holds comparison.json and the run directories.
        jobs: runs at a time.
        finished: called after each run.
        deadline: seconds of the epoch at which to stop.
    """

    comparison: TunedComparison
    directory: Path
    jobs: int = 1
    finished: Callable[[Outcome], None] = lambda outcome: None
    deadline: float = math.inf

    def tune(self) -> tuple[list[Choice], list[Outcome]]:
        """The trials. The choices are empty where the time was up before the last trial."""
        comparison = self.comparison
        import_all(comparison.base.imports)
        require_integer("tune", "jobs", self.jobs, low=1)
        require_no_store([comparison.base])
        _require_validation(comparison.base)
        prepare_directory(self.directory, comparison.as_json([]))
        tried: dict[Arm, list[_Setting]] = {arm: [] for arm in comparison.arms()}
        outcomes: list[Outcome] = []
        for _ in range(comparison.budget.trials):  # at least one trial a turn
            wanted = {arm: self._next(arm, settings) for arm, settings in tried.items()}
            if not any(wanted.values()):
                break
            outcomes += self._run(wanted)
            if any(outcome.status == "stopped" for outcome in outcomes):
                return [], outcomes
            tried = {arm: settings + wanted[arm] for arm, settings in tried.items()}
        choices = [Choice(arm, self._trials(arm, settings)) for arm, settings in tried.items()]
        write_json(self.directory / "comparison.json", comparison.as_json(choices))
        return choices, outcomes

    def compare(self) -> list[Outcome]:
        """Trials, then what is reported."""
        choices, outcomes = self.tune()
        if not choices:
            return outcomes
        runs = {config.directory_name: config for config in final_runs(self.comparison, choices)}
        return outcomes + self._all(list(runs.values()))

    def _next(self, arm: Arm, settings: list[_Setting]) -> list[_Setting]:
        """What is to be tried next for an arm, by how it went so far; empty when its budget is spent."""
        budget, recipe_lr = self.comparison.budget, self.comparison.base.lr
        left = budget.trials - len(settings)
        if budget.lrs and not settings:
            return [(lr, arm.rule) for lr in sorted(set(budget.lrs))]
        if left <= budget.finer:
            return finer(self._trials(arm, settings), left)
        trials = self._trials(arm, settings)
        scores = {trial.lr: trial.score if trial.status == "finished" else math.inf for trial in trials}
        return [(lr, arm.rule) for lr in next_lrs(scores, recipe_lr)[: left - budget.finer]]

    def _run(self, settings: Mapping[Arm, Sequence[_Setting]]) -> list[Outcome]:
        seeds = self.comparison.budget.seeds
        every = [(arm, lr, rule) for arm, wanted in settings.items() for lr, rule in wanted]
        return self._all([arm.at(lr, rule, seed) for seed in seeds for arm, lr, rule in every])

    def _all(self, runs: Sequence[RunConfig]) -> list[Outcome]:
        return run_all(runs, self.directory, jobs=self.jobs, finished=self.finished, deadline=self.deadline)

    def _trials(self, arm: Arm, settings: Sequence[_Setting]) -> tuple[Trial, ...]:
        return tuple(self._trial(arm, lr, rule) for lr, rule in settings)

    def _trial(self, arm: Arm, lr: float, rule: str) -> Trial:
        names = tuple(arm.at(lr, rule, seed).directory_name for seed in self.comparison.budget.seeds)
        scored = [_score(self.directory / name) for name in names]
        status = next((status for _, status in scored if status != "finished"), "finished")
        return Trial(lr, rule, names, statistics.fmean(value for value, _ in scored), status)


def final_runs(comparison: TunedComparison, choices: Sequence[Choice]) -> Iterator[RunConfig]:
    """The runs that are reported: at the choice, at the recipe, and the controls at both."""
    for seed in comparison.seeds:
        for choice in choices:
            points = dict.fromkeys([(choice.best.lr, choice.best.rule), (comparison.base.lr, choice.arm.rule)])
            for lr, rule in points:
                yield choice.arm.at(lr, rule, seed)
                if choice.arm.name == comparison.controls_of:
                    yield from _controls(choices, choice, lr, rule, seed)


def _controls(choices: Sequence[Choice], treated: Choice, lr: float, rule: str, seed: int) -> Iterator[RunConfig]:
    """The controls of one point, and ASGD at its learning rate."""
    for name in CONTROLS:
        yield control_of(name, treated.arm.at(lr, rule, seed))
    for choice in choices:
        if choice.arm.name == "asgd" and choice.arm.config.workers == treated.arm.config.workers:
            yield choice.arm.at(lr, choice.arm.rule, seed)


def next_lrs(scores: Mapping[float, float], start: float) -> list[float]:
    """The learning rates to try next: first ``start`` and its neighbours a factor of 3 away, then towards the better.

    Args:
        scores: of the learning rates tried so far, the smaller the better.
        start: the recipe's learning rate.

    Where the best lies at an edge the next is a factor of 3 beyond it; else they lie between the best and its
    neighbours, the better neighbour's side first.
    """
    if not scores:
        return [_rounded(start * factor) for factor in (1.0 / _STEP, 1.0, _STEP)]
    lrs = sorted(scores)
    best = min(lrs, key=lambda lr: (scores[lr], lr))
    if best == lrs[0]:
        return [_rounded(best / _STEP)]
    if best == lrs[-1]:
        return [_rounded(best * _STEP)]
    below, above = lrs[lrs.index(best) - 1], lrs[lrs.index(best) + 1]
    return [_rounded(math.sqrt(best * side)) for side in sorted((below, above), key=lambda lr: (scores[lr], lr))]


def finer(trials: Sequence[Trial], number: int) -> list[_Setting]:
    """Settings beside the best: of the rule's strength where it has one, else of the learning rate.

    A strength is divided and multiplied by 4, 16 and so on; a learning rate by fractions of the factor 3, at most the
    way to the next one tried.
    """
    best = best_of(trials)
    steps = [sign * (k + 1) for k in range(number // 2) for sign in (-1, 1)]
    rule = make_rule(best.rule)
    name = rule.compensation.strength
    value: Any = getattr(rule.compensation, name) if name else ""
    if name is not None and not isinstance(value, str):  # "auto" is chosen while it trains
        return [(best.lr, make_rule(best.rule, **{name: value * _STRENGTH_STEP**step}).spec) for step in steps]
    gap = min((abs(math.log(trial.lr / best.lr)) for trial in trials if trial.lr != best.lr), default=math.log(_STEP))
    return [(_rounded(best.lr * math.exp(gap * step / (number // 2 + 1))), best.rule) for step in steps]


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest score; of equal ones the smallest learning rate."""
    return min(trials, key=lambda trial: (trial.score, trial.lr))


def _rounded(lr: float) -> float:
    return float(f"{lr:.3g}")


def _score(directory: Path) -> tuple[float, str]:
    """What a run is chosen by (infinite unless it finished), and its status.

    A run that is hardly better than its initial weights has learnt nothing: among such runs chance decides, and a
    search that believed it would stay on the plateau where an algorithm fails at every rate it was given.
    """
    runs = find_runs([directory]) if (directory / "config.json").exists() else []
    if not runs or runs[0].status != "finished":
        return math.inf, runs[0].status if runs else "failed"
    metric = metric_of(runs)
    reached = choice_score(score(runs[0], metric), "validation", metric)
    before = float(runs[0].evaluations[0]["validation"][metric.name]) * metric.scale
    before = before if metric.lower_is_better else -before
    return reached, "finished" if reached <= before - _LEARNT * abs(before) else "learnt nothing"


def _require_validation(base: RunConfig) -> None:
    if blueprint_of(base).build_task().validation is None:
        raise InvalidArgument(
            f"task {base.task!r} has no validation split, so there is nothing to choose by; give it one, "
            'such as --task "cifar10(validation=5000)".'
        )
