"""The options of the commands beside the run's own settings; tyro makes the parser from these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from tardigrad.config import RunConfig


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Train once, and record the run; every setting is an option."""

    config: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    directory: Path | None = None
    """Where to record; by default a new directory below runs/."""
    dry_run: bool = False
    """Print the resolved configuration and the memory it needs, and stop."""


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Train every algorithm under the same learning rates, workers and seeds, then write the report.

    Finished runs are not run again. Every setting of ``tardigrad train RECIPE --help`` is accepted too and holds for
    all runs.
    """

    algorithms: tuple[str, ...] = ()
    """sequential, ssgd, ssgd-linear, and any rule: 'dc-asgd-a(lambda0=4)'. Empty: the paper's and dc-asgd."""
    workers: tuple[int, ...] = ()
    """Numbers of workers. Empty: the recipe's."""
    lrs: tuple[float, ...] = ()
    """Learning rates. Empty: the recipe's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initial weights, order of samples and delays."""
    jobs: int | Literal["auto"] = 1
    """Runs at a time, each in a process of its own; auto: one for each core."""
    directory: Path | None = None
    """Where to put the runs and the report; by default runs/compare-RECIPE."""
    dry_run: bool = False
    """Print the runs and the memory one needs, and stop."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Write pictures, table and verdict of runs as one self-contained page."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run directories, or folders of runs."""
    output: Path | None = None
    """Folder for report.html and the pictures; by default the first run directory's report/."""
