"""What ``comparison.json`` says of a comparison's tuning and of its controls.

Trial runs choose a learning rate (and a rule's own strength) for each algorithm and worker count. Then every algorithm
runs with other seeds at two points: its *best* point, the chosen learning rate and rule, and the *untouched recipe*,
the learning rate and rule of the recipe. Controls run at the same two points of the rule they spoil.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tardigrad.errors import RunDirectoryError
from tardigrad.metrics.variants import spec_options

Point = Literal["best", "recipe"]
POINTS: tuple[Point, ...] = ("best", "recipe")
TUNED_CONTROLS = ("clipping",)
"""Controls that have a learning rate of their own, tuned like any other rule's."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was tried; ``score`` is what was chosen by, lower is better; ``runs`` are directories' names."""

    runs: tuple[str, ...]
    lr: float
    rule: str
    score: float | None
    status: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What tuning chose for one algorithm at one worker count; ``lr`` None while nothing is chosen."""

    label: str
    workers: int
    lr: float | None
    rule: str
    recipe_rule: str
    trials: tuple[Trial, ...]

    @property
    def changed(self) -> str:
        """``lambda0=4.0``: in what the chosen rule differs from the recipe's; empty for nothing."""
        return changed_words(self.rule, self.recipe_rule)


@dataclass(frozen=True, slots=True)
class TunedPlan:
    """``comparison.json`` of a tuned comparison.

    Attributes:
        algorithms: their labels in order, with the controls that are tuned.
        workers: worker counts of the parallel ones.
        recipe_lr: the untouched recipe's learning rate.
        seeds: those reported; never one of the trial runs'.
        trial_seeds: the trial runs'.
        choices: those made so far.
        treated: the rule the controls spoil; empty without controls.
        controls: labels of the controls that run at the treated rule's points.
        spoiling: labels of all controls, in the plan's order: with those that are tuned.
    """

    algorithms: tuple[str, ...]
    workers: tuple[int, ...]
    recipe_lr: float
    seeds: tuple[int, ...]
    trial_seeds: tuple[int, ...]
    choices: tuple[Choice, ...]
    treated: str = ""
    controls: tuple[str, ...] = ()
    spoiling: tuple[str, ...] = ()

    def choice(self, label: str, workers: int) -> Choice | None:
        """What was chosen for an algorithm; None while nothing is."""
        return next((c for c in self.choices if (c.label, c.workers, c.lr is None) == (label, workers, False)), None)

    def place(self, label: str, workers: int, point: Point) -> tuple[float, str] | None:
        """Learning rate and rule of an algorithm's point; None while nothing is chosen."""
        choice = self.choice(label, workers)
        if choice is None or choice.lr is None:
            return None
        return (self.recipe_lr, choice.recipe_rule) if point == "recipe" else (choice.lr, choice.rule)

    def one_point(self, label: str, workers: int) -> bool:
        """Whether an algorithm's best point is the untouched recipe: the same runs serve both."""
        best, recipe = (self.place(label, workers, point) for point in POINTS)
        return best is not None and recipe is not None and best[0] == recipe[0] and same_rule(best[1], recipe[1])

    def expected(self) -> list[tuple[str, int]]:
        """Every algorithm and worker count the plan asks for; ``sequential`` once, with one worker."""
        found = [("sequential", 1)] if "sequential" in self.algorithms else []
        rest = [label for label in self.algorithms if label != "sequential"]
        return found + [(label, workers) for workers in self.workers for label in rest]


def tuned_plan(plan: Mapping[str, Any]) -> TunedPlan | None:
    """Read ``tuned`` and ``controls`` of a ``comparison.json``; None for a comparison that is not tuned.

    Raises:
        RunDirectoryError: a part is missing or of another kind.
    """
    if "tuned" not in plan:
        return None
    try:
        return _read(plan, plan["tuned"], plan.get("controls") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(
            f"comparison.json has a part 'tuned' that cannot be read ({type(error).__name__}: {error}). "
            "Run the comparison again with the same directory: finished runs are kept, the file is written anew."
        ) from error


def _read(plan: Mapping[str, Any], tuned: Mapping[str, Any], controls: Mapping[str, Any]) -> TunedPlan:
    choices = tuple(_choice(entry) for entry in tuned.get("choices", ()))
    chosen = {choice.label for choice in choices}
    spoiling = [str(label) for label in controls.get("labels", ())]
    own = [label for label in spoiling if label in TUNED_CONTROLS or label in chosen]
    of = str(controls.get("of", ""))
    trial_seeds = tuple(int(seed) for seed in tuned["seeds"])
    return TunedPlan(
        algorithms=tuple(dict.fromkeys([*map(str, plan["algorithms"]), *own])),
        workers=tuple(int(count) for count in plan["workers"]),
        recipe_lr=float(plan["recipe_lr"]),
        seeds=tuple(int(seed) for seed in plan["seeds"] if int(seed) not in trial_seeds),
        trial_seeds=trial_seeds,
        choices=choices,
        treated=next((label for label in map(str, plan["algorithms"]) if same_rule(label, of)), of),
        controls=tuple(label for label in spoiling if label not in own),
        spoiling=tuple(spoiling),
    )


def _choice(entry: Mapping[str, Any]) -> Choice:
    recipe_rule = str(entry["recipe_rule"])
    return Choice(
        label=str(entry["label"]),
        workers=int(entry["workers"]),
        lr=None if entry.get("lr") is None else float(entry["lr"]),
        rule=str(entry.get("rule") or recipe_rule),
        recipe_rule=recipe_rule,
        trials=tuple(_trial(trial) for trial in entry.get("trials", ())),
    )


def _trial(entry: Mapping[str, Any]) -> Trial:
    value = entry.get("score")
    return Trial(
        runs=tuple(str(name) for name in entry.get("runs") or [entry["run"]]),
        lr=float(entry["lr"]),
        rule=str(entry["rule"]),
        score=None if value is None else float(value),
        status=str(entry["status"]),
    )


def same_rule(a: str, b: str) -> bool:
    """Whether two specs say the same: ``2`` is ``2.0``, and the order of keywords does not matter."""
    return a == b or _parsed(a) == _parsed(b)


def changed_words(rule: str, recipe_rule: str) -> str:
    """``lambda0=4.0`` for a rule that differs from the recipe's in that; the whole rule where their names differ."""
    mine, theirs = _parsed(rule), _parsed(recipe_rule)
    if mine == theirs:
        return ""
    if mine[0] != theirs[0]:
        return rule
    differing = [key for key in mine[1] if mine[1][key] != theirs[1].get(key)]
    return ", ".join(f"{key}={mine[1][key]}" for key in differing)


def wraps(rule: str, of: str) -> bool:
    """Whether a control wraps a rule; one that does not say what it wraps is taken at its learning rate alone."""
    inner = _parsed(rule)[1].get("of")
    return inner is None or same_rule(str(inner), of)


def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    return spec_options(spec) or (spec, {})
