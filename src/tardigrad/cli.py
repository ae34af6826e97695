"""The command line. Imports no torch until a command needs it, so that help and lists answer at once."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tardigrad.errors import (
    Diverged,
    InvalidArgument,
    MissingDependencyError,
    Stopped,
    TardigradError,
    UnknownName,
)

if TYPE_CHECKING:
    from typing import TypeVar

    from tardigrad.compare import Outcome
    from tardigrad.config import RunConfig
    from tardigrad.options import CompareOptions, TuneOptions

    _Grid = TypeVar("_Grid", CompareOptions, TuneOptions)

HELP = """usage: tardigrad COMMAND ...

Asynchronous data-parallel training in which a recipe tuned for one machine keeps working.

  tardigrad train RECIPE [--rule RULE] [--workers N] ...     train once; every setting is an option
  tardigrad train --resume RUN                               go on with a run that was stopped
  tardigrad compare RECIPE [--lrs LR ...] [--seeds S ...]    algorithms x workers x learning rates x seeds, resumable
  tardigrad tune RECIPE [--workers N ...] ...                the same trials for every algorithm; what is best for each
  tardigrad report RUN ...                                   pictures, table and verdict of runs as one page
  tardigrad list [KIND]                                      recipes, rules, delays and everything else with a name
  tardigrad doctor                                           what this machine has, what is missing, what to type

