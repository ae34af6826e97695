"""A task whose gradients cost next to nothing, so that what is timed is the commit: registered as a user's own is."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR, Split, Task

FEATURES, CLASSES = 64, 10


def mlp(*, size: int = 20_000, width: int = 384) -> Task:
    """Points in 64 dimensions, labelled by a fixed linear map, and a perceptron with two hidden layers.

    Args:
        size: points to train on.
        width: of the hidden layers; 384 makes 176,650 parameters.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(size + 20, FEATURES, generator=generator)
    targets = (inputs @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(dim=1)
    train, test = (Split(inputs[part], targets[part]) for part in (slice(20, None), slice(20)))
    return Task("mlp", lambda: _model(width), functional.cross_entropy, train, test, metric=ERROR)


def _model(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


if "mlp" not in TASKS.names():  # worker processes import this file too
    TASKS.register("mlp", mlp)
