"""The verdict on a grid of learning rates.

Four questions in this order, because the second alone misleads: a rule that merely shortens its steps looks
better at one learning rate kept for all. (1) Each algorithm at its own best learning rate. (2) The recipe's
learning rate, unchanged. (3) Which learning rates each tolerates. (4) Time to the same quality. Then what to
keep in mind.
"""

from __future__ import annotations

from collections.abc import Sequence

from tardigrad.metrics.caveats import caveats
from tardigrad.metrics.cells import Cell, Series
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quality import quality_sentences
from tardigrad.metrics.quantities import counted, listing, points, rate, seconds, spread, with_unit
from tardigrad.metrics.relations import against, diverged_words, penalty, relation, sorted_against, with_workers
from tardigrad.metrics.scores import choice_score
from tardigrad.metrics.sections import Section, Verdict


def grid_verdict(comparison: Comparison) -> Verdict:
    """Put a grid, or a single run, into words."""
    parts = [
        Section("Each algorithm at its own best learning rate", tuple(own_best(comparison))),
        Section("The recipe's learning rate, unchanged", tuple(recipe(comparison))),
        Section("Which learning rates each tolerates", tuple(windows(comparison))),
        Section("Time to the same quality", tuple(_times(comparison))),
        Section("Quality of the compensation", tuple(quality_sentences(comparison))),
        Section("To keep in mind", tuple(caveats(comparison))),
    ]
    headline = f"{comparison.notice} {_headline(comparison)}".lstrip()
    return Verdict(headline, tuple(part for part in parts if part.sentences))


def best_parallel(comparison: Comparison, workers: int) -> Series | None:
    """The algorithm with the best score on what learning rates are chosen by, so not on test data."""
    return best_of(comparison, comparison.algorithms(workers))


def best_of(comparison: Comparison, series: Sequence[Series]) -> Series | None:
    """The same among some; None where for none a rate was chosen."""
    able = [s for s in series if s.chosen is not None]
    return min(able, key=lambda s: _choice(comparison, s.chosen), default=None)


def _choice(comparison: Comparison, cell: Cell | None) -> float:
    assert cell is not None
    values = [choice_score(s, comparison.basis, comparison.metric) for s in cell.scores]
    return sum(values) / len(values)


def _headline(c: Comparison) -> str:
    if len(c.runs) == 1:
        return _one_run(c)
    workers = c.worker_counts[-1]
    best, asgd, sequential = best_parallel(c, workers), c.baseline(workers), c.sequential
    if best is None or best.chosen is None or len(c.series) < 2:
        return f"{counted(len(c.runs), 'run')} of one algorithm: there is nothing to compare it with."
    others = [s for s in (asgd, sequential) if s is not None and s is not best]
    others = others or [s for s in c.series if s is not best][:1]
    words = [relation(c, best.chosen, s.chosen) for s in others if s.chosen is not None]
    ends = f"{spread(best.chosen.last_ten(c.split), c.metric)} {c.metric.name}"
    first = f"{with_workers(workers)}, the learning rate chosen for each, {best.label} ends at {ends} "
    first += f"(lr {rate(best.chosen.lr)}){': ' if words else ''}{listing(words)}."
    return first + _headline_recipe(c, [best, *others])


def _one_run(c: Comparison) -> str:
    run, cell = c.runs[0], c.series[0].cells[0]
    what = f"One run, {cell.label} with {counted(cell.workers, 'worker')} at learning rate {rate(cell.lr)}"
    if run.diverged:
        return f"{what}, and it diverged. {(run.summary or {}).get('message', '')}".strip()
    last, best = cell.last_ten(c.split).mean, cell.best(c.split).mean
    if last is None:
        return f"{what}, without an evaluation so far."
    averaged = cell.scores[0].split(c.split).averaged
    over = f"mean of the last {averaged} evaluations" if averaged > 1 else "the last evaluation"
    ends = f"{with_unit(last, c.metric)} {c.split} {c.metric.name} ({over}), best epoch {with_unit(best, c.metric)}"
    return f"{what}: {ends}. One run compares nothing."


def _headline_recipe(c: Comparison, series: Sequence[Series]) -> str:
    cells = [cell for s in series if (cell := s.at(c.recipe_lr)) is not None]
    if len(cells) < 2 or len(c.lrs) < 2:
        return ""
    words = [f"{cell.label} at {spread(cell.last_ten(c.split), c.metric)}{diverged_words(cell)}" for cell in cells]
    return f" At learning rate {rate(c.recipe_lr)}, {c.recipe_lr_source}, they end so: {listing(words)}."


def own_best(c: Comparison) -> list[str]:
    """Each algorithm at its chosen point against ``asgd`` and against ``sequential``, else against the first."""
    result: list[str] = []
    for workers in c.worker_counts:
        series = [s for s in c.algorithms(workers) if s.chosen is not None]
        for reference in (c.baseline(workers), c.sequential):
            if reference is None or reference.chosen is None:
                continue
            others = [s.chosen for s in series if s is not reference and s.chosen is not None]
            result += against(c, others, reference=reference.chosen, where=with_workers(workers))
    if not result and len(c.series) > 1:
        result = _first_as_reference(c)
    return result


def _first_as_reference(c: Comparison) -> list[str]:
    """Neither asgd nor sequential was run: the first algorithm is what the others are held against."""
    result: list[str] = []
    for workers in c.worker_counts:
        cells = [s.chosen for s in c.series if s.workers == workers and s.chosen is not None]
        if len(cells) > 1:
            result += against(c, cells[1:], reference=cells[0], where=with_workers(workers))
    return result


