"""The final table: as data, in the terminal, as Markdown and, through `columns`, on the page."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.arrivals import arrival, target
from tardigrad.metrics.cells import Cell, Series, Stat
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import NONE, figures, number, rate, spread, with_unit
from tardigrad.metrics.runs import Metric
from tardigrad.specs import parse_spec

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm at one worker count; numbers in the metric's displayed unit, over the seeds at its chosen rate.

    Attributes:
        label: the algorithm.
        workers: worker count.
        safeguards: ``damped``, ``clipped at 1``: what was added to the published rule; empty for nothing.
        lr: the learning rate chosen for it; None where none could be.
        seeds: runs behind the numbers.
        last_ten: mean of the last ten evaluations.
        best: best epoch, chosen on the same data, as in the paper's Table 1.
        recipe: mean of the last ten at the recipe's learning rate; None where that was not run.
        diverged: how many of all its runs diverged, over all learning rates.
        runs: how many it has.
        staleness: mean staleness in commits.
        time: seconds by the engine's clock, mean.
        wall: seconds on the wall, mean.
        changed: in a tuned comparison, in what the chosen rule differs from the recipe's: ``lambda0=4.0``.
        arrival: in a tuned comparison, seconds by the engine's clock until the mean curve first reaches the target;
            infinite for never.
        memory: bytes the server holds (weights, backups, state), mean.
    """

    label: str
    workers: int
    safeguards: str
    lr: float | None
    seeds: int
    last_ten: Stat
    best: Stat
    recipe: Stat | None
    diverged: int
    runs: int
    staleness: float | None
    time: float | None
    wall: float | None
    changed: str = ""
    arrival: float | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class FinalTable:
    """All rows and what their numbers mean.

    ``target`` is what arrivals arrive at, None without; ``tuned`` says whether they are of a tuned comparison.
    """

    metric: Metric
    split: str
    clock: str
    recipe_lr: float | None
    rows: tuple[Row, ...]
    target: float | None = None
    tuned: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column as written; ``rank`` says how early it is given up where there is little room (0: never)."""

    title: str
    cells: tuple[str, ...]
    rank: int = 0
    words: bool = False


def final_table(comparison: Comparison) -> FinalTable:
    """A row per algorithm and worker count, in the comparison's order."""
    tuned = comparison.tuning is not None
    goal = target(comparison) if tuned else None
    rows = tuple(_row(comparison, series, goal=goal) for series in comparison.series)
    clock = comparison.runs[0].clock
    return FinalTable(comparison.metric, comparison.split, clock, comparison.recipe_lr, rows, goal, tuned)


def columns(table: FinalTable) -> list[Column]:
    """The columns as text; those without any number are left out."""
    metric, rows = table.metric, table.rows
    unit = f", {metric.unit}" if metric.unit else ""
    found = [
        _column("algorithm", (", ".join(filter(None, (row.label, row.safeguards))) for row in rows), words=True),
        _column("workers", (str(row.workers) for row in rows)),
        _column("lr", (rate(row.lr) for row in rows)),
        _column("tuned too", (row.changed or NONE for row in rows), rank=1),
        _column(
            f"{table.split} {metric.name}{unit}, mean of last ten", (_spread(row.last_ten, metric) for row in rows)
        ),
        _column(f"best epoch, chosen on {table.split}", (_spread(row.best, metric) for row in rows), rank=1),
        _column(f"at recipe's lr {rate(table.recipe_lr)}", (_spread(row.recipe, metric) for row in rows)),
        _column("seeds", (str(row.seeds) for row in rows), rank=4),
        _column("diverged", (f"{row.diverged} of {row.runs}" for row in rows)),
        _arrivals(table),
        _column("staleness", (NONE if row.staleness is None else f"{row.staleness:.1f}" for row in rows), rank=3),
        _times(f"{table.clock} time", [row.time for row in rows], rank=2),
    ]
    if table.clock != "wall":
        found.append(_times("wall time", [row.wall for row in rows], rank=4))
    if table.tuned:
        sizes = (NONE if row.memory is None else f"{row.memory / 2**20:.3g}" for row in rows)
        found.append(_column("server memory, MiB", sizes, rank=4))
    return [column for column in found if set(column.cells) - {NONE}]


def render(table: FinalTable, console: Console) -> None:
    """Print the table; on a narrow terminal the least needed columns are left out, and named below."""
    from rich.table import Table

    chosen, left_out = _fitting(columns(table), console.width)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in zip(chosen, _widths(chosen, console.width), strict=True):
        grid.add_column(column.title, justify="left" if column.words else "right", overflow="fold", width=width)
    for cells in zip(*(column.cells for column in chosen), strict=True):
        grid.add_row(*cells)
    console.print(grid)
    if left_out:
        names = "; ".join(column.title for column in left_out)
        console.print(f"Left out for want of width: {names}.", style="dim", highlight=False)


