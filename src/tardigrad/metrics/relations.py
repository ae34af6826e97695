"""How two points of a comparison stand to each other, in words: better by how much and how surely, or within noise.

In a tuned comparison each difference is followed by the seeds that one of its size needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tardigrad.metrics.cells import Cell, Paired
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.contrasts import Contrast, contrast
from tardigrad.metrics.power import MOST
from tardigrad.metrics.quantities import counted, interval, points, rate, spread
from tardigrad.metrics.tuned_plan import changed_words


def relation(c: Comparison, cell: Cell, other: Cell) -> str:
    """``1.20 points better than asgd (lr 0.05; 95 % interval 0.40 to 2.00)``."""
    found = contrast(c, cell, other)
    paired = found.paired
    if paired is None:
        return f"not comparable with {other.label}"
    notes = [place_words(c, other)]
    if paired.interval is None:
        notes.append("one seed, so nothing can be said")
    else:
        notes.append(f"95 % interval {interval(paired, c.metric, flip=paired.mean < 0)}")
        notes += [] if paired.clear else ["within noise"]
        notes += seeds_words(c, found, whole=True)
    return f"{amount_words(c, paired)} than {other.label} ({'; '.join(notes)})"


def amount_words(c: Comparison, paired: Paired) -> str:
    """``1.20 points better``."""
    return f"{points(abs(paired.mean), c.metric)} {'better' if paired.mean >= 0 else 'worse'}"


def seeds_words(c: Comparison, found: Contrast, *, whole: bool = False) -> list[str]:
    """In a tuned comparison how many seeds the difference needs, where that is more than there are; else nothing."""
    if c.tuning is None or found.needed is None or found.needed <= found.seeds:
        return []
    if not whole:
        return [f"needs {needed_words(found.needed)} seeds"]
    return [f"{counted(found.seeds, 'seed')}, a difference of this size needs {needed_words(found.needed)}"]


def needed_words(needed: float | None) -> str:
    """``7``, ``more than 1000``; ``n/a`` where there is nothing to compute it from."""
    if needed is None:
        return "n/a"
    return f"more than {MOST}" if math.isinf(needed) else f"{needed:.0f}"


def place_words(c: Comparison, cell: Cell) -> str:
    """``lr 0.05``, and in a tuned comparison in what else its rule differs from the recipe's: ``, lambda0=4.0``."""
    words = [f"lr {rate(cell.lr)}"]
    choice = c.tuning.plan.choice(cell.label, cell.workers) if c.tuning is not None else None
    changed = changed_words(cell.rule, choice.recipe_rule) if choice is not None else ""
    return ", ".join([*words, changed] if changed else words)


_GROUPS = {
    "better": "Better than {}: ",
    "worse": "Worse than {}: ",
    "noise": "Within noise of {}: ",
    "diverged": "Undecided against {} in the mean, because runs diverged and no interval describes that: ",
    "one": "One seed only, so nothing can be said against {}: ",
    "none": "Not comparable with {}, for want of a seed with a number in both: ",
}


def against(c: Comparison, cells: Sequence[Cell], *, reference: Cell, where: str) -> list[str]:
    """Where ``reference`` ends, then sentences sorting ``cells`` against it."""
    if not cells:
        return []
    name, ends = reference.label, spread(reference.last_ten(c.split), c.metric)
    over = f"over {counted(len(reference.scores), 'seed')}"
    result = [
        f"{where}, {name} at learning rate {rate(reference.lr)} ends at {ends} {over}{diverged_words(reference)}."
    ]
    return result + sorted_against(c, cells, reference=reference)


def sorted_against(c: Comparison, cells: Sequence[Cell], *, reference: Cell) -> list[str]:
    """A sentence for each kind of relation there is: better, worse, within noise, ..."""
    groups: dict[str, list[str]] = {kind: [] for kind in _GROUPS}
    for cell in cells:
        found = contrast(c, cell, reference)
        groups[found.kind].append(_item(c, found))
    return [
        f"{words.format(reference.label)}{'; '.join(groups[kind])}." for kind, words in _GROUPS.items() if groups[kind]
    ]


def _item(c: Comparison, found: Contrast) -> str:
    """``dc-asgd by 1.93 points (lr 0.2; 95 % interval 1.16 to 2.71)``."""
    cell, paired = found.cell, found.paired
    if paired is None:
        return f"{cell.label} ({place_words(c, cell)}){diverged_words(cell)}"
    clear = found.kind in ("better", "worse")
    amount = f"by {points(abs(paired.mean), c.metric)}" if clear else amount_words(c, paired)
    notes = [place_words(c, cell), evidence(c, found)]
    if len(paired.seeds) not in (1, len(c.seeds)):
        notes.append(f"{counted(len(paired.seeds), 'seed')} in common")
    notes += seeds_words(c, found)
    if cell.diverged:
        notes.append(diverged_words(cell).strip(" ()"))
    return f"{cell.label} {amount} ({'; '.join(notes)})"


def evidence(c: Comparison, found: Contrast) -> str:
    """``95 % interval 1.16 to 2.71``, or why there is none to judge by."""
    paired = found.paired
    assert paired is not None
    if found.kind == "diverged":
        ahead = sum(difference > 0 for difference in paired.differences)
        return f"better in {ahead} of {counted(len(paired.seeds), 'seed')}"
    if paired.interval is None:
        return f"seed {paired.seeds[0]}"
    if paired.same:
        return f"the same in all {len(paired.seeds)} seeds, which leaves no spread to judge by"
    return f"95 % interval {interval(paired, c.metric, flip=paired.mean < 0)}"


def penalty(c: Comparison, cell: Cell, base: Cell) -> str:
    """What ``cell`` loses against ``base``: ``dc-asgd: 0.27 points, within noise (95 % interval -0.56 to 1.10)``."""
    paired = c.paired(base, cell)
    if paired is None:
        return f"{cell.label}: no number{diverged_words(cell)}"
    amount = points(abs(paired.mean), c.metric)
    amount = f"nothing, it gains {amount}" if paired.mean < 0 else amount
    if paired.interval is None:
        return f"{cell.label}: {amount}, on one seed{diverged_words(cell)}"
    if cell.diverged:
        return f"{cell.label}: {amount} in the mean{diverged_words(cell)}"
    noise = "" if paired.clear else ", within noise"
    notes = [f"95 % interval {interval(paired, c.metric, flip=paired.mean < 0)}"]
    notes += seeds_words(c, contrast(c, cell, base))
    return f"{cell.label}: {amount}{noise} ({'; '.join(notes)})"


def with_workers(workers: int) -> str:
    """``With 8 workers``."""
    return f"With {counted(workers, 'worker')}"


def diverged_words(cell: Cell) -> str:
    """`` (2 of 5 seeds diverged)``; empty where none did."""
    if not cell.diverged:
        return ""
    return f" ({cell.diverged} of {counted(len(cell.scores), 'seed')} diverged)"