def recipe(c: Comparison) -> list[str]:
    """What each algorithm loses at the untouched recipe against ``sequential`` there, and how it stands to ``asgd``."""
    base = c.at_recipe(c.sequential) if c.sequential is not None else None
    if base is None or c.recipe_lr is None or len(c.series) < 2:
        return []
    result = [
        f"At learning rate {rate(c.recipe_lr)}, {c.recipe_lr_source}, {base.label} ends at "
        f"{spread(base.last_ten(c.split), c.metric)}{diverged_words(base)}. What the others lose against that:"
    ]
    for workers in c.worker_counts:
        series = c.algorithms(workers)
        cells = [cell for s in series if (cell := c.at_recipe(s)) is not None]
        penalties = [(c.paired(base, cell), cell) for cell in cells]
        penalties.sort(key=lambda pair: pair[0].mean if pair[0] is not None else float("inf"))
        result += [f"{with_workers(workers)}, {penalty(c, cell, base)}." for _, cell in penalties]
        missing = [s.label for s in series if c.at_recipe(s) is None]
        result += [f"{with_workers(workers)}, not run at this rate: {listing(missing)}."] if missing else []
        asgd = next((cell for cell in cells if cell.label == "asgd"), None)
        if asgd is not None:
            result += sorted_against(c, [cell for cell in cells if cell is not asgd], reference=asgd)
    return result


def windows(c: Comparison) -> list[str]:
    """The learning rates that each algorithm tolerates; empty where one rate was tried."""
    if len(c.lrs) < 2:
        return []
    tried = listing([rate(lr) for lr in c.lrs])
    alike = all([cell.lr for cell in series.cells] == c.lrs for series in c.series)
    result = [
        f"Learning rates tried{'' if alike else ', not all of them by each'}: {tried}. A rate is tolerated when the "
        f"mean ends at most {points(c.tolerance, c.metric)} worse than at the chosen rate and no seed diverges."
    ]
    everyone = ([c.sequential] if c.sequential else []) + [s for w in c.worker_counts for s in c.algorithms(w)]
    return result + [_window(c, series) for series in everyone if len(series.cells) > 1]


def _window(c: Comparison, series: Series) -> str:
    name = f"{series.label}, {counted(series.workers, 'worker')}"
    if series.chosen is None:
        return f"{name}: no rate could be chosen."
    window, best = c.window(series), series.chosen
    ends = f"{spread(best.last_ten(c.split), c.metric)} at {rate(best.lr)}"
    if not window.lrs:
        return f"{name}: none{diverged_words(best)} even at the chosen rate ({ends})."
    if len(window.lrs) == 1:
        return f"{name}: {rate(window.lrs[0])} alone{_edge(window.open_below, window.open_above)} ({ends})."
    reach = f"{rate(window.lrs[0])} to {rate(window.lrs[-1])}, a factor of {window.factor:.2g}"
    return f"{name}: {reach}{_edge(window.open_below, window.open_above)} ({ends})."


def _edge(below: bool, above: bool) -> str:
    ends = [word for word, flag in (("smallest", below), ("largest", above)) if flag]
    return f", up to the {listing(ends)} tried" if ends else ""


def _times(c: Comparison) -> list[str]:
    """Time to come near what sequential training reaches; where asgd never does, time to what asgd reaches too."""
    if len(c.series) < 2:
        return []
    result: list[str] = []
    for workers in c.worker_counts:
        series = ([c.sequential] if c.sequential else []) + c.algorithms(workers)
        cells = [s.chosen for s in series if s.chosen is not None]
        goal = (c.sequential or best_parallel(c, workers) or series[0]).chosen
        ends = goal.last_ten(c.split).mean if goal is not None else None
        if goal is None or ends is None:
            continue
        target = ends + c.tolerance * (1 if c.metric.lower_is_better else -1)
        where = f"{points(c.tolerance, c.metric)} worse than {goal.label} ends"
        result.append(_race(c, cells, target=target, where=where))
        asgd = next((cell for cell in cells if cell.label == "asgd"), None)
        level = asgd.last_ten(c.split).mean if asgd is not None else None
        if asgd is not None and level is not None and not any(c.time_to(asgd, target)):
            result.append(_race(c, cells, target=level, where="where asgd ends"))
    return result


def _race(c: Comparison, cells: Sequence[Cell], *, target: float, where: str) -> str:
    """The fastest first, then those of which some seeds arrive, then those that never do."""
    whole: list[tuple[float, str]] = []
    partly, never = [], []
    for cell in cells:
        times = c.time_to(cell, target)
        arrived = [t for t in times if t is not None]
        mean = sum(arrived) / len(arrived) if arrived else 0.0
        if not arrived:
            never.append(cell.label)
        elif len(arrived) < len(times):
            partly.append(f"{cell.label} {seconds(mean)} in {len(arrived)} of {counted(len(times), 'seed')}")
        else:
            whole.append((mean, f"{cell.label} {seconds(mean)}"))
    words = [text for _, text in sorted(whole)] + partly + ([f"never {listing(never)}"] if never else [])
    workers = max(cell.workers for cell in cells)
    head = f"{with_workers(workers)}, {c.runs[0].clock} time to {with_unit(target, c.metric)} {c.metric.name} ({where})"
    return f"{head}: {'; '.join(words)}."
