"""The same training with PyTorch alone: a plain loop, and DistributedDataParallel as its tutorial has it."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count

import torch
from timed_task import BATCH, RECIPE, Case, Found, Measure, judged
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tardigrad.arithmetic import Arithmetic
from tardigrad.data.places import data_directory
from tardigrad.leases import epoch_permutation
from tardigrad.schedules import build_schedule
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR

_now = time.perf_counter


class Loop:
    """A training loop as one would write it: alone, or one of the processes of DistributedDataParallel."""

    def __init__(self, case: Case, measure: Measure, *, rank: int, model: Callable[[nn.Module], nn.Module]) -> None:
        self.case, self.measure, self.rank = case, measure, rank
        with data_directory(measure.data_dir):
            self.task = TASKS.build(measure.task)
        self.arithmetic = Arithmetic("cpu", "float32", RECIPE.memory_format)
        self.bare = self.arithmetic.place(self.task.make_model(measure.seed)).train()
        self.model = model(self.bare)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RECIPE.lr)
        self.schedule = build_schedule(RECIPE.schedule)
        self.nap = 1.0 / (case.speeds[rank] if case.speeds else 1.0) - 1.0
        self.whole = 3.0  # seconds of a step over those of its forward pass: measured by `weigh`
        self.forward = 0.0  # seconds of the last one, in the bare model: without what DDP sends before it
        self.bare.register_forward_pre_hook(lambda *_: self._stop_watch(-_now()))
        self.bare.register_forward_hook(lambda *_: self._stop_watch(self.forward + _now()))
        self.step = self.samples = 0

    def batches(self) -> Iterator[torch.Tensor]:
        """Indices, epoch after epoch; of several processes each gets its share."""
        for epoch in count():
            order = torch.from_numpy(epoch_permutation(len(self.task.train), self.measure.seed, epoch).copy())
            whole = len(order) // (BATCH * self.case.workers)
            yield from order[: whole * BATCH * self.case.workers].view(-1, BATCH)[self.rank :: self.case.workers]

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
                group["lr"] = RECIPE.lr * self.schedule.factor(self.samples / len(self.task.train))
            self.optimizer.step()
            self.step += 1
            self.samples += BATCH * self.case.workers
        return (_now() - begun) / self.forward

    def weigh(self, batches: Iterator[torch.Tensor]) -> None:
        """How much longer a step is than its forward pass, without waiting for others; nothing is learnt."""
        if self.nap and isinstance(self.model, DistributedDataParallel):
            with self.model.no_sync():
                self.whole = statistics.median([self.take(next(batches), apply=False) for _ in range(12)][2:])

    def run(self) -> Found:
        """So many steps, or until the target is reached; evaluations stop the clock."""
        measure, found, batches = self.measure, Found(), self.batches()
        self.weigh(batches)
        if measure.steps:
            steps = measure.counted(self.case) // self.case.workers
            for _ in range(measure.warm_up):
                self.take(next(batches))
            begun = _now()
            for _ in range(steps):
                self.take(next(batches))
            found.pace = steps * self.case.workers * BATCH / (_now() - begun)
            return found
        size, seconds, due = len(self.task.train), 0.0, 0.0
        while self.samples < measure.epochs * size:
            begun = _now()
            self.take(next(batches))
            seconds += _now() - begun
            if self.samples / size >= due:
                due += 0.1
                if self.agreed(judged(found, measure, self.error(), seconds, self.samples / size)):
                    break
        return found

    @torch.no_grad()
    def error(self) -> float:
        """On the validation images, with the first process's BatchNorm statistics."""
        if self.rank:
            return 1.0
        self.bare.eval()
        split = self.task.validation
        inputs = self.arithmetic.lay_out(self.task.prepared(split.inputs))
        wrong = float(ERROR.function(self.bare(inputs), split.targets))
        self.bare.train()
        return wrong

    def agreed(self, over: bool) -> bool:
        """What the first process says."""
        if self.case.workers == 1:
            return over
        word = torch.tensor([float(over)])
        distributed.broadcast(word, src=0)
        return bool(word)


def be_a_process(rank: int, order: str) -> None:
    told = json.loads(order)
    case, measure = Case(**told["case"]), Measure(**told["measure"])
    distributed.init_process_group("gloo", init_method=f"file://{told['meet']}", rank=rank, world_size=case.workers)
    found = Loop(case, measure, rank=rank, model=DistributedDataParallel).run()
    distributed.barrier()
    distributed.destroy_process_group()
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    be_a_process(int(sys.argv[1]), sys.argv[2])
