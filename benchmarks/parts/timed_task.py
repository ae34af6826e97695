"""The image tasks that training.py times: those of the recipes, with few images to judge on, and with stragglers."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional

from tardigrad.data.augmentation import normalise
from tardigrad.data.cifar import DEVIATION, MEAN
from tardigrad.models.resnet import cifar_resnet, small_resnet
from tardigrad.seeding import random_stream
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR, Split, Task
from tardigrad.tasks.cifar import cifar10

MODELS: dict[str, Callable[[], nn.Module]] = {"small": small_resnet, "resnet20": partial(cifar_resnet, 20)}


def timed(
    *,
    images: str = "cifar10",
    model: str = "small",
    size: int = 25_000,
    judged: int = 0,
    batch: int = 32,
    chance: float = 0.0,
    nap: float = 0.0,
    seed: int = 0,
) -> Task:
    """The task of a CIFAR-10 recipe with ``judged`` validation images and a test split that costs nothing.

    Args:
        images: ``cifar10``, or ``synthetic``: noise with a class's own faint pattern.
        model: small or resnet20.
        size: training images.
        judged: validation images, of 1,000 at most; 0: none, so that nothing is judged but ten images at the ends.
        batch: samples in a gradient: preparing so many is what a straggler does late.
        chance: that a gradient is a straggler, in [0, 1).
        nap: seconds that a straggler sleeps before it begins.
        seed: of who is a straggler when.
    """
    whole = cifar10(model=model, train=size, augment=False) if images == "cifar10" else _synthetic(size, model)
    assert whole.validation is not None
    assert whole.prepare is not None
    validation = Split(whole.validation.inputs[:judged], whole.validation.targets[:judged]) if judged else None
    test = Split(whole.test.inputs[:10], whole.test.targets[:10])
    prepare = _Straggling(whole.prepare, batch, chance, nap, seed) if chance else whole.prepare
    return Task("timed", whole.model, whole.loss, whole.train, test, validation, whole.metric, prepare)


class _Straggling:
    """Prepares a batch; now and then it sleeps first. Every arm prepares its batches here: all have the same luck."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], batch: int, chance: float, nap: float, seed: int) -> None:
        self._prepare, self._batch, self._chance, self._nap, self._seed = prepare, batch, chance, nap, seed
        self._luck: tuple[int, Generator] | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        if len(inputs) == self._batch and self._stream().random() < self._chance:
            time.sleep(self._nap)
        return self._prepare(inputs)

    def _stream(self) -> Generator:
        """A process's own, though the task was built before it was forked; by the number that its name ends in."""
        if self._luck is None or self._luck[0] != os.getpid():
            number = multiprocessing.current_process().name.rpartition("-")[2]
            worker = int(number) if number.isdigit() else 0
            self._luck = os.getpid(), random_stream(self._seed, "straggler", worker)
        return self._luck[1]


def _synthetic(size: int, model: str) -> Task:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 64, (10, 3, 32, 32), generator=generator)
    targets = torch.arange(size + 1010) % 10
    noise = torch.randint(0, 192, (len(targets), 3, 32, 32), generator=generator, dtype=torch.uint8)
    inputs = noise + patterns.to(torch.uint8)[targets]
    splits = [Split(inputs[part], targets[part]) for part in (slice(1010, None), slice(10), slice(10, 1010))]
    return Task("timed", MODELS[model], functional.cross_entropy, *splits, ERROR, _normalised)


def _normalised(inputs: torch.Tensor) -> torch.Tensor:
    return normalise(inputs, mean=MEAN["cifar10"], deviation=DEVIATION["cifar10"])


if "timed" not in TASKS.names():  # worker processes import this file too
    TASKS.register("timed", timed)
