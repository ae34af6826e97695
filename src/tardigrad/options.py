"""The options of the commands beside the run's own settings; tyro makes the parser from these classes."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Train once, and record the run; every setting is an option."""

    config: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    directory: Path | None = None
    """Where to record; by default a new directory below runs/."""
    stop_after: str = ""
    """Stop cleanly after so long, such as 9m or 1h30m; tardigrad train --resume RUN goes on."""
    server_actor: bool = False
    """With --engine ray: the server is an actor too, and begins again on another node when its own is gone."""
    dry_run: bool = False
    """Print the resolved configuration and the memory it needs, and stop."""
    link: str = ""
    """With --dry-run: link of a worker, and of the server, such as 1Gbit/s or 125MB/s. Says how many exchanges a second
    are wanted and possible, and what to do. By default the run's --bandwidth."""
    step_seconds: float | None = None
    """With --dry-run: seconds that a gradient takes. By default the mean of --delay."""


@dataclass(frozen=True, slots=True)
class ResumeOptions:
    """Go on with a run that was stopped, or killed after a checkpoint, bit for bit as if nothing had happened."""

    run: tyro.conf.Positional[Path]
    """Its directory."""
    stop_after: str = ""
    """Stop cleanly after so long, such as 9m or 1h30m."""
    data_dir: str = ""
    """Folder with data sets; empty: TARDIGRAD_DATA, else a cache folder."""
    listen: str = ""
    """Where workers of other machines join from now on; empty: where they did."""


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Train every algorithm under the same learning rates, workers and seeds, then write the report.

    Finished runs are not run again. Every setting of ``tardigrad train RECIPE --help`` is accepted too and holds for
    all runs.
    """

    algorithms: tuple[str, ...] = ()
    """sequential, ssgd, ssgd-linear, m-synchronous, and any rule: 'dc-asgd-a(lambda0=4)'. Empty: the paper's and
    dc-asgd; with --tuned also m-synchronous and staleness-lr."""
    workers: tuple[int, ...] = ()
    """Numbers of workers. Empty: the recipe's."""
    lrs: tuple[float, ...] = ()
    """Learning rates. Empty: the recipe's; with --tuned each algorithm searches five of its own."""
    seeds: tuple[int, ...] = ()
    """Seeds of initial weights, order of samples and delays. Empty: 0 1 2; with --tuned 1 2 3 4 5."""
    tuned: bool = False
    """Give every algorithm the same trials on other seeds, choose by validation data, then compare best against best,
    and all at the untouched recipe."""
    finer: int = 2
    """With --tuned: trials beside the best learning rate, an even number; of lambda0 where a rule has one."""
    tune_seeds: tuple[int, ...] = (0,)
    """With --tuned: seeds of the trials."""
    controls: bool = False
    """With --tuned: add the arms that tell compensation from a smaller step, and clipping alone."""
    controls_of: str = "dc-asgd-a"
    """With --controls: the algorithm they are controls of."""
    jobs: int | Literal["auto"] = 1
    """Runs at a time, each in a process of its own; auto: one for each core."""
    stop_after: str = ""
    """Stop cleanly after so long, such as 9m or 1h30m; the same command goes on where this one stopped."""
    directory: Path | None = None
    """Where to put the runs and the report; by default runs/compare-RECIPE."""
    dry_run: bool = False
    """Print the runs and the memory one needs, and stop."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Give every algorithm the same trials and say what is best for each, by validation data.

    ``tardigrad compare RECIPE --tuned`` with the same options goes on from there. Every setting of ``tardigrad train
    RECIPE --help`` is accepted too and holds for all runs.
    """

    algorithms: tuple[str, ...] = ()
    """As in tardigrad compare --tuned. Empty: the same eight."""
    workers: tuple[int, ...] = ()
    """Numbers of workers. Empty: the recipe's."""
    lrs: tuple[float, ...] = ()
    """One common grid of learning rates. Empty: each algorithm searches five of its own, from the recipe's on."""
    finer: int = 2
    """Trials beside the best learning rate, an even number; of lambda0 where a rule has one."""
    tune_seeds: tuple[int, ...] = (0,)
    """Seeds of the trials."""
    jobs: int | Literal["auto"] = 1
    """Runs at a time, each in a process of its own; auto: one for each core."""
    stop_after: str = ""
    """Stop cleanly after so long, such as 9m or 1h30m; the same command goes on where this one stopped."""
    directory: Path | None = None
    """Where to put the runs; by default runs/compare-RECIPE."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Write pictures, table and verdict of runs as one self-contained page."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run directories, or folders of runs."""
    output: Path | None = None
    """Folder for report.html and the pictures; by default the first run directory's report/."""


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """Work for a run that another machine serves: tardigrad join HOST:PORT --secret-file FILE [SCRIPT.py [ARGUMENTS]].

    At SIGTERM, or the first Ctrl-C, what is being computed is handed in before the workers leave; a second one leaves
    at once. A run of a script needs this machine's copy of the script, named last; its arguments are the run's where
    none follow.
    """

    address: tyro.conf.Positional[str]
    """Where the run's server listens, HOST:PORT, as it says itself; or the run's directory, if this machine sees it."""
    secret_file: str = ""
    """File with the run's secret, which only its owner may read; without it the variable TARDIGRAD_SECRET holds it."""
    trusted_network: bool = False
    """Encrypt nothing, as the server was told too."""
    workers: int = 1
    """How many workers this machine brings, >= 1."""
    device: str = "cpu"
    """Where they compute: cpu, cuda:N, or cuda: the GPUs in turn."""
    data_dir: str = ""
    """Folder with data sets on this machine; empty: TARDIGRAD_DATA, else a cache folder."""
    imports: tuple[str, ...] = ()
    """Modules or Python files that the run imports, where they lie elsewhere on this machine."""
    keep_trying: float = 600.0
    """Seconds without an answer after which the server is given up."""
    again: bool = False
    """When a run has ended, wait for the next one there."""
    overlap: bool = False
    """Two workers in the place of each, which compute in turn: while one computes, what the other hands in travels."""


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """Show a run: its workers, their pace and staleness, and what happened; on a terminal live, until it ends."""

    run: tyro.conf.Positional[Path]
    """Its directory."""
    once: bool = False
    """Print it once and stop."""


