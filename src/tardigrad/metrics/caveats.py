"""What a reader of a comparison has to keep in mind; only what is true of the comparison at hand."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tardigrad.metrics.cells import Cell, Series
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import counted, listing, rate
from tardigrad.metrics.scores import LAST
from tardigrad.metrics.student import t_quantile


def caveats(c: Comparison) -> list[str]:
    """Sentences, the weightiest first."""
    several = len(c.series) > 1
    result = [*_who_wins_anyway(c)] if several and c.tuning is None else []
    if several and len(c.lrs) > 1 and c.tuning is None:
        result.append(
            "At one learning rate kept for all, a rule that only makes its steps smaller can pass for a "
            "better rule: fair is the comparison with a rate chosen for each; "
            "what the unchanged recipe shows is tolerance."
        )
    result += _seeds(c) if several else []
    result += _choosing(c)
    result += _edges(c if c.tuning is None else c.trials)
    result += _measures(c)
    return result + list(c.left_out)


def is_synchronous(series: Series) -> bool:
    """Whether its commits wait for several workers."""
    config = series.cells[0].scores[0].run.config
    return str(config.get("consistency", "")).startswith("synchronous")


def sequential_wins(c: Comparison) -> list[str]:
    """A sentence per worker count at which ``sequential`` surely ends better than every parallel algorithm."""
    return [sentence for workers in c.worker_counts for sentence in _sequential_wins(c, workers)]


def _sequential_wins(c: Comparison, workers: int) -> list[str]:
    series = [s for s in c.algorithms(workers) if s.chosen is not None]
    alone = c.sequential.chosen if c.sequential is not None else None
    if alone is None or not series or not all(_beats(c, alone, s.chosen) for s in series):
        return []
    return [
        f"With {counted(workers, 'worker')}, sequential training ends better than every parallel "
        "algorithm here: what parallel training buys is time."
    ]


def _who_wins_anyway(c: Comparison) -> list[str]:
    result = []
    for workers in c.worker_counts:
        result += _sequential_wins(c, workers)
        series = [s for s in c.algorithms(workers) if s.chosen is not None]
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
    elif c.tuning is not None:
        result.append("Each interval is 95 % on its own: of many, one in twenty excludes 0 by chance.")
    if c.tuning is not None and max(counts) > 1:
        result.append(
            "How many seeds a difference needs is computed from its measured mean and spread, which few seeds know "
            "poorly: it tells five from fifty, not five from seven."
        )
    return result


def _choosing(c: Comparison) -> list[str]:
    if c.tuning is not None:
        return _tuned_on(c.tuning.plan.trial_seeds)
    if len(c.lrs) < 2:
        return []
    if c.basis == "validation":
        return []
    if c.basis == "training loss":
        return ["There is no validation data: learning rates were chosen by the training loss."]
    return ["There is nothing to choose a learning rate by."]


def _tuned_on(seeds: Sequence[int]) -> list[str]:
    if len(seeds) > 2:
        return []
    which = f"{'seed' if len(seeds) == 1 else 'seeds'} {listing([str(seed) for seed in seeds])}"
    return [f"Learning rates were chosen on {which} alone: with another draw a neighbouring rate may have been chosen."]


def _edges(c: Comparison | None) -> list[str]:
    words = []
    for series in c.series if c is not None else ():
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
    every = [s for series in c.series for cell in series.cells for s in cell.scores]
    averaged = [s.split(c.split).averaged for s in every]
    if any(s.diverged for s in c.series):
        result.append("A diverged run counts with what its diverged weights reach, not with the epochs before.")
    whole = [n for s, n in zip(every, averaged, strict=True) if n and not s.run.diverged]
    if whole and statistics.median(whole) < LAST:
        over = f"the last {min(whole)}" if min(whole) > 1 else "the last one alone"
        result.append(f"Runs have fewer than {2 * LAST} evaluations: the mean of the last {LAST} is over {over}.")
    if c.split == "test" and averaged:
        compared = "; what is compared is the mean of the last ten evaluations" if len(c.series) > 1 else ""
        result.append(f"The best epoch is chosen on test data, as in the paper's Table 1, so it is too good{compared}.")
    if c.split == "validation" and not c.notice:
        result.append("There is no test data: shown is validation data, by which rates were chosen too.")
    result += _failures(c)
    if any(run.clock == "virtual" for run in c.runs):
        result.append(
            "Virtual seconds follow from the assumed delays, not from the speed of the machine that ran this."
        )
    return result


def _failures(c: Comparison) -> list[str]:
    """Workers that died, raised or hung: their runs lost time, though no samples."""
    ends = [run.summary or {} for run in c.runs]
    failures = [sum(end["failures"].values()) for end in ends if end.get("failures")]
    if not failures:
        return []
    restarts = sum(end.get("restarts", 0) for end in ends)
    return [
        f"Workers failed in {len(failures)} of {counted(len(ends), 'run')} ({counted(sum(failures), 'failure')}, "
        f"{counted(restarts, 'restart')}): what such a run took in seconds includes that."
    ]
