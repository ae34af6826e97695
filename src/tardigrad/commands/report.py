"""`tardigrad report`: table and verdict, and the page of pictures where matplotlib is there."""

from __future__ import annotations

from pathlib import Path

import tyro

from tardigrad.errors import InvalidArgument, MissingDependencyError
from tardigrad.options import ReportOptions


def report(words: list[str]) -> int:
    """``tardigrad report``; the exit status."""
    options = tyro.cli(ReportOptions, args=words, prog="tardigrad report")
    if not options.runs:
        raise InvalidArgument("name at least one run directory: tardigrad report runs/demo")
    write_report(list(options.runs), options.output or options.runs[0] / "report")
    return 0


def write_report(runs: list[Path], output: Path) -> None:
    """Write the page, then print table and verdict.

    In this order, so that a reader that stops reading costs nothing; without matplotlib there is no page, but the rest.
    """
    from rich.console import Console

    from tardigrad.metrics.comparison import compare_runs
    from tardigrad.metrics.runs import find_runs
    from tardigrad.metrics.verdict import as_text, verdict
    from tardigrad.report.page import write_page
    from tardigrad.report.rows import write_rows
    from tardigrad.report.table import final_table, render

    found = find_runs(runs)
    comparison = compare_runs(found)
    write_rows(found, output / "runs.csv")
    try:
        last_words = f"\npage: {write_page(comparison, output).html}; the numbers: {output / 'runs.csv'}"
    except MissingDependencyError as error:
        last_words = f"\nno page: {error}"
    console = Console()
    render(final_table(comparison), console)
    print("\n" + as_text(verdict(comparison), width=min(100, console.width)))
    print(last_words)
