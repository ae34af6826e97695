"""The verdict in words: what beat what and by how much, or that nothing can be said.

Four questions in this order, because the second alone misleads: a rule that merely shortens its steps looks
better at one learning rate kept for all. (1) Each algorithm at its own best learning rate. (2) The recipe's
learning rate, unchanged. (3) Which learning rates each tolerates. (4) Time to the same quality. Then what to
keep in mind.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tardigrad.metrics.caveats import caveats
from tardigrad.metrics.comparison import Cell, Comparison, Paired, Series
from tardigrad.metrics.quantities import counted, interval, listing, points, rate, seconds, spread, with_unit
from tardigrad.metrics.scores import choice_score


@dataclass(frozen=True, slots=True)
class Section:
    """One question and its answer, sentence by sentence."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole verdict.

    Attributes:
        headline: one to three sentences that stand alone.
        sections: the answers; empty ones are left out.
    """

    headline: str
    sections: tuple[Section, ...]

    @property
    def sentences(self) -> list[str]:
        """All sentences in order, the headline first."""
        return [self.headline, *(s for section in self.sections for s in section.sentences)]


def verdict(comparison: Comparison) -> Verdict:
    """Put a comparison into words."""
    parts = [
        Section("Each algorithm at its own best learning rate", tuple(_own_best(comparison))),
        Section("The recipe's learning rate, unchanged", tuple(_recipe(comparison))),
        Section("Which learning rates each tolerates", tuple(_windows(comparison))),
        Section("Time to the same quality", tuple(_times(comparison))),
        Section("To keep in mind", tuple(caveats(comparison))),
    ]
    return Verdict(_headline(comparison), tuple(part for part in parts if part.sentences))


def best_parallel(comparison: Comparison, workers: int) -> Series | None:
    """The algorithm with the best score on what learning rates are chosen by, so not on test data."""
    able = [s for s in comparison.algorithms(workers) if s.chosen is not None]
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
    against = [s for s in (asgd, sequential) if s is not None and s is not best]
    against = against or [s for s in c.series if s is not best][:1]
    words = [_relation(c, best.chosen, s.chosen) for s in against if s.chosen is not None]
    ends = f"{spread(best.chosen.last_ten(c.split), c.metric)} {c.metric.name}"
    first = f"{_with(workers)}, the learning rate chosen for each, {best.label} ends at {ends} "
    first += f"(lr {rate(best.chosen.lr)}){': ' if words else ''}{listing(words)}."
    return first + _headline_recipe(c, [best, *against])


def _one_run(c: Comparison) -> str:
    run, cell = c.runs[0], c.series[0].cells[0]
    what = f"One run, {cell.label} with {counted(cell.workers, 'worker')} at learning rate {rate(cell.lr)}"
    if run.diverged:
        return f"{what}, and it diverged. {(run.summary or {}).get('message', '')}".strip()
    last, best = cell.last_ten(c.split).mean, cell.best(c.split).mean
    if last is None:
        return f"{what}, without an evaluation so far."
    averaged = cell.scores[0].split(c.split).averaged
    return (
        f"{what}: {with_unit(last, c.metric)} {c.split} {c.metric.name} (mean of the last "
        f"{counted(averaged, 'evaluation')}), best epoch {with_unit(best, c.metric)}. One run compares nothing."
    )


def _relation(c: Comparison, cell: Cell, other: Cell) -> str:
    paired = c.paired(cell, other)
    if paired is None:
        return f"not comparable with {other.label}"
    word = "better" if paired.mean >= 0 else "worse"
    notes = [f"lr {rate(other.lr)}"]
    if paired.interval is None:
        notes.append("one seed, so nothing can be said")
    else:
        notes.append(f"95 % interval {interval(paired, c.metric, flip=paired.mean < 0)}")
        notes += [] if paired.clear else ["within noise"]
    return f"{points(abs(paired.mean), c.metric)} {word} than {other.label} ({'; '.join(notes)})"


def _headline_recipe(c: Comparison, series: Sequence[Series]) -> str:
    cells = [cell for s in series if (cell := s.at(c.recipe_lr)) is not None]
    if len(cells) < 2 or len(c.lrs) < 2:
        return ""
    words = [f"{cell.label} at {spread(cell.last_ten(c.split), c.metric)}{_diverged(cell)}" for cell in cells]
    return f" At learning rate {rate(c.recipe_lr)}, {c.recipe_lr_source}, they end so: {listing(words)}."


def _own_best(c: Comparison) -> list[str]:
    result: list[str] = []
    for workers in c.worker_counts:
        series = [s for s in c.algorithms(workers) if s.chosen is not None]
        for reference in (c.baseline(workers), c.sequential):
            if reference is None or reference.chosen is None:
                continue
            others = [s.chosen for s in series if s is not reference and s.chosen is not None]
            result += _against(c, others, reference=reference.chosen, where=_with(workers))
    if not result and len(c.series) > 1:
        result = _first_as_reference(c)
    return result


def _first_as_reference(c: Comparison) -> list[str]:
    """Neither asgd nor sequential was run: the first algorithm is what the others are held against."""
    result: list[str] = []
    for workers in c.worker_counts:
        cells = [s.chosen for s in c.series if s.workers == workers and s.chosen is not None]
        if len(cells) > 1:
            result += _against(c, cells[1:], reference=cells[0], where=_with(workers))
    return result


_GROUPS = {
    "better": "Better than {}: ",
    "worse": "Worse than {}: ",
    "noise": "Within noise of {}: ",
    "diverged": "Undecided against {} in the mean, because runs diverged and no interval describes that: ",
    "one": "One seed only, so nothing can be said against {}: ",
    "none": "Not comparable with {}, for want of a seed with a number in both: ",
}


def _against(c: Comparison, cells: Sequence[Cell], *, reference: Cell, where: str) -> list[str]:
    """Where ``reference`` ends, then sentences sorting ``cells`` against it."""
    if not cells:
        return []
    name, ends = reference.label, spread(reference.last_ten(c.split), c.metric)
    over = f"over {counted(len(reference.scores), 'seed')}"
    result = [f"{where}, {name} at learning rate {rate(reference.lr)} ends at {ends} {over}{_diverged(reference)}."]
    return result + _sorted(c, cells, reference=reference)


def _sorted(c: Comparison, cells: Sequence[Cell], *, reference: Cell) -> list[str]:
    groups: dict[str, list[str]] = {kind: [] for kind in _GROUPS}
    for cell in cells:
        paired = c.paired(cell, reference)
        kind = _kind(paired, cell.diverged + reference.diverged)
        groups[kind].append(_item(c, cell, paired, kind=kind))
    return [
        f"{words.format(reference.label)}{'; '.join(groups[kind])}." for kind, words in _GROUPS.items() if groups[kind]
    ]


def _kind(paired: Paired | None, diverged: int) -> str:
    if paired is None:
        return "none"
    if paired.interval is None:
        return "one"
    if not paired.clear:
        return "diverged" if diverged else "noise"
    return "better" if paired.mean > 0 else "worse"


def _item(c: Comparison, cell: Cell, paired: Paired | None, *, kind: str) -> str:
    """``dc-asgd by 1.93 points (lr 0.2; 95 % interval 1.16 to 2.71)``."""
    if paired is None:
        return f"{cell.label} (lr {rate(cell.lr)}){_diverged(cell)}"
    amount = points(abs(paired.mean), c.metric)
    if kind in ("better", "worse"):
        amount = f"by {amount}"
    else:
        amount += " better" if paired.mean >= 0 else " worse"
    notes = [f"lr {rate(cell.lr)}", _evidence(c, paired, kind=kind)]
    if len(paired.seeds) not in (1, len(c.seeds)):
        notes.append(f"{counted(len(paired.seeds), 'seed')} in common")
    if cell.diverged:
        notes.append(_diverged(cell).strip(" ()"))
    return f"{cell.label} {amount} ({'; '.join(notes)})"


def _evidence(c: Comparison, paired: Paired, *, kind: str) -> str:
    if kind == "diverged":
        ahead = sum(difference > 0 for difference in paired.differences)
        return f"better in {ahead} of {counted(len(paired.seeds), 'seed')}"
    if paired.interval is None:
        return f"seed {paired.seeds[0]}"
    if paired.same:
        return f"the same in all {len(paired.seeds)} seeds, which leaves no spread to judge by"
    return f"95 % interval {interval(paired, c.metric, flip=paired.mean < 0)}"


def _recipe(c: Comparison) -> list[str]:
    base = c.sequential.at(c.recipe_lr) if c.sequential is not None else None
    if base is None or c.recipe_lr is None or len(c.series) < 2:
        return []
    result = [
        f"At learning rate {rate(c.recipe_lr)}, {c.recipe_lr_source}, {base.label} ends at "
        f"{spread(base.last_ten(c.split), c.metric)}{_diverged(base)}. What the others lose against that:"
    ]
    for workers in c.worker_counts:
        series = c.algorithms(workers)
        cells = [cell for s in series if (cell := s.at(c.recipe_lr)) is not None]
        penalties = [(c.paired(base, cell), cell) for cell in cells]
        penalties.sort(key=lambda pair: pair[0].mean if pair[0] is not None else float("inf"))
        result += [f"{_with(workers)}, {_penalty(c, cell, paired)}." for paired, cell in penalties]
        missing = [s.label for s in series if s.at(c.recipe_lr) is None]
        result += [f"{_with(workers)}, not run at this rate: {listing(missing)}."] if missing else []
        asgd = next((cell for cell in cells if cell.label == "asgd"), None)
        if asgd is not None:
            result += _sorted(c, [cell for cell in cells if cell is not asgd], reference=asgd)
    return result


def _penalty(c: Comparison, cell: Cell, paired: Paired | None) -> str:
    if paired is None:
        return f"{cell.label}: no number{_diverged(cell)}"
    amount = points(abs(paired.mean), c.metric)
    amount = f"nothing, it gains {amount}" if paired.mean < 0 else amount
    if paired.interval is None:
        return f"{cell.label}: {amount}, on one seed{_diverged(cell)}"
    if cell.diverged:
        return f"{cell.label}: {amount} in the mean{_diverged(cell)}"
    noise = "" if paired.clear else ", within noise"
    bounds = interval(paired, c.metric, flip=paired.mean < 0)
    return f"{cell.label}: {amount}{noise} (95 % interval {bounds})"


def _windows(c: Comparison) -> list[str]:
    if len(c.lrs) < 2:
        return []
    tried = listing([rate(lr) for lr in c.lrs])
    result = [
        f"Learning rates tried: {tried}. A rate is tolerated when the mean ends at most "
        f"{points(c.tolerance, c.metric)} worse than at the chosen rate and no seed diverges."
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
        return f"{name}: none{_diverged(best)} even at the chosen rate ({ends})."
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
    head = f"{_with(workers)}, {c.runs[0].clock} time to {with_unit(target, c.metric)} {c.metric.name} ({where})"
    return f"{head}: {'; '.join(words)}."


def _with(workers: int) -> str:
    return f"With {counted(workers, 'worker')}"


def _diverged(cell: Cell) -> str:
    if not cell.diverged:
        return ""
    return f" ({cell.diverged} of {counted(len(cell.scores), 'seed')} diverged)"


def as_text(verdict: Verdict, *, width: int = 100) -> str:
    """The verdict for a terminal: the headline, then each section's sentences as a list; no line is longer."""
    wrap = partial(textwrap.wrap, width=width, break_on_hyphens=False, break_long_words=False)
    lines = wrap(verdict.headline)
    for section in verdict.sections:
        lines += ["", section.title]
        for sentence in section.sentences:
            lines += wrap(sentence, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)
