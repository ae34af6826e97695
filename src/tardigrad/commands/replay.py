"""`tardigrad replay`: a run computed again from its log, its invariants checked, and what was found in a few lines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tardigrad.errors import ReplayError, RunDirectoryError

if TYPE_CHECKING:
    from rich.console import Console

    from tardigrad.audit import Audit
    from tardigrad.engines.base import Observer
    from tardigrad.replaying import Replayed

_SHOWN = 5
_EVERY = 50  # commits between two refreshes of the live line


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Compute a run again in one process, as its log says, and compare it bit for bit; or ask what if.

    Leaves with 0 if all is equal and every invariant holds, 1 if not, 2 where the run cannot be replayed here.
    """

    run: tyro.conf.Positional[Path]
    """Its directory."""
    rule: str | None = None
    """What if: the same schedule under another rule, such as 'dc-asgd-a(lambda0=4)'; recorded as a run of its own."""
    optimizer: str | None = None
    """What if: under another optimizer, such as 'sgd(momentum=0.9)'."""
    start: Annotated[str | None, tyro.conf.arg(name="from", metavar="CHECKPOINT")] = None
    """Begin from a checkpoint of the run: its version or its file."""
    until: Annotated[int | None, tyro.conf.arg(metavar="VERSION")] = None
    """End after the commit that makes this version."""
    save: Path | None = None
    """A .safetensors file for the weights and buffers at the end."""
    directory: Path | None = None
    """Where to record the replay as a run; under another rule by default beside the run."""
    data_dir: str | None = None
    """Folder with data sets; by default as the run had it."""


def replay(words: list[str]) -> int:
    """``tardigrad replay``; the exit status."""
    options = tyro.cli(ReplayOptions, args=words, prog="tardigrad replay")
    from rich.console import Console

    from tardigrad.replaying import replay as compute

    try:
        with warnings.catch_warnings(), _live_line(options.run) as observers:
            warnings.filterwarnings("ignore", message="The run was computed with", category=UserWarning)
            found = compute(
                options.run,
                rule=options.rule,
                optimizer=options.optimizer,
                start=options.start,
                until=options.until,
                save=options.save,
                directory=options.directory,
                observers=observers,
                data_dir=options.data_dir,
            )
    except ReplayError as error:
        return _explained(error, options.run)
    console = Console(highlight=False, soft_wrap=True)
    checked = _audit(options.run)
    _show(console, found, options)
    if checked is not None:
        _show_audit(console, checked)
    return 0 if found.equal is not False and not found.diverged and (checked is None or checked.ok) else 1


def _show(console: Console, found: Replayed, options: ReplayOptions) -> None:
    colour = {True: "green", False: "red", None: "default"}[found.equal]
    console.print(f"{found.headline} ({found.seconds:.1f} s)", style=colour, markup=False)
    for words in dict.fromkeys([*found.details, *found.cautions]):
        console.print(f"  {words}", style="red" if found.equal is False else "yellow", markup=False)
    if options.save is not None:
        console.print(f"weights of version {found.version}: {options.save}", markup=False)
    if found.directory is not None:
        for line in _compared(found):
            console.print(line, markup=False)
        console.print(
            f"recorded in {found.directory}; both: tardigrad report {found.run} {found.directory}", markup=False
        )


def _compared(found: Replayed) -> Iterator[str]:
    """The last evaluation of both, where both were evaluated."""
    from tardigrad.metrics.runs import load_run

    assert found.directory is not None
    mine, theirs = load_run(found.directory), load_run(found.run)
    metric = mine.metric
    if metric is None or not found.evaluations:
        return
    last = mine.evaluations[-1]
    same = next((record for record in theirs.evaluations if record["version"] == last["version"]), None)
    for split in ("validation", "test"):
        if split in last and same is not None and split in same:
            shown, was = (_shown(record[split].get(metric.name), metric) for record in (last, same))
            yield f"{split} {metric.name} at version {last['version']}: {shown}, in the run {was}"


def _shown(value: Any, metric: Any) -> str:
    return "not finite" if value is None else f"{metric.scale * value:.4g} {metric.unit}".rstrip()


def _show_audit(console: Console, checked: Audit) -> None:
    if checked.ok:
        console.print(checked.verdict, style="green", markup=False)
        return
    number = len(checked.violations)
    console.print(f"{number} invariant{'s do' if number > 1 else ' does'} not hold:", style="red", markup=False)
    for words in checked.violations[:_SHOWN]:
        console.print(f"  {words}", style="red", markup=False)
    if len(checked.violations) > _SHOWN:
        console.print(f"  and {len(checked.violations) - _SHOWN} more", style="red", markup=False)


def _explained(error: ReplayError, run: Path) -> int:
    """A log that contradicts itself is a finding; anything else is a refusal, which goes on as it is."""
    from rich.console import Console

    checked = _audit(run)
    if checked is None or checked.ok:
        raise error
    console = Console(highlight=False, soft_wrap=True)
    console.print(str(error), style="red", markup=False)
    _show_audit(console, checked)
    return 1


def _audit(run: Path) -> Audit | None:
    """What the audit finds; None where the log cannot be audited."""
    from tardigrad.audit import audit

    try:
        return audit(run)
    except RunDirectoryError:
        return None


@contextmanager
def _live_line(run: Path) -> Iterator[list[Observer]]:
    """On a terminal, how far the replay is."""
    from rich.console import Console

    from tardigrad.engines.base import Observer
    from tardigrad.records import Commit

    console = Console(stderr=True)
    if not console.is_terminal:
        yield []
        return
    with console.status(f"replaying {run}") as status:

        class Line(Observer):
            def committed(self, time: float, commit: Commit) -> None:
                if commit.version % _EVERY == 0:
                    status.update(f"replaying {run}: version {commit.version}")

        yield [Line()]
