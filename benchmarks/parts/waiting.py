"""Workers that wait instead of computing: so there may be more of them than cores.

Imported, it registers the task `waiting` and has its workers built as `WaitingWorker`, here and in worker processes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tardigrad.blueprint import Blueprint
from tardigrad.records import Push, Snapshot
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import Split, Task
from tardigrad.worker import Worker

NAME = "waiting"


@dataclass(frozen=True)
class _Maker:
    """Makes the model, and knows what its workers are to do."""

    parameters: int
    seconds: float

    def __call__(self) -> nn.Module:
        """A new model."""
        return _Weights(self.parameters)


class _Weights(nn.Module):
    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(parameters))

    def forward(self, inputs: Tensor) -> Tensor:
        """One number for each input."""
        return inputs * self.weights[0]


def waiting(*, parameters: int = 1000, seconds: float = 0.0, samples: int = 4096) -> Task:
    """A model of so many parameters whose gradient takes so many seconds and no processor time."""
    examples = Split(torch.zeros(samples), torch.zeros(samples))
    one = Split(torch.zeros(1), torch.zeros(1))
    return Task(NAME, _Maker(parameters, seconds), lambda outputs, targets: outputs.mean(), examples, one)


class WaitingWorker(Worker):
    """Writes a gradient once, at the first call, and from then on hands in the same."""

    seconds = 0.0
    written = False

    def compute(self, worker: int, snapshot: Snapshot) -> Push:
        """The same gradient again, after so many seconds."""
        if not self.written:
            self._gradient.flat.fill_(1e-3)
            self.written = True
        if self.seconds:
            time.sleep(self.seconds)
        assert snapshot.lease is not None
        return Push(
            worker=worker,
            gradient=self._gradient.flat,
            lease=snapshot.lease,
            samples=snapshot.lease.samples,
            incarnation=snapshot.incarnation,
            norm=1.0,
            loss=0.0,
        )


_build = Blueprint.build_worker


def _build_worker(
    self: Blueprint, task: Task, *, weights: Tensor | None = None, gradient: Tensor | None = None
) -> Worker:
    if not isinstance(task.model, _Maker):
        return _build(self, task, weights=weights, gradient=gradient)
    worker = WaitingWorker(task, seed=self.seed, weights=weights, gradient=gradient, threads=self.threads)
    worker.seconds = task.model.seconds
    return worker


def install() -> None:
    """Have workers of the task built so."""
    Blueprint.build_worker = _build_worker  # type: ignore[method-assign]


if NAME not in TASKS.names():  # worker processes import this file too, by its path
    TASKS.register(NAME, waiting)
    install()
