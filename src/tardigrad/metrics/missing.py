"""What a comparison under way still lacks: choices, seeds of an algorithm, seeds of a control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tardigrad.metrics.cells import Cell
from tardigrad.metrics.quantities import counted, listing
from tardigrad.metrics.tuned import Tuning
from tardigrad.metrics.tuned_plan import POINTS, Point

_WHERE = {"best": "at its best point", "recipe": "at the untouched recipe"}


def missing(tuning: Tuning) -> list[str]:
    """Sentences on what the plan asks for and no run has shown yet; empty for a whole comparison."""
    plan = tuning.plan
    waiting = [_name(label, [workers]) for label, workers in plan.expected() if plan.choice(label, workers) is None]
    result = [f"No learning rate is chosen yet for: {listing(waiting)}."] if waiting else []
    # seeds -> label -> worker count -> points at which these seeds are lacking
    lacking: dict[tuple[str, ...], dict[str, dict[int, list[Point]]]] = defaultdict(lambda: defaultdict(dict))
    for label, workers, point, cell in _cells(tuning):
        seeds = tuple(str(seed) for seed in plan.seeds if cell is None or seed not in cell.seeds)
        if seeds:
            lacking[seeds][label].setdefault(workers, []).append(point)
    runs = sum(len(seeds) * len(p) for seeds, labels in lacking.items() for at in labels.values() for p in at.values())
    if runs:
        result.append(f"Of the reported runs {runs} are missing or have not ended.")
    return result + [_sentence(tuning, seeds, labels) for seeds, labels in lacking.items()]


def _cells(tuning: Tuning) -> Iterator[tuple[str, int, Point, Cell | None]]:
    """Every point the plan asks for, as far as it is known, and its runs; controls of what is not chosen are not."""
    plan = tuning.plan
    for label, workers in plan.expected():
        for point in _points(tuning, label, workers):
            yield label, workers, point, tuning.point(label, workers, point)
    for label in plan.controls:
        for workers in plan.workers:
            for point in _points(tuning, plan.treated, workers):
                yield label, workers, point, tuning.control(label, workers, point)


def _points(tuning: Tuning, label: str, workers: int) -> tuple[Point, ...]:
    if tuning.plan.choice(label, workers) is None:
        return ()
    return POINTS[:1] if tuning.plan.one_point(label, workers) else POINTS


def _sentence(tuning: Tuning, seeds: tuple[str, ...], labels: dict[str, dict[int, list[Point]]]) -> str:
    """``Seeds 4 and 5: ssgd with 8 and 32 workers; asgd with 8 workers at the untouched recipe.``"""
    every = "All seeds" if len(seeds) == len(tuning.plan.seeds) > 1 else ""
    head = every or f"{'Seed' if len(seeds) == 1 else 'Seeds'} {listing(seeds)}"
    words = []
    for label, at in labels.items():
        alike: dict[str, list[int]] = defaultdict(list)
        for workers, points in at.items():
            alike["" if len(points) > 1 else _WHERE[points[0]]].append(workers)
        words += [" ".join(filter(None, (_name(label, counts), where))) for where, counts in alike.items()]
    return f"{head}: {'; '.join(words)}."


def _name(label: str, workers: list[int]) -> str:
    """``ssgd with 8 and 32 workers``; ``sequential``, which has one worker everywhere."""
    if workers == [1]:
        return label
    if len(workers) == 1:
        return f"{label} with {counted(workers[0], 'worker')}"
    return f"{label} with {listing([str(count) for count in workers])} workers"
