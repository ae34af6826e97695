"""The runs of a tuned comparison, sorted: trial runs, and the reported points of every algorithm and control.

Trial runs enter no number that is shown as a result: they stand in a comparison of their own, on validation data.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tardigrad.metrics.cells import Cell, Series
from tardigrad.metrics.scores import RunScores
from tardigrad.metrics.tuned_plan import POINTS, Choice, Point, TunedPlan, same_rule, wraps
from tardigrad.metrics.variants import setting


@dataclass(frozen=True, slots=True)
class Tuning:
    """A tuned comparison's plan and runs.

    Attributes:
        plan: the plan.
        cells: every point that has a reported run, controls included: all its reported seeds.
        trials: the trial runs.
        left_out: sentences naming runs that were not counted.
    """

    plan: TunedPlan
    cells: tuple[Cell, ...]
    trials: tuple[RunScores, ...]
    left_out: tuple[str, ...]

    def at(self, label: str, workers: int, *, lr: float, rule: str = "", of: str = "") -> Cell | None:
        """The cell at a learning rate; with ``rule``, of that rule; with ``of``, of a control that wraps that rule."""
        for cell in self.cells:
            same = (cell.label, cell.workers) == (label, workers) and math.isclose(cell.lr, lr, rel_tol=1e-9)
            if same and (not rule or same_rule(cell.rule, rule)) and (not of or wraps(cell.rule, of)):
                return cell
        return None

    def point(self, label: str, workers: int, point: Point) -> Cell | None:
        """An algorithm's own best point, or the untouched recipe; None where nothing has run there yet."""
        place = self.plan.place(label, workers, point)
        return None if place is None else self.at(label, workers, lr=place[0], rule=place[1])

    def control(self, label: str, workers: int, point: Point) -> Cell | None:
        """A control at one of the treated rule's points; a control that is tuned, at its own."""
        if label not in self.plan.controls:
            return self.point(label, workers, point)
        place = self.plan.place(self.plan.treated, workers, point)
        return None if place is None else self.at(label, workers, lr=place[0], of=place[1])

    def series(self) -> tuple[Series, ...]:
        """One per algorithm and worker count that has a run, in the plan's order: its best point and the recipe's."""
        found = []
        for workers in (1, *(count for count in self.plan.workers if count > 1)):
            for label in self.plan.algorithms:
                best, recipe = (self.point(label, workers, point) for point in POINTS)
                cells = {id(cell): cell for cell in (best, recipe) if cell is not None}
                if cells:
                    rising = tuple(sorted(cells.values(), key=lambda cell: cell.lr))
                    found.append(Series(label, workers, rising, best, recipe))
        return tuple(found)

    def sweep(self) -> list[RunScores]:
        """The trial runs over learning rates: those of the recipe's rule; where nothing is chosen yet, all."""
        found = []
        for s in self.trials:
            choice = self.plan.choice(s.run.label, s.run.workers)
            if choice is None or same_rule(s.run.rule, choice.recipe_rule):
                found.append(s)
        return found


def tuning_of(scores: Sequence[RunScores], plan: TunedPlan) -> Tuning:
    """Sort runs into trial runs and reported cells.

    Runs of one algorithm whose other settings differ from those of its trial runs (else from most) are left out:
    no mean is taken over apples and pears.
    """
    trials = [s for s in scores if s.run.seed in plan.trial_seeds]
    notes: list[str] = []
    cells: list[Cell] = []
    grouped: dict[tuple[str, int], list[RunScores]] = defaultdict(list)
    for s in scores:
        if s.run.seed in plan.seeds:
            grouped[s.run.label, s.run.workers].append(s)
    for (label, workers), group in grouped.items():
        kept = _of_one_setting(group, plan.choice(label, workers), trials)
        notes += _strangers(group, kept)
        cells += _cells(label, workers, kept)
    others = [s.run.path.name for s in scores if s.run.seed not in (*plan.seeds, *plan.trial_seeds)]
    if others:
        notes.append(f"Of a seed that the comparison does not name, and left out: {', '.join(others)}.")
    return Tuning(plan, tuple(cells), tuple(trials), tuple(notes))


def _of_one_setting(group: Sequence[RunScores], choice: Choice | None, trials: Sequence[RunScores]) -> list[RunScores]:
    but = frozenset({"rule"})
    named = {name for trial in choice.trials for name in trial.runs} if choice is not None else set()
    tried = {setting(s.run, but=but) for s in trials if s.run.path.name in named}
    known = [s for s in group if setting(s.run, but=but) in tried]
    if known:
        return known
    common = Counter(setting(s.run, but=but) for s in group).most_common(1)[0][0]
    return [s for s in group if setting(s.run, but=but) == common]


def _strangers(group: Sequence[RunScores], kept: Sequence[RunScores]) -> list[str]:
    have = {s.run.path for s in kept}
    names = [s.run.path.name for s in group if s.run.path not in have]
    if not names:
        return []
    return [f"Run with other settings than the rest of {group[0].run.label}, and left out: {', '.join(names)}."]


def _cells(label: str, workers: int, group: Sequence[RunScores]) -> Iterator[Cell]:
    points: dict[tuple[float, str], dict[int, RunScores]] = defaultdict(dict)
    for s in group:
        points[s.run.lr, s.run.rule].setdefault(s.run.seed, s)
    for (lr, _), found in points.items():
        yield Cell(label, workers, lr, tuple(found[seed] for seed in sorted(found)))