def markdown(table: FinalTable) -> str:
    """The whole table as GitHub Markdown, ending in a newline."""
    return markdown_of(columns(table))


def markdown_of(found: Sequence[Column]) -> str:
    """Columns as GitHub Markdown, ending in a newline."""
    lines = [" | ".join(column.title for column in found)]
    lines.append(" | ".join("---" if column.words else "---:" for column in found))
    lines += [" | ".join(cells) for cells in zip(*(column.cells for column in found), strict=True)]
    return "".join(f"| {line} |\n" for line in lines)


def safeguards(config: Mapping[str, Any]) -> str:
    """What was added to the published rule, in words; empty for nothing."""
    try:
        options = parse_spec(str(config["rule"])).kwargs
    except InvalidArgument:
        return ""
    words = ["damped"] if options.get("damped") else []
    clip = options.get("clip_compensation")
    words += [f"clipped at {clip:g}"] if clip is not None else []
    return ", ".join(words)


def _row(c: Comparison, series: Series, *, goal: float | None) -> Row:
    cell = series.chosen
    recipe = c.at_recipe(series)
    choice = c.tuning.plan.choice(series.label, series.workers) if c.tuning is not None else None
    return Row(
        label=series.label,
        workers=series.workers,
        safeguards=safeguards(series.cells[0].scores[0].run.config),
        lr=cell.lr if cell is not None else None,
        seeds=len(cell.scores) if cell is not None else 0,
        last_ten=cell.last_ten(c.split) if cell is not None else Stat(None, None, 0),
        best=cell.best(c.split) if cell is not None else Stat(None, None, 0),
        recipe=recipe.last_ten(c.split) if recipe is not None else None,
        diverged=series.diverged,
        runs=series.runs,
        staleness=_mean(cell, "staleness", "mean"),
        time=_mean(cell, "time"),
        wall=_mean(cell, "wall"),
        changed=choice.changed if choice is not None else "",
        arrival=arrival(c, cell, goal) if cell is not None and goal is not None else None,
        memory=_mean(cell, "memory", "total"),
    )


def _mean(cell: Cell | None, *keys: str) -> float | None:
    """Mean over the seeds of a number in their summaries."""
    found: list[float] = []
    for s in cell.scores if cell is not None else ():
        value: Any = s.run.summary or {}
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        found += [] if value is None else [float(value)]
    return statistics.fmean(found) if found else None


def _column(title: str, cells: Iterable[str], *, rank: int = 0, words: bool = False) -> Column:
    return Column(title, tuple(cells), rank, words)


def _times(title: str, values: list[float | None], *, rank: int) -> Column:
    """One unit for the whole column, so that its numbers can be compared at a glance."""
    largest = max((value for value in values if value is not None), default=0.0)
    unit, size = ("s", 1.0) if largest < 1e4 else (("min", 60.0) if largest < 6e5 else ("h", 3600.0))
    cells = (NONE if value is None else figures(value / size) for value in values)
    return _column(f"{title}, {unit}", cells, rank=rank)


def _arrivals(table: FinalTable) -> Column:
    """Seconds until the mean curve reaches the target, or ``never``."""
    reached = [row.arrival if row.arrival is None or math.isfinite(row.arrival) else None for row in table.rows]
    column = _times(f"{table.clock} time to {with_unit(table.target, table.metric)}", reached, rank=1)
    never = [row.arrival is not None and math.isinf(row.arrival) for row in table.rows]
    return replace(
        column, cells=tuple("never" if gone else cell for gone, cell in zip(never, column.cells, strict=True))
    )


def _spread(stat: Stat | None, metric: Metric) -> str:
    if stat is None:
        return NONE
    return spread(stat, metric, unit=False) if stat.mean is not None else number(None, metric)


def _fitting(found: list[Column], width: int) -> tuple[list[Column], list[Column]]:
    """Give up the least needed columns until the rest fits; titles may wrap, cells should not."""
    kept, left_out = list(found), []
    for rank in (4, 3, 2, 1):
        if _total(_narrowest(column) for column in kept) <= width:
            break
        left_out += [column for column in kept if column.rank == rank]
        kept = [column for column in kept if column.rank != rank]
    return kept, left_out


def _widths(kept: list[Column], room: int) -> list[int]:
    """Widths that fit: cells in one line each, and of the titles the longest is unwrapped as far as there is room."""
    widths = [_narrowest(column) for column in kept]
    lines = [len(textwrap.wrap(c.title, w)) for c, w in zip(kept, widths, strict=True)]
    while _total(widths) < room and max(lines) > 1:
        i = lines.index(max(lines))
        widths[i] += 1
        lines[i] = len(textwrap.wrap(kept[i].title, widths[i]))
    return widths


def _total(widths: Iterable[int]) -> int:
    """Columns stand two apart."""
    return sum(width + 2 for width in widths) - 2


def _narrowest(column: Column) -> int:
    return max(len(word) for word in (*column.cells, *column.title.split()))
