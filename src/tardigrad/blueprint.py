"""Blueprint: what a process needs to build its own worker or evaluator. It travels; models and data do not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from tardigrad.arithmetic import Arithmetic
from tardigrad.data.places import data_directory
from tardigrad.errors import InvalidArgument
from tardigrad.evaluation import Evaluator
from tardigrad.imports import import_all
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import Task
from tardigrad.worker import Worker


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How to build the parts of a run that compute.

    Attributes:
        task: a registered task, with its own keywords in brackets.
        seed: of the run.
        arithmetic: how to compute, and on which device.
        threads: that compute a gradient, >= 1.
        recalibrate: whether an evaluation computes BatchNorm statistics anew.
        imports: modules or files to import first.
        data_dir: folder with data sets; empty: the default.
        made: a task that no name leads to; it must be picklable to travel.
    """

    task: str
    seed: int
    arithmetic: Arithmetic
    threads: int = 1
    recalibrate: bool = False
    imports: tuple[str, ...] = ()
    data_dir: str = ""
    made: Task | None = None

    def build_task(self) -> Task:
        """The task, its data on the CPU."""
        if self.made is not None:
            return self.made
        import_all(self.imports)
        with data_directory(self.data_dir):
            task = TASKS.build(self.task)
        if not isinstance(task, Task):
            raise InvalidArgument(f"task {self.task!r} is not a Task; see tardigrad.tasks.base.")
        return task

    def build_worker(self, task: Task, *, weights: Tensor | None = None, gradient: Tensor | None = None) -> Worker:
        """A worker on that task; see `Worker` for the buffers it may be given."""
        placed = task.to(self.arithmetic.device)
        return Worker(
            placed,
            seed=self.seed,
            arithmetic=self.arithmetic,
            weights=weights,
            gradient=gradient,
            threads=self.threads,
        )

    def build_evaluator(self, task: Task) -> Evaluator:
        """An evaluator of that task."""
        placed = task.to(self.arithmetic.device)
        return Evaluator(placed, seed=self.seed, recalibrate=self.recalibrate, arithmetic=self.arithmetic)

    def on(self, device: str) -> Blueprint:
        """The same on another device."""
        return replace(self, arithmetic=replace(self.arithmetic, device=device))

    @property
    def key(self) -> tuple[object, ...]:
        """What decides which task is built."""
        return self.task, self.imports, self.data_dir
