"""`tardigrad compare` and `tardigrad tune`: grids of runs, what they were stopped by, and their report."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from tardigrad.commands.report import write_report
from tardigrad.config import RunConfig, file_name
from tardigrad.errors import InvalidArgument
from tardigrad.options import CompareOptions, TuneOptions, seconds_of, split_recipe

if TYPE_CHECKING:
    from tardigrad.compare import Outcome

_Grid = TypeVar("_Grid", CompareOptions, TuneOptions)


def compare(words: list[str]) -> int:
    """``tardigrad compare``; the exit status."""
    options, base, title = _grid_options("compare", words, CompareOptions)
    place = options.directory or Path("runs") / f"compare-{title}"
    if options.tuned:
        return _compare_tuned(options, base, place)
    if options.controls:
        raise InvalidArgument("--controls compares a rule where it is best: add --tuned.")
    from tardigrad.algorithms import DEFAULT
    from tardigrad.compare import Comparison, run_comparison
    from tardigrad.plan import print_plan
    from tardigrad.progress import CompareProgress

    seeds = options.seeds or (0, 1, 2)
    grid = Comparison(base, options.algorithms or DEFAULT, options.workers, options.lrs, seeds)
    if options.dry_run:
        print_plan(grid.runs())
        return 0
    with CompareProgress(len(grid.runs())) as progress:
        outcomes = run_comparison(
            grid, place, jobs=_jobs(options), finished=progress.finished, deadline=_deadline(options)
        )
    return _conclude(outcomes, place)


def _compare_tuned(options: CompareOptions, base: RunConfig, place: Path) -> int:
    from tardigrad.algorithms import TUNED
    from tardigrad.plan import print_plan
    from tardigrad.progress import CompareProgress
    from tardigrad.tuning import Budget, Stages, TunedComparison

    grid = TunedComparison(
        base,
        options.algorithms or TUNED,
        options.workers,
        options.seeds or (1, 2, 3, 4, 5),
        Budget(options.lrs, options.finer, options.tune_seeds),
        options.controls_of if options.controls else None,
    )
    if options.dry_run:
        print(f"{grid.trials()} trials, at most {grid.most_runs()} runs in all; the runs at the recipe:\n")
        print_plan([arm.at(base.lr, arm.rule, seed) for arm in grid.arms() for seed in grid.seeds])
        return 0
    with CompareProgress(grid.most_runs()) as progress:
        stages = Stages(grid, place, _jobs(options), progress.finished, _deadline(options))
        outcomes = stages.compare()
    return _conclude(outcomes, place)


def tune(words: list[str]) -> int:
    """``tardigrad tune``; the exit status."""
    options, base, title = _grid_options("tune", words, TuneOptions)
    from tardigrad.algorithms import TUNED
    from tardigrad.progress import CompareProgress, print_choices
    from tardigrad.tuning import Budget, Stages, TunedComparison

    budget = Budget(options.lrs, options.finer, options.tune_seeds)
    grid = TunedComparison(base, options.algorithms or TUNED, options.workers, seeds=(), budget=budget)
    place = options.directory or Path("runs") / f"compare-{title}"
    with CompareProgress(grid.trials()) as progress:
        stages = Stages(grid, place, _jobs(options), progress.finished, _deadline(options))
        choices, outcomes = stages.tune()
    print_choices(choices)
    return _status(outcomes)


def _grid_options(command: str, words: list[str], kind: type[_Grid]) -> tuple[_Grid, RunConfig, str]:
    """A command's own options, the recipe with the settings that hold for all runs, and a name for its directory."""
    recipe, name, rest = split_recipe(command, words)
    prog = f"tardigrad {command} {name}"
    options, settings = tyro.cli(kind, args=rest, prog=prog, return_unknown_args=True)
    for word, instead in (("--rule", "--algorithms"), ("--seed", "--seeds"), ("--label", "--algorithms")):
        if word in settings:
            raise InvalidArgument(f"{command} takes {instead}, not {word}.")
    base = tyro.cli(type(recipe), default=recipe, args=settings, prog=prog)

    return options, base, file_name(name if base.task == recipe.task else f"{name}-{base.task}")


def _jobs(options: CompareOptions | TuneOptions) -> int:
    from tardigrad.compare import default_jobs

    return default_jobs() if isinstance(options.jobs, str) else options.jobs


def _deadline(options: CompareOptions | TuneOptions) -> float:

    return time.time() + seconds_of(options.stop_after)


def _conclude(outcomes: Sequence[Outcome], place: Path) -> int:
    """Write the report of what there is, if anything is."""
    if any(outcome.status in ("finished", "diverged") for outcome in outcomes):
        write_report([place], place / "report")
    return _status(outcomes)


def _status(outcomes: Sequence[Outcome]) -> int:
    """Print what failed or was stopped; the exit status."""
    failed = _report_failures(outcomes)
    stopped = sum(outcome.status == "stopped" for outcome in outcomes)
    if stopped:
        print("stopped in time; the same command goes on where this one ended", file=sys.stderr)
    return failed or (3 if stopped else 0)


def _report_failures(outcomes: Sequence[Outcome]) -> int:
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failures:
        print(f"{outcome.config.directory_name} failed:\n{outcome.message}", file=sys.stderr)
    return 1 if failures else 0
