"""`tardigrad run`: a user's own script, started with settings that take the place of those it gives itself."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from tardigrad.commands.executing import HOW, execute_with, require_script
from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument, Stopped
from tardigrad.signals import StopSignals

if TYPE_CHECKING:
    from tardigrad.engines.base import Observer


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Run a training script of your own: tardigrad run --workers 4 script.py [its arguments].

    What stands before the script is ours, and takes the place of what the script gives tardigrad.run() itself; what
    stands after it is the script's. A script that defines main(session) and calls tardigrad.run() nowhere is run with
    that main.
    """

    engine: Literal["local", "ray", "none"] | None = None
    """Where the workers live: local (a process for each), ray (a Ray actor for each), or none: plain PyTorch in this
    process."""
    workers: int | None = None
    """How many workers, >= 1."""
    group: int | None = None
    """Processes of a worker, >= 1: they compute parts of the same batches, as in DistributedDataParallel, and push
    once together."""
    rule: str | None = None
    """What a late gradient becomes: asgd, dc-asgd, 'dc-asgd-a(lambda0=4)', dc-lowrank; tardigrad list rules."""
    batch_size: Literal["by-speed"] | tuple[int, ...] | None = None
    """Samples in a batch of every worker, or one number for each worker, in place of the DataLoader's; by-speed: as
    many as its worker is fast."""
    evaluate: Literal["first", "beside"] | None = None
    """Who runs session.evaluate: the first worker, or a process beside that does nothing else."""
    consistency: str | None = None
    """Who may read, and how many pushes make a commit: asynchronous, 'ssp(2)', synchronous."""
    max_staleness: int | None = None
    """Pushes older than this many commits are treated by on_stale."""
    on_stale: Literal["reject", "reweight"] | None = None
    """Reject them, or scale them by max_staleness / staleness."""
    leases: Literal["dynamic", "static"] | None = None
    """Whoever asks next gets the next samples, or each epoch is dealt to the workers in advance."""
    batchnorm: Literal["mean", "latest"] | None = None
    """Which BatchNorm statistics an evaluation uses."""
    commit_path: str | None = None
    """How the rule's equations are applied: exact, compiled or auto."""
    commit_threads: int | None = None
    """Threads that compute a commit; 0: one, or the cores that no worker needs where the model is large."""
    seed: int | None = None
    """Of torch, random and numpy in the workers, and of everything else that is random."""
    measure_every: int | None = None
    """Commits between measurements of ||compensation|| / ||gradient||; 0: never."""
    threads: int | None = None
    """Threads of torch in a worker; 0: the cores divided among them."""
    device: str | None = None
    """Of the server's weights: cpu, cuda or cuda:N."""
    checkpoint_every: float | None = None
    """Minutes between checkpoints; 0: 5."""
    checkpoints_kept: int | None = None
    """How many checkpoints are kept, >= 1."""
    digest_every: int | None = None
    """Commits between digests of the weights in the log, which a replay compares; 0: at evaluations and at the end."""
    wire: Literal["float32", "bfloat16"] | None = None
    """What gradients are handed in as: bfloat16 travels between machines in 2 bytes a number, and rounds everywhere."""
    hang_after: float | None = None
    """Seconds without a push after which a worker is ended and restarted, or 20 times its median step if more."""
    first_step: float | None = None
    """Seconds a worker may take to start and to push for the first time."""
    max_restarts: int | None = None
    """How often a worker is restarted after it died, raised or hung."""
    on_failure: Literal["restart", "raise"] | None = None
    """What a worker's failure does: the worker is restarted, or the run ends with its traceback."""
    chaos: str | None = None
    """Faults to bring about: a seed, or a list such as 'kill worker 2 at push 40'."""
    label: str | None = None
    """A name for tables; by default the rule's."""
    directory: Path | None = None
    """Where to record; by default a new directory below runs/."""
    shards: int | None = None
    """Processes that hold the weights, each a part of them, >= 1."""
    store: str | None = None
    """Keep checkpoint and log there too, and go on from there: a folder of the run's own, such as s3://bucket/run-7."""
    address: str | None = None
    """With --engine ray: of a cluster that runs, such as auto or 10.0.0.1:6379; by default one of its own here."""
    ray: str | None = None
    """With --engine ray: what each worker needs and where, such as "num_gpus=1, strategy='spread'"."""
    server_actor: bool = False
    """With --engine ray: the server is an actor too, and begins again on another node when its own is gone."""

    @property
    def settings(self) -> dict[str, Any]:
        """What was typed, as `tardigrad.run` takes it."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del found["server_actor"]
        typed = {name: value for name, value in found.items() if value is not None}
        if isinstance(typed.get("batch_size"), tuple) and len(typed["batch_size"]) == 1:
            typed["batch_size"] = typed["batch_size"][0]
        if typed.get("engine") == "none":
            typed["engine"] = None
        return typed


def run(words: list[str]) -> int:
    """``tardigrad run``; the exit status: 3 where the run was stopped and can go on."""
    before, script, after = split_script(words)
    options = tyro.cli(RunOptions, args=before, prog="tardigrad run")
    if script is None:
        raise InvalidArgument(f"name a script. {HOW}")
    return _elsewhere(script, after, options) if options.server_actor else start(script, after, options.settings)


def _elsewhere(script: str, after: Sequence[str], options: RunOptions) -> int:
    """The same, with the server in an actor."""
    from tardigrad.commands.elsewhere import require_ray, run_elsewhere

    require_ray(options.engine)
    require_script(script)
    with StopSignals() as signals:
        return run_elsewhere(script, after, options.settings, observers=[_teller()], stop=signals.asked)


def start(script: str, after: Sequence[str], settings: Mapping[str, Any]) -> int:
    """Run a script with these arguments, under these settings; the exit status, as of `run`."""
    require_script(script)
    with ExitStack() as open_now:
        try:
            overridden = execute_with(script, after, settings, observers=[_teller()], stop=_signals(open_now))
        except Stopped as stopped:
            _say_how_far(stopped.directory, script)
            return 3
    for found in overridden.runs:
        if found.directory is not None:
            print(f"recorded in {found.directory}", file=sys.stderr)
    return 0


def split_script(words: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """The options before the script, the script (the first word that ends in .py), and its own arguments."""
    for place, word in enumerate(words):
        if word.endswith(".py"):
            return list(words[:place]), word, list(words[place + 1 :])
    return list(words), None, []


def _signals(open_now: ExitStack) -> Callable[[], bool]:
    """What a run asks after every push: whether a signal says that it is to stop.

    Signals are taken over at the first question. So a script without workers, which asks nothing, ends by them as any
    program does.
    """
    taken: list[StopSignals] = []

    def asked() -> bool:
        if not taken:
            taken.append(open_now.enter_context(StopSignals()))
        return taken[0].asked()

    return asked


def _teller() -> Observer:
    """Says on the terminal what becomes of the workers; everything else a script says itself."""
    from tardigrad.engines.base import Evaluation
    from tardigrad.progress import TrainProgress

    class Teller(TrainProgress):
        def evaluated(self, evaluation: Evaluation) -> None:
            pass

    return Teller(RunConfig(), samples=1, metric=None)


def _say_how_far(directory: Path, script: str) -> None:
    """The last lines of a run that was stopped."""
    from tardigrad.standing import reached_by_checkpoint

    reached = reached_by_checkpoint(directory)
    if reached is not None:
        print(f"stopped at {reached.words}", file=sys.stderr)
    print(f"to go on: the same command, with --directory {directory} before {script}", file=sys.stderr)
