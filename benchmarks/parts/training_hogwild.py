"""The same training with lock-free shared memory, in the shape of PyTorch's own Hogwild example.

Each process runs the same loop on a model whose parameters all share, over all of the data in an order of its own.
(The example does not shard either, and nobody waits for anybody.) The process that started them looks at the shared
weights now and then.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from plain_training import Judge, task_of
from torch import Tensor, nn
from torch import multiprocessing as sharing
from training_cases import Case, Found, Measure, judged

from tardigrad.arithmetic import Arithmetic
from tardigrad.leases import epoch_permutation
from tardigrad.schedules import build_schedule

_now = time.perf_counter
_LOOK_EVERY = 0.005  # seconds
_START = 60.0  # seconds that processes may take to start


@dataclass
class Shared:
    """What all processes see."""

    model: nn.Module
    steps: Tensor
    """Of each process, over its lives."""
    ready: Tensor
    """Whether each has built its task."""
    word: Tensor
    """0: wait, 1: train, 2: stop."""


def train(rank: int, case: Case, measure: Measure, shared: Shared, dying: int) -> None:
    """What every process does, with an optimizer of its own on the shared parameters."""
    torch.set_num_threads(1)
    multiprocessing.current_process().name = f"worker-{rank}"
    task, config = task_of(measure), measure.config
    arithmetic, schedule = Arithmetic("cpu", "float32", config.memory_format), build_schedule(config.schedule)
    model, size, optimizer = shared.model.train(), len(task.train), _optimizer(shared, measure)
    nap = 1.0 / (case.speeds[rank] if case.speeds else 1.0) - 1.0
    _wait(rank, shared)
    for index in _batches(size, measure, rank):
        if shared.word[0] == 2:
            return
        begun = _now()
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule.factor(float(shared.steps.sum()) * measure.batch / size)
        optimizer.zero_grad()
        inputs = arithmetic.lay_out(task.prepared(task.train.inputs[index]))
        task.loss(model(inputs), task.train.targets[index]).backward()
        if nap:
            time.sleep(nap * (_now() - begun))
        optimizer.step()
        shared.steps[rank] += 1
        if int(shared.steps[rank]) == dying:
            os.kill(os.getpid(), signal.SIGKILL)


def _wait(rank: int, shared: Shared) -> None:
    """Until all are ready."""
    shared.ready[rank] = 1
    while not shared.word[0]:
        time.sleep(_LOOK_EVERY)


def _optimizer(shared: Shared, measure: Measure) -> torch.optim.SGD:
    """Each process has one; without momentum there is no state to share."""
    return torch.optim.SGD(shared.model.parameters(), lr=measure.config.lr)


def _batches(size: int, measure: Measure, rank: int) -> Iterator[Tensor]:
    """All samples, epoch after epoch, in an order of this process's own."""
    for epoch in count():
        order = torch.from_numpy(epoch_permutation(size, 1000 * measure.seed + rank, epoch).copy())
        yield from order[: size // measure.batch * measure.batch].view(-1, measure.batch)


class Hogwild:
    """The process that starts the others, and looks."""

    def __init__(self, case: Case, measure: Measure) -> None:
        self.case, self.measure = case, measure
        self.task = task_of(measure)
        self.arithmetic = Arithmetic("cpu", "float32", measure.config.memory_format)
        model = self.arithmetic.place(self.task.make_model(measure.seed))
        flags = [torch.zeros(n, dtype=torch.int64).share_memory_() for n in (case.workers, case.workers, 1)]
        self.shared = Shared(model.share_memory(), *flags)
        self.context: Any = sharing.get_context("spawn")
        self.found = Found()
        self.processes = [self._start(rank, dying=rank == 1) for rank in range(case.workers)]

    def _start(self, rank: int, *, dying: bool) -> Any:
        at = self.measure.dying_step(self.case) if dying else 0
        process = self.context.Process(target=train, args=(rank, self.case, self.measure, self.shared, at), daemon=True)
        process.start()
        return process

    def run(self) -> Found:
        """So many steps, or until the target is reached."""
        try:
            patience = _now() + _START
            while not self.shared.ready.all():
                self._look_after(patience)
            self.shared.word[0] = 1
            return self._race() if not self.measure.steps else self._pace()
        finally:
            self.shared.word[0] = 2
            for process in self.processes:
                process.join(5.0)
                process.kill()
                process.join()

    def _look_after(self, patience: float) -> None:
        """Wait a moment; a process that was killed on purpose is started again."""
        time.sleep(_LOOK_EVERY)
        if _now() > patience:
            raise RuntimeError("Hogwild did not come to an end in time")
        for rank, process in enumerate(self.processes):
            if process.exitcode is None:
                continue
            if not (rank == 1 and self.measure.death and self.found.lives == 1):
                raise RuntimeError(f"Hogwild's process {rank} ended with {process.exitcode}")
            self.found.lives = 2
            self.processes[rank] = self._start(rank, dying=False)

    def _pace(self) -> Found:
        """Samples a second, from when each has warmed up."""
        patience = _now() + 10.0 * _START
        while int(self.shared.steps.min()) < self.measure.warm_up:
            self._look_after(patience)
        since, before = _now(), int(self.shared.steps.sum())
        while int(self.shared.steps.sum()) < before + self.measure.counted(self.case):
            self._look_after(patience)
        self.found.commits = (int(self.shared.steps.sum()) - before) / (_now() - since)
        self.found.pace = self.found.commits * self.measure.batch
        return self.found

    def _race(self) -> Found:
        """Seconds to the target. Evaluations share the cores with training; the clock is that of the weights."""
        judge, model = Judge(self.task, self.arithmetic), self.arithmetic.place(self.task.make_model(0))
        begun, due, over = _now(), 0.1, False
        while not over:
            self._look_after(begun + self.measure.limit + _START)
            epoch = int(self.shared.steps.sum()) * self.measure.batch / len(self.task.train)
            seconds = _now() - begun
            if epoch >= due or seconds > self.measure.limit:
                due = max(due, epoch) + 0.1
                model.load_state_dict(self.shared.model.state_dict())
                over = judged(self.found, self.measure, judge.error(model), seconds, epoch)
        return self.found
