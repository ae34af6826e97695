"""The report: one HTML page that needs nothing beside itself, and its pictures as PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tardigrad.errors import MissingDependencyError
from tardigrad.metrics.comparison import Comparison, compare_runs
from tardigrad.metrics.quantities import counted, listing, rate, with_unit
from tardigrad.metrics.runs import RunRecord, find_runs
from tardigrad.metrics.tuned import Tuning
from tardigrad.metrics.verdict import verdict
from tardigrad.report.choices import choices
from tardigrad.report.differences import difference_tables
from tardigrad.report.paper import paper_table
from tardigrad.report.pictures import Picture, draw
from tardigrad.report.table import FinalTable, columns, final_table


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """What was written.

    Attributes:
        html: the page.
        pngs: the pictures, in the page's order.
    """

    html: Path
    pngs: tuple[Path, ...]


def write_report(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    recipe_lr: float | None = None,
    tolerance: float | None = None,
) -> ReportPaths:
    """Read runs and write their report: ``report.html`` and a PNG per picture.

    Args:
        paths: run directories, comparison directories, or folders that hold them; one run is enough.
        out_dir: created where missing; files of an earlier report are replaced.
        recipe_lr: as `tardigrad.metrics.comparison.compare_runs` takes it.
        tolerance: likewise.

    Raises:
        RunDirectoryError: a path holds no run, or a run is damaged.
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    return write_page(compare_runs(find_runs(paths), recipe_lr=recipe_lr, tolerance=tolerance), out_dir)


def write_page(comparison: Comparison, out_dir: str | os.PathLike[str]) -> ReportPaths:
    """The same for runs that are already read and compared."""
    drawn, without = draw(comparison)
    html = render_page(comparison, drawn, without=without)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        (folder / f"{picture.name}.png").write_bytes(picture.png)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return ReportPaths(folder / "report.html", tuple(folder / f"{picture.name}.png" for picture in drawn))


def render_page(comparison: Comparison, pictures: list[Picture], *, without: Iterable[str] = ()) -> str:
    """The page as text.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", extra="report", purpose="the HTML page") from error
    folder = resources.files("tardigrad.report")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        folder.joinpath("page.html").read_text(encoding="utf-8")
    )
    table = final_table(comparison)
    below = [*difference_tables(comparison), *filter(None, [paper_table(comparison)])]
    return template.render(
        title=_title(comparison),
        about=_about(comparison),
        css=folder.joinpath("page.css").read_text(encoding="utf-8"),
        pictures=pictures,
        without=list(without),
        columns=columns(table),
        table_note=_table_note(table),
        tables=below,
        choices=choices(comparison),
        verdict=verdict(comparison),
    )


def _title(c: Comparison) -> str:
    task = str(c.runs[0].config["task"])
    if len(c.series) == 1:
        series = c.series[0]
        return f"{task}: {series.label}, {counted(series.workers, 'worker')}"
    return f"{task}: {counted(len({s.label for s in c.series}), 'algorithm')} compared"


def _about(c: Comparison) -> str:
    if c.tuning is not None:
        return _about_tuned(c, c.tuning)
    workers = listing([str(w) for w in sorted({s.workers for s in c.series})])
    lrs = listing([rate(lr) for lr in c.lrs])
    seeds = listing([str(seed) for seed in c.seeds])
    when = _started(c.runs)
    return f"{counted(len(c.runs), 'run')}. Workers: {workers}. Learning rates: {lrs}. Seeds: {seeds}.{when}"


def _about_tuned(c: Comparison, tuning: Tuning) -> str:
    """How many runs of which kind there are, and which seeds are for what."""
    reported = sum(len(cell.scores) for cell in tuning.cells)
    workers = listing([str(w) for w in sorted({s.workers for s in c.series})])
    seeds, trials = (listing([str(s) for s in some]) for some in (tuning.plan.seeds, tuning.plan.trial_seeds))
    return (
        f"{counted(reported + len(tuning.trials), 'run')}: {reported} reported, of seeds {seeds}; {len(tuning.trials)} "
        f"trial runs, of seeds {trials}. Workers: {workers}. Learning rate of the recipe: {rate(c.recipe_lr)}."
        f"{_started([s.run for s in tuning.trials] + c.runs)}"
    )


def _started(runs: Sequence[RunRecord]) -> str:
    started = min((str(run.environment.get("started", "")) for run in runs), default="")
    return f" Started {started.replace('T', ' ')}." if started else ""


def _table_note(table: FinalTable) -> str:
    if table.tuned:
        return _tuned_note(table)
    lr = " lr is the learning rate chosen for the row." if len(table.rows) > 1 else ""
    return (
        f"± is the standard deviation over seeds.{lr} The best epoch is chosen on {table.split} data, as the paper's "
        f"Table 1 does, and is too good. Diverged: of all the row's runs, over all learning rates. "
        f"Staleness: mean, in commits."
    )


def _tuned_note(table: FinalTable) -> str:
    arrives = ""
    if table.target is not None:
        to = with_unit(table.target, table.metric)
        arrives = f" Time to {to}: until the mean curve over the seeds first is there."
    return (
        "Each algorithm at its own best point, over the reported seeds; trial runs take no part. ± is the standard "
        f"deviation over seeds. The best epoch is chosen on {table.split} data, as the paper's Table 1 does, and is "
        f"too good. Diverged: of the row's reported runs, those at the untouched recipe too.{arrives} Staleness: "
        "mean, in commits. Server memory: weights, backups and the rule's state."
    )
