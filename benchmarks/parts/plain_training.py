"""The same training with PyTorch alone: a plain loop, and DistributedDataParallel as its tutorial has it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from training_cases import Case, Found, Measure, judged, register

from tardigrad.arithmetic import Arithmetic
from tardigrad.data.places import data_directory
from tardigrad.leases import epoch_permutation
from tardigrad.schedules import build_schedule
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR, Task

_now = time.perf_counter  # the same clock in every process of a machine


def task_of(measure: Measure) -> Task:
    """The task that every arm trains."""
    register()
    with data_directory(measure.place):
        return TASKS.build(measure.task)


class Judge:
    """Says how many validation images a model gets wrong."""

    def __init__(self, task: Task, arithmetic: Arithmetic) -> None:
        assert task.validation is not None
        self._inputs = arithmetic.lay_out(task.prepared(task.validation.inputs))
        self._targets = task.validation.targets

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        """With the model's own BatchNorm statistics; it is left in training mode."""
        model.eval()
        wrong = float(ERROR.function(model(self._inputs), self._targets))
        model.train()
        return wrong


class Loop:
    """A training loop as one would write it: alone, or one of the processes of DistributedDataParallel.

    Args:
        case, measure: what to do.
        rank: of this process.
        model: what becomes of the model.
        memory: folder for what outlives the process: the checkpoint of the last whole epoch, and the clock; None:
            there is nothing to outlive.
    """

    def __init__(
        self,
        case: Case,
        measure: Measure,
        *,
        rank: int,
        model: Callable[[nn.Module], nn.Module],
        memory: Path | None = None,
    ) -> None:
        self.case, self.measure, self.rank, self.memory = case, measure, rank, memory
        config = measure.config
        self.task = task_of(measure).to(measure.device)
        self.arithmetic = Arithmetic(measure.device, "float32", config.memory_format)
        self.bare = self.arithmetic.place(self.task.make_model(measure.seed)).train()
        self.step, self.begun, self.judging = 0, 0.0, 0.0
        self.first_life = True
        self.recall()
        self.model = model(self.bare)
        self.lr = config.lr * case.lr_factor
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.lr)
        self.schedule = build_schedule(config.schedule)
        self.nap = 1.0 / (case.speeds[rank] if case.speeds else 1.0) - 1.0
        self.whole = 3.0  # seconds of a step over those of its forward pass: measured by `weigh`
        self.forward = 0.0  # seconds of the last one, in the bare model: without what DDP sends before it
        self.bare.register_forward_pre_hook(lambda *_: self._stop_watch(-_now()))
        self.bare.register_forward_hook(lambda *_: self._stop_watch(self.forward + _now()))

    @property
    def together(self) -> int:
        """Samples in a step of all processes."""
        return self.measure.batch * self.case.workers

    @property
    def steps_of_an_epoch(self) -> int:
        """Whole ones."""
        return len(self.task.train) // self.together

    @property
    def epoch(self) -> float:
        """Epochs of samples applied."""
        return self.step * self.together / len(self.task.train)

    def batches(self) -> Iterator[torch.Tensor]:
        """Indices, epoch after epoch; of several processes each gets its share."""
        size = self.measure.batch
        for epoch in count(self.step // self.steps_of_an_epoch):
            order = torch.from_numpy(epoch_permutation(len(self.task.train), self.measure.seed, epoch).copy())
            order = order.to(self.measure.device)
            whole = self.steps_of_an_epoch * self.together
            yield from order[:whole].view(-1, size)[self.rank :: self.case.workers]

    def _stop_watch(self, seconds: float) -> None:
        self.forward = seconds

    def take(self, index: torch.Tensor, *, apply: bool = True) -> float:
        """One step; its seconds but for the sleep that makes a process slow, over those of its forward pass."""
        begun = _now()
        inputs = self.arithmetic.lay_out(self.task.prepared(self.task.train.inputs[index]))
        loss = self.task.loss(self.model(inputs), self.task.train.targets[index])
        if apply:
            time.sleep(self.nap * self.whole * self.forward)
        self.optimizer.zero_grad()
        loss.backward()
        if apply:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * self.schedule.factor(self.epoch)
            self.optimizer.step()
            self.step += 1
        return (_now() - begun) / self.forward

    def weigh(self, batches: Iterator[torch.Tensor]) -> None:
        """How much longer a step is than its forward pass, without waiting for others; nothing is learnt."""
        if self.nap and isinstance(self.model, DistributedDataParallel):
            with self.model.no_sync():
                self.whole = statistics.median([self.take(next(batches), apply=False) for _ in range(12)][2:])

    def run(self) -> Found:
        """So many steps, or until the target is reached; evaluations stop the clock."""
        batches = self.batches()
        self.weigh(batches)
        return self.race(batches) if not self.measure.steps else self.pace(batches)

    def pace(self, batches: Iterator[torch.Tensor]) -> Found:
        """Samples and steps a second."""
        steps = self.measure.counted(self.case) // self.case.workers
        for _ in range(self.measure.warm_up):
            self.take(next(batches))
        begun = self.now_done()
        for _ in range(steps):
            self.take(next(batches))
        seconds = self.now_done() - begun
        return Found(pace=steps * self.together / seconds, commits=steps / seconds)

    def now_done(self) -> float:
        """The time at which everything asked for is done."""
        if self.measure.device != "cpu":
            torch.cuda.synchronize()
        return _now()

    def race(self, batches: Iterator[torch.Tensor]) -> Found:
        """Seconds to the target, over all lives."""
        found, judge = Found(lives=1 if self.first_life else 2), Judge(self.task, self.arithmetic)
        if self.first_life:
            self.begun = _now()
            self.remember()
        dying = self.measure.dying_step(self.case) if self.first_life and self.rank == 1 else 0
        due, over = self.epoch, False
        while not over:
            self.take(next(batches))
            if self.step == dying:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.step % self.steps_of_an_epoch == 0:
                self.remember()
            if self.epoch >= due:
                due += 0.1
                over = self.agreed(self.judge(judge, found))
        return found

    def judge(self, judge: Judge, found: Found) -> bool:
        """The first process evaluates, the clock stands; whether it is over."""
        if self.rank:
            return False
        since = _now()
        error = judge.error(self.bare)
        over = judged(found, self.measure, error, since - self.begun - self.judging, self.epoch)
        self.judging += _now() - since
        self.remember_clock()
        return over

    def agreed(self, over: bool) -> bool:
        """What the first process says."""
        if self.case.workers == 1:
            return over
        word = torch.tensor([float(over)])
        distributed.broadcast(word, src=0)
        return bool(word)

    def remember(self) -> None:
        """Write the checkpoint of a whole epoch, as a user's loop does."""
        if self.memory is not None and self.rank == 0:
            torch.save({"step": self.step, "weights": self.bare.state_dict()}, self.memory / "new")
            os.replace(self.memory / "new", self.memory / "checkpoint.pt")
            self.remember_clock()

    def remember_clock(self) -> None:
        """Seconds go on while there is no process; those of evaluations do not count."""
        if self.memory is not None and self.rank == 0:
            (self.memory / "new").write_text(json.dumps([self.begun, self.judging]))
            os.replace(self.memory / "new", self.memory / "clock.json")

    def recall(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        if self.memory is not None and (self.memory / "clock.json").exists():
            state = torch.load(self.memory / "checkpoint.pt")
            self.bare.load_state_dict(state["weights"])
            self.step = state["step"]
            self.begun, self.judging = json.loads((self.memory / "clock.json").read_text())
            self.first_life = False


def be_a_process(rank: int, order: str) -> None:
    told = json.loads(order)
    case, measure = Case(**told["case"]), Measure(**told["measure"])
    multiprocessing.current_process().name = f"worker-{rank}"
    distributed.init_process_group("gloo", init_method=f"file://{told['meet']}", rank=rank, world_size=case.workers)
    memory = Path(told["memory"])
    found = Loop(case, measure, rank=rank, model=DistributedDataParallel, memory=memory).run()
    distributed.barrier()
    distributed.destroy_process_group()
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    be_a_process(int(sys.argv[1]), sys.argv[2])
