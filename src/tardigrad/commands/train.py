"""`tardigrad train` and `tardigrad train --resume`: one run, which a signal stops where it can go on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument, Stopped
from tardigrad.options import ResumeOptions, TrainOptions, seconds_of, split_recipe
from tardigrad.signals import StopSignals

if TYPE_CHECKING:
    from tardigrad.tasks.base import Task
    from tardigrad.training import Run


def train(words: list[str]) -> int:
    """``tardigrad train``; the exit status: 3 where the run was stopped and can go on."""
    return obey("train", words)


def obey(command: str, words: list[str], **base: Any) -> int:
    """Train, or go on with a run; ``base``: settings that the command begins with, in place of the recipe's."""
    try:
        return _resume(command, words[1:]) if words[:1] == ["--resume"] else _begin(command, words, base)
    except Stopped as stopped:
        _say_how_far(command, stopped.directory)
        return 3


def _begin(command: str, words: list[str], base: Mapping[str, Any]) -> int:
    recipe, name, rest = split_recipe(command, words)
    default = TrainOptions(recipe.replace(**base))
    options = tyro.cli(TrainOptions, default=default, args=rest, prog=f"tardigrad {command} {name}")
    if base.get("engine", options.config.engine) != options.config.engine:
        raise InvalidArgument(f"tardigrad {command} has an engine of its own: leave out --engine.")
    if options.dry_run:
        from tardigrad.plan import print_plan

        print_plan([options.config], link=options.link, step_seconds=options.step_seconds)
        return 0
    if options.link or options.step_seconds is not None:
        raise InvalidArgument("--link and --step-seconds are for --dry-run; the simulator's link is --bandwidth.")
    stop_after = seconds_of(options.stop_after)
    _prepare(options.config)
    from tardigrad import training
    from tardigrad.progress import TrainProgress

    config, task = training.resolve(options.config)
    if options.server_actor:
        return _elsewhere(config, task, options.directory or training.fresh_directory(config), stop_after)
    with (
        _stopping(stop_after) as stop,
        TrainProgress(config, samples=len(task.train) * config.epochs, metric=task.metric) as progress,
    ):
        run = training.train(config, directory=options.directory, observers=[progress], stop=stop)
    return _conclude(run)


def _elsewhere(config: RunConfig, task: Task, directory: Path, stop_after: float) -> int:
    """The same, with the server in an actor."""
    from tardigrad.commands.elsewhere import require_ray, train_elsewhere
    from tardigrad.progress import TrainProgress

    require_ray(config.engine)
    samples = len(task.train) * config.epochs
    with _stopping(stop_after) as stop, TrainProgress(config, samples=samples, metric=task.metric) as progress:
        return train_elsewhere(config, directory, observers=[progress], stop=stop)


def _resume(command: str, words: list[str]) -> int:
    options = tyro.cli(ResumeOptions, args=words, prog=f"tardigrad {command} --resume")
    stop_after = seconds_of(options.stop_after)
    if (options.run / "config.json").is_file():
        _prepare(RunConfig.from_json(json.loads((options.run / "config.json").read_text())))
    from tardigrad import training
    from tardigrad.progress import TrainProgress
    from tardigrad.standing import reached_by_checkpoint

    stopped = training.stopped_config(options.run)
    changed = {"data_dir": options.data_dir or stopped.data_dir, "listen": options.listen or stopped.listen}
    config, task = training.resolve(stopped.replace(**changed))
    reached = reached_by_checkpoint(options.run)
    samples, applied = len(task.train) * config.epochs, 0 if reached is None else reached.samples
    with (
        _stopping(stop_after) as stop,
        TrainProgress(config, samples=samples, applied=applied, metric=task.metric) as progress,
    ):
        run = training.resume(options.run, observers=[progress], stop=stop, **changed)
    return _conclude(run)


def _prepare(config: RunConfig) -> None:
    """Start what real workers come from. It imports torch and builds the task while this process does the same."""
    if config.engine in ("local", "joined", "ray"):
        from tardigrad.engines.local.nursery import prepare

        prepare(config.task, imports=config.imports, data_dir=config.data_dir)


@contextmanager
def _stopping(seconds: float) -> Iterator[Callable[[], bool]]:
    """What a run asks after every push, to be stopped in time: after so many seconds, or at a signal."""
    deadline = time.time() + seconds
    with StopSignals() as signals:
        yield lambda: signals.asked() or time.time() >= deadline


def _say_how_far(command: str, directory: Path) -> None:
    """The last lines of a run that was stopped."""
    from tardigrad.standing import reached_by_checkpoint

    reached = reached_by_checkpoint(directory)
    if reached is not None:
        print(f"stopped at {reached.words}", file=sys.stderr)
    print(f"to go on: tardigrad {command} --resume {directory}", file=sys.stderr)


def _conclude(run: Run) -> int:
    """The last lines of a run that came to its end; with faults on purpose, whether everything still holds."""
    print(f"recorded in {run.directory}; pictures: tardigrad report {run.directory}")
    if not run.config.chaos:
        return 0
    from tardigrad.audit import audit

    verdict = audit(run.directory)
    print(verdict.verdict)
    return 0 if verdict.ok else 1
