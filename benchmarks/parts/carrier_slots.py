"""Tardigrad's own carrier: the local engine as it is, but for workers whose gradient stands ready.

Beside an exchange stands a commit alone, in the same process and in turn: the same path on the same gradient, that
writes no snapshot. Two workers take turns, so that every gradient is one commit late, as rules that repair it need.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from carrier_process import DROPPED, GRADIENT, LR, Told, now, require_moved, say, told, turns
from torch import Tensor, nn

from tardigrad.arithmetic import Arithmetic
from tardigrad.assembling import assemble, configure
from tardigrad.blueprint import Blueprint
from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import Part
from tardigrad.engines.base import Job, Observer
from tardigrad.engines.local.engine import LocalEngine
from tardigrad.errors import CompileError
from tardigrad.layout import FlatLayout
from tardigrad.records import Commit, Facts, Push, Snapshot
from tardigrad.rules.base import make_rule
from tardigrad.tasks.base import Split, Task
from tardigrad.transports.slots import Slot, SlotLayout

_WARM = 8


class Flat(nn.Module):
    """So many parameters, and an output that costs nothing."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.ones(parameters))

    def forward(self, inputs: Tensor) -> Tensor:
        """Of any inputs."""
        return inputs * self.flat[0]


@dataclass(frozen=True)
class MakeFlat:
    """Makes a `Flat`, in whatever process."""

    parameters: int

    def __call__(self) -> nn.Module:
        """A new one."""
        return Flat(self.parameters)


def mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).mean()


class Ready:
    """Stands where a worker computes. The loss that it reports is what its last exchange took.

    Seconds from when its gradient stands in the up slot until it holds the next order: the answer's way to the server,
    the commit, the weights' to the down slot, the order's way back.
    """

    computation = "none"

    def __init__(self, layout: FlatLayout, gradient: Tensor, *, folder: str, workers: int) -> None:
        self.layout = layout
        self._gradient = gradient
        self._turns = [os.open(f"{folder}/turn-{worker}", os.O_RDWR) for worker in range(workers)]
        self._handed_in = math.nan

    def compute(self, worker: int, snapshot: Snapshot) -> Push:
        """A gradient that is written, but not computed."""
        took = now() - self._handed_in
        assert snapshot.lease is not None
        require_moved(snapshot.flat, snapshot.version)
        self._gradient.fill_(GRADIENT)
        self._wait(worker)
        push = Push(
            worker=worker,
            gradient=self._gradient,
            lease=snapshot.lease,
            samples=snapshot.lease.samples,
            incarnation=snapshot.incarnation,
            norm=1.0,
            loss=took,
        )
        self._handed_in = now()
        return push

    def _wait(self, worker: int) -> None:
        """Let the next one go, then wait for one's turn."""
        if not math.isnan(self._handed_in):
            os.write(self._turns[(worker + 1) % len(self._turns)], b"x")
        os.read(self._turns[worker], 1)


@dataclass(frozen=True, slots=True)
class ReadyBlueprint(Blueprint):
    """Builds workers that are `Ready`."""

    folder: str = ""
    workers: int = 1

    def build_worker(self, task: Task, *, weights: Tensor | None = None, gradient: Tensor | None = None) -> Any:
        """One that writes into this gradient."""
        layout = FlatLayout.of_model(task.make_model(0))
        assert gradient is not None
        return Ready(layout, gradient, folder=self.folder, workers=self.workers)


class Over(Exception):
    """Nobody asks for more."""


class Gate(Observer):
    """Lets the engine go on for as many commits as a turn has, and measures commits alone while it stands."""

    def __init__(self, given: Told) -> None:
        self._turns, self._left, self._times = turns(), _WARM * given.workers, 0
        self._exchanges: list[float] = []
        self._alone: CommitAlone | None = None
        self._given = given
        self.job: Job | None = None

    def committed(self, time: float, commit: Commit) -> None:
        """Note what the worker's last exchange took; at the end of a turn answer, and wait for the next."""
        seconds = commit.contributions[0].loss
        assert seconds is not None
        self._exchanges.append(seconds)
        self._left -= 1
        if self._left:
            return
        assert self.job is not None
        if self._alone is None:
            self._alone = CommitAlone(self._given, self.job)
        else:
            times, alone = self._times, self._alone
            commits = {"commit": alone.seconds(times), "pulled": alone.seconds(times, pulled=True)}
            say({"exchange": self._exchanges[-times:], "path": alone.path, **commits})
        self._times = next(self._turns, 0)
        if not self._times:
            raise Over
        self._left = self._times + DROPPED * self._given.workers


class CommitAlone:
    """The same commit on memory of the same kinds, without a snapshot and with one in the same pass."""

    def __init__(self, given: Told, job: Job) -> None:
        server = job.server
        self.path = server.commits.path.name
        self._path = COMMIT_PATHS.load(self.path)(server.rule, server.layout, threads=1)
        self._path.prepare(mirrored=True)
        self._weights = server.flat.clone()
        self._up, self._down = (slot(server.layout) for _ in range(2))
        facts = Facts(given.workers - 1, LR, _WARM, given.workers, _WARM)
        backup = self._down if server.rule.compensation.reads_backup else self._weights
        self._part = Part(0, self._up, backup, facts)

    def seconds(self, times: int, *, pulled: bool = False) -> list[float]:
        """Of each of so many commits."""
        found = []
        for _ in range(times + DROPPED):
            self._up.fill_(GRADIENT)
            begun = now()
            self._path.apply(self._weights, [self._part], mirrors=[self._down] if pulled else [])
            found.append(now() - begun)
        return found[DROPPED:]


def slot(layout: FlatLayout) -> Tensor:
    """Shared memory as workers have it."""
    return Slot.make(SlotLayout.of(layout, {}), "alone").flat


def engine(given: Told) -> LocalEngine:
    for worker in range(given.workers):
        os.mkfifo(f"{given.folder}/turn-{worker}")
    split = Split(torch.zeros(8, 1), torch.zeros(8, 1))
    task = Task("ready", MakeFlat(given.parameters), mean, split, split)
    config = configure(
        task,
        engine="local",
        rule=given.rule,
        workers=given.workers,
        commit_path=given.path,
        epochs=10**9,
        batch_size=8,
        lr=LR,
        evaluate_every=1e9,
        threads=1,
    )
    gate = Gate(given)
    job = assemble(config, task, make_rule(config.rule, optimizer=config.optimizer), named=False)
    assert job.blueprint is not None
    known = {field.name: getattr(job.blueprint, field.name) for field in fields(Blueprint)}
    blueprint = ReadyBlueprint(**known, folder=given.folder, workers=given.workers)
    gate.job = replace(job, blueprint=blueprint, observers=[gate])
    return LocalEngine(gate.job)


def main() -> None:
    given = told()
    torch.set_num_threads(1)
    LocalEngine.prepare(Blueprint("quadratic", 0, Arithmetic()))  # imports torch beside this process
    made = engine(given)
    first = os.open(f"{given.folder}/turn-0", os.O_RDWR)
    os.write(first, b"x")
    try:
        made.run()
    except CompileError as error:
        say({"missing": str(error)})
    except Over:
        sys.exit(0)


if __name__ == "__main__":
    main()
