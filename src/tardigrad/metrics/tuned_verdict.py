"""The verdict on a tuned comparison: best against best, the untouched recipe, the controls, synchronous training, time.

Every relation is that of a 95 % interval over paired seeds; none is drawn from trial runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from tardigrad.metrics.arrivals import arrival, target
from tardigrad.metrics.caveats import caveats, is_synchronous, sequential_wins
from tardigrad.metrics.cells import Cell, Series
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.contrasts import contrast, own_loss, own_losses
from tardigrad.metrics.controls import control_sentences
from tardigrad.metrics.grid_verdict import best_of, best_parallel, own_best, recipe, windows
from tardigrad.metrics.missing import missing
from tardigrad.metrics.quality import quality_sentences
from tardigrad.metrics.quantities import counted, listing, points, rate, seconds, spread, with_unit
from tardigrad.metrics.relations import evidence, penalty, place_words, relation, with_workers
from tardigrad.metrics.scores import choice_score
from tardigrad.metrics.sections import Section, Verdict
from tardigrad.metrics.tuned import Tuning
from tardigrad.metrics.tuned_plan import changed_words, same_rule


def tuned_verdict(c: Comparison) -> Verdict:
    """Put a tuned comparison into words; of one under way, first what is missing."""
    tuning = c.tuning
    assert tuning is not None
    lacking = missing(tuning)
    parts = [
        Section("Missing so far", tuple(lacking)),
        Section("Best against best", tuple(_best(c, tuning))),
        Section("The untouched recipe", tuple([*recipe(c), *_own_losses(c)])),
        Section(f"Controls: where the gain of {tuning.plan.treated} comes from", tuple(control_sentences(c))),
        Section("Synchronous or asynchronous", tuple(_synchronous(c))),
        Section("Time to the same quality", tuple(_times(c))),
        Section("Which learning rates each tolerates", tuple([*_windows(c, tuning), *_strengths(c, tuning)])),
        Section("Quality of the compensation", tuple(quality_sentences(c))),
        Section("To keep in mind", tuple([*_bad_choices(c), *caveats(c)])),
    ]
    headline = ("This comparison is not whole yet. " if lacking else "") + _headline(c, tuning)
    return Verdict(headline, tuple(part for part in parts if part.sentences))


def subject(c: Comparison, workers: int) -> Series | None:
    """What the headline is about: the rule that the controls spoil, else the best asynchronous algorithm, else any."""
    series = [s for s in c.algorithms(workers) if s.chosen is not None]
    treated = c.tuning.plan.treated if c.tuning is not None else ""
    named = next((s for s in series if s.label == treated), None)
    free = [s for s in series if not is_synchronous(s) and s.label != "asgd"]
    return named or best_of(c, free) or best_parallel(c, workers)


def _headline(c: Comparison, tuning: Tuning) -> str:
    told = [words for workers in c.worker_counts if (words := _headline_at(c, workers))]
    if told:
        return " ".join(told)
    shown = listing([f"{s.label} ({counted(s.workers, 'worker')})" for s in c.series])
    return f"So far there are runs of {shown}: nothing to compare."


def _headline_at(c: Comparison, workers: int) -> str:
    one = subject(c, workers)
    if one is None or one.chosen is None:
        return ""
    others = [s for s in (c.baseline(workers), c.sequential) if s is not None and s is not one]
    best = [relation(c, one.chosen, s.chosen) for s in others if s.chosen is not None]
    ends = f"{spread(one.chosen.last_ten(c.split), c.metric)} {c.metric.name} ({place_words(c, one.chosen)})"
    first = f"{with_workers(workers)}, best against best, {one.label} ends at {ends}"
    untouched = c.at_recipe(one)
    if untouched is None:
        return f"{first}{': ' if best else ''}{listing(best)}."
    there = [relation(c, untouched, cell) for s in others if (cell := c.at_recipe(s)) is not None]
    second = f" At the untouched recipe it ends at {spread(untouched.last_ten(c.split), c.metric)}"
    return f"{first}{': ' if best else ''}{listing(best)}.{second}{': ' if there else ''}{listing(there)}."


def _best(c: Comparison, tuning: Tuning) -> list[str]:
    plan = tuning.plan
    seeds, trials = (listing([str(seed) for seed in some]) for some in (plan.seeds, plan.trial_seeds))
    told = own_best(c)
    if not told:
        return []
    first = (
        "Each algorithm at the learning rate, and where it was tried the strength, that its trial runs chose. "
        f"Reported seeds: {seeds}; trial runs: {trials}. 'needs n seeds' stands where more are needed than there are: "
        "so many would make the interval exclude 0 in four comparisons of five, were the measured mean and spread the "
        "truth."
    )
    return [first, *told, *sequential_wins(c)]


def _own_losses(c: Comparison) -> list[str]:
    result = []
    alone = own_loss(c, c.sequential) if c.sequential is not None else None
    if alone is not None:
        result.append(f"Against its own best point, {penalty(c, alone.cell, alone.reference)}.")
    for workers in c.worker_counts:
        words = [penalty(c, one.cell, one.reference) for one in own_losses(c, workers)]
        at_home = [s.label for s in c.algorithms(workers) if s.chosen is not None and c.at_recipe(s) is s.chosen]
        words += [f"nothing {listing(at_home)}, whose best point is the untouched recipe"] if at_home else []
        if words:
            told = "; ".join(words)
            result.append(f"{with_workers(workers)}, what each loses there against its own best point: {told}.")
    return result


def _bad_choices(c: Comparison) -> list[str]:
    """Algorithms that surely end better at the untouched recipe than where their trials led them."""
    words = []
    for series in c.series:
        found = own_loss(c, series)
        if found is not None and found.paired is not None and found.kind == "better":
            name = f"{series.label} with {counted(series.workers, 'worker')}"
            words.append(f"{name} by {points(abs(found.paired.mean), c.metric)} ({evidence(c, found)})")
    if not words:
        return []
    return [
        f"The trials chose badly for {'; '.join(words)}: so much better does it end at the untouched recipe than at "
        "its best point. Best against best is unfair to it."
    ]


def _synchronous(c: Comparison) -> list[str]:
    """Synchronous training against the asynchronous rule at equal samples, then in time."""
    result = []
    for workers in c.worker_counts:
        series = [s for s in c.algorithms(workers) if s.chosen is not None]
        waiting, free = best_of(c, [s for s in series if is_synchronous(s)]), subject(c, workers)
        if waiting is None or waiting.chosen is None or free is None or free.chosen is None or is_synchronous(free):
            continue
        found = contrast(c, waiting.chosen, free.chosen)
        wins = {"better": "synchronous training wins", "worse": "asynchronous training wins"}
        ends = wins.get(found.kind, "neither is shown to win")
        head = f"{with_workers(workers)}, best against best and at equal samples, {waiting.label} ends"
        result.append(f"{head} {relation(c, waiting.chosen, free.chosen)}: in final {c.metric.name} {ends}.")
        result += _faster(c, waiting.chosen, free.chosen)
    return result


def _faster(c: Comparison, waiting: Cell, free: Cell) -> list[str]:
    """Time to the target; where neither gets there, to where the worse of the two ends."""
    ended = [end for cell in (waiting, free) if (end := cell.last_ten(c.split).mean) is not None]
    worse = (max if c.metric.lower_is_better else min)(ended, default=None)
    goals = [(goal, where) for goal, where in ((target(c), ""), (worse, ", where the worse of the two ends")) if goal]
    for goal, where in goals:
        times = arrival(c, waiting, goal), arrival(c, free, goal)
        if any(map(math.isfinite, times)):
            told = f"{waiting.label} {_when(times[0])}, {free.label} {_when(times[1])}"
            first = f"{'synchronous' if times[0] < times[1] else 'asynchronous'} training is there first"
            ends = "both need as long" if times[0] == times[1] else first
            to = f"{with_unit(goal, c.metric)} {c.metric.name}{where}"
            return [f"{with_workers(free.workers)}, {c.runs[0].clock} time to {to}: {told}; {ends}."]
    return []


def _times(c: Comparison) -> list[str]:
    goal, sequential = target(c), c.sequential
    if goal is None or sequential is None or len(c.series) < 2:
        return []
    tolerance = points(c.tolerance, c.metric)
    result = [
        f"Until the mean curve over the seeds first reaches {with_unit(goal, c.metric)} {c.metric.name}, which is "
        f"{tolerance} worse than {sequential.label} ends; each algorithm at its best point."
    ]
    for workers in c.worker_counts:
        cells = [s.chosen for s in (sequential, *c.algorithms(workers)) if s.chosen is not None]
        head = f"{with_workers(workers)}, {c.runs[0].clock} time"
        result.append(f"{head}: {_race(c, cells, goal)}.")
        asgd = next((cell for cell in cells if cell.label == "asgd"), None)
        level = asgd.last_ten(c.split).mean if asgd is not None else None
        if asgd is not None and level is not None and math.isinf(arrival(c, asgd, goal)):
            where = f"{with_unit(level, c.metric)} {c.metric.name}, where asgd ends"
            result.append(f"{head} to {where}: {_race(c, cells, level)}.")
    return result


def _race(c: Comparison, cells: Sequence[Cell], goal: float) -> str:
    """The fastest first, then those that never arrive."""
    reached = sorted((at, cell.label) for cell in cells if math.isfinite(at := arrival(c, cell, goal)))
    never = [cell.label for cell in cells if math.isinf(arrival(c, cell, goal))]
    return "; ".join(
        [f"{label} {seconds(at)}" for at, label in reached] + ([f"never {listing(never)}"] if never else [])
    )


def _when(at: float) -> str:
    return "never" if math.isinf(at) else seconds(at)


def _windows(c: Comparison, tuning: Tuning) -> list[str]:
    told = windows(c.trials) if c.trials is not None else []
    if not told:
        return []
    seeds = listing([str(seed) for seed in tuning.plan.trial_seeds])
    which = f"{'seed' if len(tuning.plan.trial_seeds) == 1 else 'seeds'} {seeds}"
    return [f"From the trial runs ({which}, validation data).", *told]


def _strengths(c: Comparison, tuning: Tuning) -> list[str]:
    """``dc-asgd-a, 8 workers, at 0.063: lambda0=2.0 43.1 %; lambda0=4.0 42.0 % (chosen).``"""
    result = []
    for choice in tuning.plan.choices:
        tried: dict[str, list[float]] = defaultdict(list)
        for s in tuning.trials:
            run = s.run
            if (run.label, run.workers, run.lr) == (choice.label, choice.workers, choice.lr):
                tried[run.rule].append(choice_score(s, c.basis, c.metric))
        if len(tried) < 2:
            continue
        other = next(rule for rule in tried if not same_rule(rule, choice.recipe_rule))
        words = []
        for rule, values in tried.items():
            name = changed_words(rule, other if same_rule(rule, choice.recipe_rule) else choice.recipe_rule)
            mean = abs(sum(values) / len(values))
            ends = with_unit(mean, c.metric) if math.isfinite(mean) else "no number"
            words.append(f"{name} {ends}{' (chosen)' if same_rule(rule, choice.rule) else ''}")
        where = f"{choice.label}, {counted(choice.workers, 'worker')}, at {rate(choice.lr)}"
        result.append(f"{where}, trial runs on {c.basis}: {'; '.join(words)}.")
    return result
