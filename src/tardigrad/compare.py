"""`compare`: every algorithm under the same learning rates, workers and seeds; resumable.

All runs of one seed share initial weights, order of samples and delays. A run whose directory is finished is not
run again, and one that was stopped goes on from its checkpoint, so a comparison that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tardigrad.algorithms import DEFAULT, configure
from tardigrad.config import FORMAT, RunConfig
from tardigrad.durable import write_json
from tardigrad.errors import Diverged, InvalidArgument, RunDirectoryError, Stopped, TardigradError
from tardigrad.hyperparameters import require_integer
from tardigrad.imports import import_all
from tardigrad.recipes import load_recipe
from tardigrad.training import chosen_threads, resolve_rule, train

_DONE = ("finished", "diverged")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A grid of runs.

    Attributes:
        base: the recipe all runs begin as.
        algorithms, workers, lrs, seeds: the grid.
    """

    base: RunConfig
    algorithms: tuple[str, ...] = DEFAULT
    workers: tuple[int, ...] = ()
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)

    def runs(self) -> list[RunConfig]:
        """Every run once, in the order of the grid, with its rule resolved."""
        import_all(self.base.imports)
        every: dict[str, RunConfig] = {}
        for config in self._grid():
            made, optimizer = resolve_rule(config)
            every.setdefault(config.directory_name, config.replace(rule=made, optimizer=optimizer))
        return list(every.values())

    def _grid(self) -> Iterator[RunConfig]:
        for seed in self.seeds:
            for workers in self.workers or (self.base.workers,):
                for lr in self.lrs or (self.base.lr,):
                    for name in self.algorithms:
                        yield configure(name, self.base, workers=workers, lr=lr, seed=seed)

    def as_json(self) -> dict[str, Any]:
        """Plain data for comparison.json."""
        return {
            "format": FORMAT,
            "recipe": self.base.recipe or self.base.task,
            "algorithms": [configure(name, self.base).label for name in self.algorithms],
            "workers": list(self.workers or (self.base.workers,)),
            "lrs": list(self.lrs or (self.base.lr,)),
            "recipe_lr": self.base.lr,
            "seeds": list(self.seeds),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of a comparison ended.

    Attributes:
        config: the run's.
        status: "finished", "diverged", "stopped" where the time was up before its end, or "failed" with the traceback
            in ``message``.
        reused: whether it had been run before.
    """

    config: RunConfig
    status: str
    message: str = ""
    reused: bool = False


def make_comparison(recipe: str, **grid: Any) -> Comparison:
    """A comparison of a registered recipe; see `Comparison` for the keywords."""
    return Comparison(load_recipe(recipe), **grid)


def run_comparison(
    comparison: Comparison,
    directory: Path,
    *,
    jobs: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    deadline: float = math.inf,
) -> list[Outcome]:
    """Run what is not yet finished below ``directory``.

    Args:
        comparison: the grid.
        directory: holds comparison.json and one run directory per run.
        jobs: runs at a time, each in a process of its own; 1: in this process.
        finished: called after each run, those found finished first.
        deadline: seconds of the epoch (`time.time`) at which to stop; what runs then is kept in a checkpoint.

    Returns:
        One outcome per run. A run that fails does not stop the others.
    """
    require_integer("compare", "jobs", jobs, low=1)
    runs = comparison.runs()
    require_no_store(runs)
    if not runs:
        raise InvalidArgument("the comparison has no run: name at least one seed and one algorithm.")
    prepare_directory(directory, comparison.as_json())
    return run_all(runs, directory, jobs=jobs, finished=finished, deadline=deadline)


def run_all(
    runs: Sequence[RunConfig],
    directory: Path,
    *,
    jobs: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    deadline: float = math.inf,
) -> list[Outcome]:
    """Run what is not yet finished of ``runs``; see `run_comparison`."""
    outcomes, todo = [], []
    for config in runs:
        status = finished_status(directory / config.directory_name, config)
        if status is None:
            todo.append(config)
        else:
            outcomes.append(Outcome(config, status, reused=True))
            finished(outcomes[-1])
    work = _in_turn(todo, directory, deadline) if jobs == 1 else _side_by_side(todo, directory, deadline, jobs)
    for outcome in work:
        outcomes.append(outcome)
        finished(outcome)
    return outcomes


def require_no_store(runs: Sequence[RunConfig]) -> None:
    """Refuse one store for many runs."""
    if any(config.store for config in runs):
        raise InvalidArgument(
            "a store is for one run, and a comparison has many: leave out --store, and name a --directory that "
            "outlives this machine; the same command goes on from there."
        )


def finished_status(directory: Path, config: RunConfig) -> str | None:
    """The status of a run of this configuration that need not be run again, else None."""
    status = _status(directory)
    if status not in _DONE:
        return None
    try:
        stored = RunConfig.from_json(json.loads((directory / "config.json").read_text()))
    except (OSError, ValueError, InvalidArgument):
        return None
    # A directory's name leaves out settings at their defaults, and defaults may change with the version.
    rule, optimizer = resolve_rule(config)
    wanted = config.replace(rule=rule, optimizer=optimizer, threads=chosen_threads(config))
    return status if stored.computes == wanted.computes else None


def _status(directory: Path) -> str | None:
    """What the summary says, None where there is none."""
    try:
        return str(json.loads((directory / "summary.json").read_text())["status"])
    except (OSError, ValueError, KeyError):
        return None


def default_jobs() -> int:
    """One run at a time for each core this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def prepare_directory(directory: Path, plan: Mapping[str, Any]) -> None:
    """Make the directory of a comparison and write its plan; one that holds other things is refused, untouched."""
    if directory.exists() and any(directory.iterdir()) and not (directory / "comparison.json").exists():
        raise RunDirectoryError(f"{directory} holds files that are not a comparison; name another directory.")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "comparison.json", plan)


def _in_turn(todo: Sequence[RunConfig], directory: Path, deadline: float) -> Iterator[Outcome]:
    for config in todo:
        yield _run_one(config, directory, deadline)


def _side_by_side(todo: Sequence[RunConfig], directory: Path, deadline: float, jobs: int) -> Iterator[Outcome]:
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context) as pool:
        futures: list[Future[Outcome]] = [pool.submit(_run_one, config, directory, deadline) for config in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_one(config: RunConfig, directory: Path, deadline: float) -> Outcome:
    place = directory / config.directory_name
    if time.time() >= deadline:
        return Outcome(config, "stopped")
    if _status(place) not in (None, *_DONE):
        (place / "summary.json").unlink()  # of a run that was interrupted: it goes on, or is run anew
    try:
        train(config, directory=place, stop=None if math.isinf(deadline) else lambda: time.time() >= deadline)
    except Stopped as error:
        return Outcome(config, "stopped", str(error))
    except Diverged as error:
        return Outcome(config, "diverged", str(error))
    except TardigradError as error:
        return Outcome(config, "failed", str(error))
    except Exception:
        return Outcome(config, "failed", traceback.format_exc())
    return Outcome(config, "finished")
