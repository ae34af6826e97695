"""Tables of paired differences: best against best, at the untouched recipe, of controls. Only of tuned comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tardigrad.metrics.cells import Cell
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.contrasts import (
    Contrast,
    best_against,
    contrast,
    controls_against,
    own_loss,
    own_losses,
    penalties,
    plain_beside,
    recipe_against,
    treated_cell,
)
from tardigrad.metrics.quantities import NONE, number, rate, spread
from tardigrad.metrics.relations import needed_words
from tardigrad.metrics.runs import Metric
from tardigrad.metrics.tuned_plan import POINTS
from tardigrad.report.table import Column

_SURE = (
    "In brackets: Student-t 95 % interval over the seeds both sides have. Needs: paired seeds that would make it "
    "exclude 0 in four comparisons of five, were the measured mean and spread the truth; none where runs diverged."
)


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table below the final one; ``name`` is its place on the page."""

    name: str
    title: str
    columns: tuple[Column, ...]
    note: str


def difference_tables(c: Comparison) -> list[PageTable]:
    """Those that have a row; none for a comparison that is not tuned."""
    if c.tuning is None:
        return []
    found = [_best(c), _recipe(c), _controls(c)]
    return [table for table in found if table is not None]


def signed(value: float | None, metric: Metric) -> str:
    """``-1.20``, ``+0.40``, ``0.00``."""
    if value is None:
        return NONE
    text = number(value, metric)
    if text.strip("-0.") == "":
        return text.lstrip("-")
    return text if text.startswith("-") else f"+{text}"


def difference(found: Contrast | None, metric: Metric) -> str:
    """``-1.20 [-2.00, -0.40]``; without brackets for one seed."""
    if found is None or found.difference is None:
        return NONE
    if found.interval is None:
        return signed(found.difference, metric)
    low, high = (signed(edge, metric) for edge in found.interval)
    return f"{signed(found.difference, metric)} [{low}, {high}]"


def _best(c: Comparison) -> PageTable | None:
    rows: list[tuple[Cell, Contrast | None, Contrast | None]] = []
    for workers in c.worker_counts:
        against = [s.chosen if s is not None else None for s in (c.baseline(workers), c.sequential)]
        asgd, sequential = (_of(best_against(c, workers, reference)) for reference in against)
        cells = [s.chosen for s in c.algorithms(workers) if s.chosen is not None]
        rows += [(cell, asgd(cell), sequential(cell)) for cell in cells]
    columns = [
        *_names([cell for cell, *_ in rows], c),
        *_pair("minus asgd", [asgd for _, asgd, _ in rows], c),
        *_pair("minus sequential", [sequential for *_, sequential in rows], c),
        Column("seeds", tuple(str(len(cell.scores)) for cell, *_ in rows)),
    ]
    note = (
        f"Each algorithm at its own best point, {_measure(c)}, mean over seeds, paired; {_better(c)}. Trial runs take "
        f"no part. {_SURE}"
    )
    return _table("differences-best", "Best against best", columns, note, rows=len(rows))


def _recipe(c: Comparison) -> PageTable | None:
    rows: list[tuple[Cell, Contrast | None, Contrast | None, Contrast | None]] = []
    alone = c.at_recipe(c.sequential) if c.sequential is not None else None
    if c.sequential is not None and alone is not None:
        rows.append((alone, None, None, own_loss(c, c.sequential)))
    for workers in c.worker_counts:
        plain = c.baseline(workers)
        asgd = _of(recipe_against(c, workers, c.at_recipe(plain) if plain is not None else None))
        penalty, own = _of(penalties(c, workers)), _of(own_losses(c, workers))
        cells = [cell for s in c.algorithms(workers) if (cell := c.at_recipe(s)) is not None]
        rows += [(cell, asgd(cell), penalty(cell), own(cell)) for cell in cells]
    columns = [
        *_names([row[0] for row in rows], c),
        *_pair("minus asgd", [row[1] for row in rows], c),
        *_pair("recipe penalty: minus sequential", [row[2] for row in rows], c),
        *_pair("own loss: minus its own best", [row[3] for row in rows], c),
        Column("diverged", tuple(f"{row[0].diverged} of {len(row[0].scores)}" for row in rows)),
    ]
    note = (
        f"Everything at the untouched recipe, learning rate {rate(c.recipe_lr)}: {_measure(c)}, mean over seeds, "
        f"paired; {_better(c)}. Recipe penalty: against sequential at the same untouched recipe. Own loss: against the "
        f"algorithm's own best point; none where that is the recipe. {_SURE}"
    )
    return _table("differences-recipe", "At the untouched recipe", columns, note, rows=len(rows))