Each command has its own --help. Start with: tardigrad compare digits --lrs 0.1 --seeds 0
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status.

    0; 1 for a run that failed or diverged; 2 for a bad request; 3 where --stop-after ended it before its end.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except Diverged as error:
        return _complain(error, status=1)
    except Stopped as error:
        return _complain(error, status=3)
    except TardigradError as error:
        return _complain(error, status=2)
    except BrokenPipeError:  # the reader (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        hint = "; the same command goes on where this one ended" if words[:1] in (["compare"], ["tune"]) else ""
        print(f"\nstopped{hint}", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        from tardigrad._version import __version__

        print(f"tardigrad {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise UnknownName("command", words[0], COMMANDS)
    return COMMANDS[words[0]](words[1:])


def _complain(error: Exception, *, status: int) -> int:
    print(f"tardigrad: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", []):
        print(note, file=sys.stderr)
    return status


def _split_recipe(command: str, words: list[str]) -> tuple[RunConfig, str, list[str]]:
    """The recipe named first, and the options after it; ``--help`` alone shows the defaults of a plain run."""
    from tardigrad.config import RunConfig
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


def _train(words: list[str]) -> int:
    if words[:1] == ["--resume"]:
        return _resume(words[1:])
    import tyro

    base, name, rest = _split_recipe("train", words)

    from tardigrad.options import TrainOptions

    options = tyro.cli(TrainOptions, default=TrainOptions(base), args=rest, prog=f"tardigrad train {name}")
    if options.dry_run:
        return _show_plan([options.config])
    from tardigrad.progress import TrainProgress
    from tardigrad.training import resolve, train

    stop = _stop(options.stop_after)
    config, task = resolve(options.config)
    with TrainProgress(config, samples=len(task.train) * config.epochs, metric=task.metric) as progress:
        run = train(config, directory=options.directory, observers=[progress], stop=stop)
    print(f"recorded in {run.directory}; pictures: tardigrad report {run.directory}")
    return 0


def _resume(words: list[str]) -> int:
    import tyro

    from tardigrad.options import ResumeOptions

    options = tyro.cli(ResumeOptions, args=words, prog="tardigrad train --resume")
    from tardigrad.progress import TrainProgress
    from tardigrad.training import resolve, resume, stopped_config

    stop = _stop(options.stop_after)
    config, task = resolve(stopped_config(options.run).replace(data_dir=options.data_dir))
    with TrainProgress(config, samples=len(task.train) * config.epochs, metric=task.metric) as progress:
        run = resume(options.run, observers=[progress], stop=stop, data_dir=options.data_dir)
    print(f"recorded in {run.directory}; pictures: tardigrad report {run.directory}")
    return 0


def _stop(stop_after: str) -> Callable[[], bool] | None:
    """What a run asks after every push, to stop in time; None where it is not to be stopped."""
    from tardigrad.options import seconds_of

    if not stop_after:
        return None
    deadline = time.time() + seconds_of(stop_after)
    return lambda: time.time() >= deadline


def _compare(words: list[str]) -> int:
    from tardigrad.options import CompareOptions

    options, base, title = _grid_options("compare", words, CompareOptions)
    place = options.directory or Path("runs") / f"compare-{title}"
    if options.tuned:
        return _compare_tuned(options, base, place)
    if options.controls:
        raise InvalidArgument("--controls compares a rule where it is best: add --tuned.")
    from tardigrad.algorithms import DEFAULT
    from tardigrad.compare import Comparison, run_comparison
    from tardigrad.progress import CompareProgress

    seeds = options.seeds or (0, 1, 2)
    grid = Comparison(base, options.algorithms or DEFAULT, options.workers, options.lrs, seeds)
    if options.dry_run:
        return _show_plan(grid.runs())
    with CompareProgress(len(grid.runs())) as progress:
        outcomes = run_comparison(
            grid, place, jobs=_jobs(options), finished=progress.finished, deadline=_deadline(options)
        )
    return _conclude(outcomes, place)


def _compare_tuned(options: CompareOptions, base: RunConfig, place: Path) -> int:
    from tardigrad.algorithms import TUNED
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
        return _show_plan([arm.at(base.lr, arm.rule, seed) for arm in grid.arms() for seed in grid.seeds])
    with CompareProgress(grid.most_runs()) as progress:
        stages = Stages(grid, place, _jobs(options), progress.finished, _deadline(options))
        outcomes = stages.compare()
    return _conclude(outcomes, place)


def _tune(words: list[str]) -> int:
    from tardigrad.options import TuneOptions

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
    import tyro

    recipe, name, rest = _split_recipe(command, words)
    prog = f"tardigrad {command} {name}"
    options, settings = tyro.cli(kind, args=rest, prog=prog, return_unknown_args=True)
    for word, instead in (("--rule", "--algorithms"), ("--seed", "--seeds"), ("--label", "--algorithms")):
        if word in settings:
            raise InvalidArgument(f"{command} takes {instead}, not {word}.")
    base = tyro.cli(type(recipe), default=recipe, args=settings, prog=prog)
    from tardigrad.config import file_name

    return options, base, file_name(name if base.task == recipe.task else f"{name}-{base.task}")


def _jobs(options: CompareOptions | TuneOptions) -> int:
    from tardigrad.compare import default_jobs

    return default_jobs() if isinstance(options.jobs, str) else options.jobs


def _deadline(options: CompareOptions | TuneOptions) -> float:
    from tardigrad.options import seconds_of

    return time.time() + seconds_of(options.stop_after)


def _conclude(outcomes: Sequence[Outcome], place: Path) -> int:
    """Write the report of what there is, if anything is."""
    if any(outcome.status in ("finished", "diverged") for outcome in outcomes):
        _write_report([place], place / "report")
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


def _report(words: list[str]) -> int:
    import tyro

    from tardigrad.options import ReportOptions

    options = tyro.cli(ReportOptions, args=words, prog="tardigrad report")
    if not options.runs:
        raise InvalidArgument("name at least one run directory: tardigrad report runs/demo")
    _write_report(list(options.runs), options.output or options.runs[0] / "report")
    return 0


def _write_report(runs: list[Path], output: Path) -> None:
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


def _show_plan(runs: Sequence[RunConfig]) -> int:
    from tardigrad.plan import print_plan

    print_plan(runs)
    return 0


def _list(words: list[str]) -> int:
    from tardigrad.listing import print_lists

    print_lists(words)
    return 0


def _doctor(words: list[str]) -> int:
    from tardigrad.doctor import print_examination

    print_examination()
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "compare": _compare,
    "tune": _tune,
    "report": _report,
    "list": _list,
    "doctor": _doctor,
}
