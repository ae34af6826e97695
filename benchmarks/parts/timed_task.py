"""What local_scaling.py times: the task, the cases, and what a measurement is told and finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from tardigrad.data.augmentation import normalise
from tardigrad.data.cifar import DEVIATION, MEAN
from tardigrad.models.resnet import small_resnet
from tardigrad.recipes import load_recipe
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR, Split, Task
from tardigrad.tasks.cifar import cifar10

RECIPE = load_recipe("cifar10-small")
BATCH = 32
SLOW = (1.0, 0.25)


def timed(*, images: str = "cifar10", size: int = 25_000, judged: int = 0) -> Task:
    """The task of cifar10-small with ``judged`` validation images and a test split that costs nothing.

    Args:
        images: ``cifar10``, or ``synthetic``: noise with a class's own faint pattern.
        size: training images.
        judged: validation images, of 1,000 at most; 0: none, so that nothing is judged but ten images at the ends.
    """
    if images == "cifar10":
        whole = cifar10(model="small", train=size, augment=False)
    else:
        whole = _synthetic(size)
    assert whole.validation is not None
    validation = Split(whole.validation.inputs[:judged], whole.validation.targets[:judged]) if judged else None
    test = Split(whole.test.inputs[:10], whole.test.targets[:10])
    return Task("timed", whole.model, whole.loss, whole.train, test, validation, whole.metric, whole.prepare)


def _synthetic(size: int) -> Task:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 64, (10, 3, 32, 32), generator=generator)
    targets = torch.arange(size + 1010) % 10
    noise = torch.randint(0, 192, (len(targets), 3, 32, 32), generator=generator)
    inputs = (noise + patterns[targets]).to(torch.uint8)
    splits = [Split(inputs[part], targets[part]) for part in (slice(1010, None), slice(10), slice(10, 1010))]
    return Task("timed", small_resnet, functional.cross_entropy, *splits, ERROR, _normalised)


def _normalised(inputs: torch.Tensor) -> torch.Tensor:
    return normalise(inputs, mean=MEAN["cifar10"], deviation=DEVIATION["cifar10"])


if "timed" not in TASKS.names():  # worker processes import this file too
    TASKS.register("timed", timed)


@dataclass(frozen=True)
class Case:
    """One row of a table."""

    name: str
    kind: str
    """local, ddp or plain."""
    workers: int = 1
    speeds: tuple[float, ...] = ()
    consistency: str = "asynchronous"
    rule: str = "asgd"

    @property
    def slowest(self) -> float:
        """Speed of the slowest."""
        return min(self.speeds, default=1.0)

    @property
    def tied(self) -> bool:
        """Whether all go at the slowest's pace."""
        return self.workers == 1 or self.kind == "ddp" or self.consistency == "synchronous"


@dataclass(frozen=True)
class Measure:
    """What is measured, and how long: handed to the processes of DistributedDataParallel as JSON."""

    task: str
    data_dir: str
    seed: int = 0
    warm_up: int = 0
    """Steps of each worker that do not count."""
    steps: int = 0
    """Steps that do, of a worker at full speed; 0: until the error is reached."""
    target: float = 0.0
    """Validation error to reach."""
    epochs: int = 1
    """After which it is given up."""

    def counted(self, case: Case) -> int:
        """Steps of all workers that count, so that every case takes about as long."""
        if case.tied:
            return max(2, round(self.steps * case.slowest)) * case.workers
        return max(2, round(self.steps * sum(case.speeds or (1.0,) * case.workers)))


@dataclass
class Found:
    """What a measurement found."""

    pace: float | None = None
    """Samples a second."""
    seconds: float | None = None
    """Of training, until the target was reached; None: it was not."""
    epochs: float = 0.0
    best: float = 1.0
    """Lowest validation error seen."""


def judged(found: Found, measure: Measure, error: float, seconds: float, epoch: float) -> bool:
    """Note an evaluation; whether the target is reached."""
    found.best, found.epochs = min(found.best, error), epoch
    if error <= measure.target:
        found.seconds = seconds
    return error <= measure.target
