"""The report: one HTML page that needs nothing beside itself, and its pictures as PNG files."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tardigrad.errors import MissingDependencyError
from tardigrad.metrics.comparison import Comparison, compare_runs
from tardigrad.metrics.quantities import counted, listing, rate
from tardigrad.metrics.runs import find_runs
from tardigrad.metrics.verdict import verdict
from tardigrad.report.choices import choices
from tardigrad.report.compensation import compensation
from tardigrad.report.curves import error_against
from tardigrad.report.rates import error_against_rate
from tardigrad.report.staleness import staleness, staleness_run
from tardigrad.report.table import FinalTable, columns, final_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """What was written.

    Attributes:
        html: the page.
        pngs: the pictures, in the page's order.
    """

    html: Path
    pngs: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page; ``name`` is its file's, without the ending."""

    name: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """As a page embeds it."""
        return base64.b64encode(self.png).decode("ascii")


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


def draw(comparison: Comparison) -> tuple[list[Picture], list[str]]:
    """All pictures that have something to show, in order, and a sentence for each of the others."""
    late, clock = staleness_run(comparison), comparison.runs[0].clock
    offers: list[tuple[str, str, Callable[[], Figure | None], str]] = [
        ("learning-rate", _caption_rates(comparison), lambda: error_against_rate(comparison),
         "One learning rate was run, so there is no picture of the error against it."),
        ("epochs", _caption_curves(comparison, "epochs of samples applied"), lambda: error_against(comparison, "epoch"),
         "No run has two evaluations yet, so there are no learning curves."),
        ("time", _caption_curves(comparison, f"{clock} time"), lambda: error_against(comparison, "time"), ""),
        ("staleness", _CAPTION_STALENESS, lambda: staleness(late) if late is not None else None,
         "No run with several workers recorded its staleness."),
        ("compensation", _CAPTION_COMPENSATION, lambda: compensation(comparison),
         "No run measured the size of its compensation."),
    ]  # fmt: skip
    drawn, without = [], []
    for name, caption, make, otherwise in offers:
        figure = make()
        if figure is not None:
            drawn.append(Picture(name, caption, png(figure)))
        elif otherwise:
            without.append(otherwise)
    return drawn, without


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


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
    return template.render(
        title=_title(comparison),
        about=_about(comparison),
        css=folder.joinpath("page.css").read_text(encoding="utf-8"),
        pictures=pictures,
        without=list(without),
        columns=columns(table),
        table_note=_table_note(table),
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
    workers = listing([str(w) for w in sorted({s.workers for s in c.series})])
    lrs = listing([rate(lr) for lr in c.lrs])
    seeds = listing([str(seed) for seed in c.seeds])
    started = min((str(run.environment.get("started", "")) for run in c.runs), default="")
    when = f" Started {started.replace('T', ' ')}." if started else ""
    return f"{counted(len(c.runs), 'run')}. Workers: {workers}. Learning rates: {lrs}. Seeds: {seeds}.{when}"


def _caption_rates(c: Comparison) -> str:
    return (
        f"Which rule tolerates what: {c.split} {c.metric.name}, mean of the last ten evaluations, against the learning "
        "rate. Lines: mean over seeds; faint dots: single seeds; crosses above: diverged runs, counted with what their "
        "weights reach. Points of one rate are drawn side by side."
    )


def _caption_curves(c: Comparison, against: str) -> str:
    chosen = ", each algorithm at the learning rate chosen for it" if len(c.lrs) > 1 else ""
    bands = " Lines: mean over seeds; bands: from the best seed to the worst." if len(c.seeds) > 1 else ""
    return f"Learning curves on {c.split} data against {against}{chosen}.{bands}"


_CAPTION_STALENESS = (
    "Staleness: commits between a worker's pull and the commit of its push. Where workers are equal and delays "
    "exponential, theory gives the geometric law."
)
_CAPTION_COMPENSATION = (
    "Norm of the compensation over norm of its gradient. Dots: measured commits; lines: running medians. Near or "
    "above 1 the repair outweighs what it repairs."
)


def _table_note(table: FinalTable) -> str:
    lr = " lr is the learning rate chosen for the row." if len(table.rows) > 1 else ""
    return (
        f"± is the standard deviation over seeds.{lr} The best epoch is chosen on {table.split} data, as the paper's "
        f"Table 1 does, and is too good. Diverged: of all the row's runs, over all learning rates. "
        f"Staleness: mean, in commits."
    )