def _controls(c: Comparison) -> PageTable | None:
    rows: list[tuple[Cell, str, Contrast | None, Contrast | None]] = []
    for workers in c.worker_counts:
        for point in POINTS:
            treated = treated_cell(c, workers, point)
            if treated is None or (point == "recipe" and treated is treated_cell(c, workers, "best")):
                continue
            asgd = plain_beside(c, treated)
            cells = [treated, *([asgd] if asgd is not None else [])]
            cells += [one.cell for one in controls_against(c, workers, point)]
            for cell in cells:
                minus = contrast(c, cell, treated) if cell is not treated else None
                beside = contrast(c, cell, asgd) if asgd is not None and cell is not asgd else None
                rows.append((cell, point, minus, beside))
    treated_name = c.tuning.plan.treated if c.tuning is not None else ""
    cells = [row[0] for row in rows]
    columns = [
        *_names(cells, c),
        Column("point", tuple(row[1] for row in rows), words=True),
        *_pair(f"minus {treated_name}", [row[2] for row in rows], c),
        *_pair("minus asgd at the same rate", [row[3] for row in rows], c),
        Column("diverged", tuple(f"{cell.diverged} of {len(cell.scores)}" for cell in cells)),
    ]
    note = (
        f"Controls spoil one thing about {treated_name} and keep the rest, at its best point and at the untouched "
        f"recipe; clipping is tuned for itself, and stands at its own points. Differences in {_measure(c)}, paired; "
        f"{_better(c)}. {_SURE}"
    )
    held = sum(row[2] is not None for row in rows)
    return _table("controls-table", f"Controls of {treated_name}", columns, note, rows=held)


def _table(name: str, title: str, columns: Sequence[Column], note: str, *, rows: int) -> PageTable | None:
    kept = tuple(column for column in columns if set(column.cells) - {NONE})
    return PageTable(name, title, kept, note) if rows else None


def _names(cells: Sequence[Cell], c: Comparison) -> list[Column]:
    metric = c.metric
    unit = f", {metric.unit}" if metric.unit else ""
    ends = (spread(cell.last_ten(c.split), metric, unit=False) for cell in cells)
    return [
        Column("algorithm", tuple(cell.label for cell in cells), words=True),
        Column("workers", tuple(str(cell.workers) for cell in cells)),
        Column("lr", tuple(rate(cell.lr) for cell in cells)),
        Column(f"{c.split} {metric.name}{unit}", tuple(ends)),
    ]


def _pair(title: str, found: Sequence[Contrast | None], c: Comparison) -> list[Column]:
    """The difference, and the seeds it needs."""
    needs = (needed_words(one.needed) if one is not None else NONE for one in found)
    return [Column(title, tuple(difference(one, c.metric) for one in found)), Column("needs", tuple(needs))]


def _of(found: Iterable[Contrast]) -> Callable[[Cell], Contrast | None]:
    """The contrast of a cell, if it has one."""
    known = {id(one.cell): one for one in found}
    return lambda cell: known.get(id(cell))


def _measure(c: Comparison) -> str:
    what = f"{c.split} {c.metric.name}"
    if c.metric.unit == "%":
        return f"percentage points of {what}"
    return f"{what} in {c.metric.unit}" if c.metric.unit else what


def _better(c: Comparison) -> str:
    return f"{'below' if c.metric.lower_is_better else 'above'} 0 is better"