@dataclass(frozen=True, slots=True)
class WorkersOptions:
    """Add workers to a run with real ones, or remove some, while it goes on; without --set say how many there are."""

    run: tyro.conf.Positional[Path]
    """Its directory."""
    set: int | None = None
    """How many workers it is to have, >= 1."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Write a run's weights and buffers as a file that the plain model loads, with safetensors and no Tardigrad."""

    run: tyro.conf.Positional[Path]
    """Its directory."""
    output: Path | None = None
    """File to write; by default the run directory's name with .safetensors, here."""
    checkpoint: int | None = None
    """Version of a checkpoint to take. By default the final weights, or of a run that has not ended its newest one."""
    data_dir: str | None = None
    """Folder with data sets, which building the task may need; by default as the run had it."""


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def seconds_of(duration: str) -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``9m`` or ``1h30m``; infinite for an empty one.

    Raises:
        InvalidArgument: for anything else, or for no time at all.
    """
    if not duration:
        return math.inf
    match = _DURATION.fullmatch(duration.replace(" ", ""))
    hours, minutes, seconds = (float(part or 0.0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600.0 * hours + 60.0 * minutes + seconds
    if total <= 0.0:
        raise InvalidArgument(f"{duration!r} is not a duration above 0; type 9m, 90s or 1h30m.")
    return total


def split_recipe(command: str, words: list[str]) -> tuple[RunConfig, str, list[str]]:
    """The recipe named first, and the options after it; ``--help`` alone shows the defaults of a plain run."""
    from tardigrad.imports import import_all
    from tardigrad.recipes import RECIPES, load_recipe

    if words and not words[0].startswith("-"):
        import_all(_values_of("--imports", words))  # a recipe may be registered there
        return load_recipe(words[0]), words[0], words[1:]
    if "-h" in words or "--help" in words:
        return RunConfig(), "RECIPE", words
    raise InvalidArgument(f"name a recipe first: tardigrad {command} RECIPE, one of {', '.join(RECIPES.names())}.")


def _values_of(option: str, words: list[str]) -> list[str]:
    """The words after an option, up to the next one."""
    after = words[words.index(option) + 1 :] if option in words else []
    return list(itertools.takewhile(lambda word: not word.startswith("--"), after))
