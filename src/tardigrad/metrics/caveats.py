"""What a reader of a comparison has to keep in mind; only what is true of the comparison at hand."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tardigrad.metrics.comparison import Cell, Comparison, Series
from tardigrad.metrics.quantities import counted, listing, rate
from tardigrad.metrics.scores import LAST
from tardigrad.metrics.student import t_quantile


def caveats(c: Comparison) -> list[str]:
    """Sentences, the weightiest first."""
    several = len(c.series) > 1
    result = [*_who_wins_anyway(c)] if several else []
    if several and len(c.lrs) > 1:
        result.append(
            "At one learning rate kept for all, a rule that only makes its steps smaller can pass for a "
            "better rule: fair is the comparison with a rate chosen for each; "
            "what the unchanged recipe shows is tolerance."
        )
    result += _seeds(c) if several else []
    result += _choosing(c)
    result += _edges(c)
    result += _measures(c)
    return result + list(c.left_out)


def is_synchronous(series: Series) -> bool:
    """Whether its commits wait for several workers."""
    config = series.cells[0].scores[0].run.config
    return str(config.get("consistency", "")).startswith("synchronous")


def _who_wins_anyway(c: Comparison) -> list[str]:
    result = []
    for workers in c.worker_counts:
        series = [s for s in c.algorithms(workers) if s.chosen is not None]
        alone = c.sequential.chosen if c.sequential is not None else None
        if alone is not None and series and all(_beats(c, alone, s.chosen) for s in series):
            result.append(
                f"With {counted(workers, 'worker')}, sequential training ends better than every parallel "
                "algorithm here: what parallel training buys is time."
            )
        waiting = _best([s for s in series if is_synchronous(s)], c)
        free = _best([s for s in series if not is_synchronous(s)], c)
        if waiting is not None and free is not None and _beats(c, waiting, free):
            result.append(
                f"With {counted(workers, 'worker')}, synchronous {waiting.label} ends better than the best "
                f"asynchronous algorithm, {free.label}: asynchrony has to be paid back in time, if at all."
            )
    return result


def _best(series: Sequence[Series], c: Comparison) -> Cell | None:
    cells = [(s.chosen.last_ten(c.split).mean, s.chosen) for s in series if s.chosen is not None]
    sign = 1 if c.metric.lower_is_better else -1
    able = [(sign * mean, cell) for mean, cell in cells if mean is not None]
    return min(able, key=lambda pair: pair[0])[1] if able else None


def _beats(c: Comparison, a: Cell, b: Cell | None) -> bool:
    paired = c.paired(a, b) if b is not None else None
    return paired is not None and paired.clear and paired.mean > 0


def _seeds(c: Comparison) -> list[str]:
    counts = {len(cell.scores) for s in c.series for cell in s.cells}
    fewest = min(counts)
    result = []
    if len(counts) > 1:
        result.append(f"There are {fewest} to {max(counts)} seeds; a difference uses those both sides have.")
    if max(counts) == 1:
        result.append("There is one seed: differences are what one draw gave, without any measure of chance.")
    elif fewest < 5:
        n = max(2, fewest)
        result.append(
            f"{counted(n, 'seed')} are few: a difference must exceed {t_quantile(n - 1):.1f} of its standard "
            "errors to count, so real but small ones stay within noise. Each interval is 95 % on its own: of "
            "many, one in twenty excludes 0 by chance."
        )
    return result


def _choosing(c: Comparison) -> list[str]:
    if len(c.lrs) < 2:
        return []
    if c.basis == "validation":
        return []
    if c.basis == "training loss":
        return ["There is no validation data: learning rates were chosen by the training loss."]
    return ["There is nothing to choose a learning rate by."]


def _edges(c: Comparison) -> list[str]:
    words = []
    for series in c.series:
        if series.chosen is None or len(series.cells) < 2:
            continue
        for cell, side in ((series.cells[0], "smallest"), (series.cells[-1], "largest")):
            if series.chosen is cell:
                words.append(f"{series.label} with {counted(series.workers, 'worker')} ({rate(cell.lr)}, the {side})")
    if not words:
        return []
    return [f"Chosen at the edge of the rates tried, so a better one may lie outside: {listing(words)}."]


def _measures(c: Comparison) -> list[str]:
    result = []
    averaged = [s.split(c.split).averaged for series in c.series for cell in series.cells for s in cell.scores]
    if any(s.diverged for s in c.series):
        result.append("A diverged run counts with what its diverged weights reach, not with the epochs before.")
    whole = [n for n in averaged if n > 1]
    if whole and statistics.median(whole) < LAST:
        result.append(
            f"Runs have fewer than {LAST} evaluations: the mean is over the {min(whole)} there are, early ones too."
        )
    if c.split == "test" and averaged:
        compared = "; what is compared is the mean of the last ten evaluations" if len(c.series) > 1 else ""
        result.append(f"The best epoch is chosen on test data, as in the paper's Table 1, so it is too good{compared}.")
    if c.split == "validation":
        result.append("There is no test data: shown is validation data, by which rates were chosen too.")
    if any(run.clock == "virtual" for run in c.runs):
        result.append(
            "Virtual seconds follow from the assumed delays, not from the speed of the machine that ran this."
        )
    return result
