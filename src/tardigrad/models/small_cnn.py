"""A small convolutional network for images of 8 x 8."""

from __future__ import annotations

from torch import nn


def small_cnn(classes: int = 10) -> nn.Sequential:
    """Conv 16, conv 32 with stride 2, a hidden layer of 64; 38,282 parameters with 10 classes.

    Takes (batch, 1, 8, 8), gives (batch, classes).
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
