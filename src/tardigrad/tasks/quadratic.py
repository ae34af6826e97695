r"""``quadratic``: a noisy quadratic whose minimum is known in closed form.

.. math::  f(w) = \frac{1}{n} \sum_i \tfrac12 (w - x_i)^T H (w - x_i), \quad H = \text{diag}(h)

with h spaced evenly in logarithm from 1 / condition to 1 and x_i normal with deviation ``noise``. The minimum is
the mean of x. The metric, the excess over the minimum, is the loss at that mean: 1/2 (w - mean)^T H (w - mean).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.seeding import random_stream
from tardigrad.tasks.base import Metric, Split, Task


class _Displacement(nn.Module):
    """Gives w - x for inputs x of shape (batch, dimension); w starts at 1."""

    def __init__(self, dimension: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(dimension, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The displacement of w from each example."""
        return self.w - x


def quadratic(dimension: int = 20, condition: float = 100.0, noise: float = 0.1, samples: int = 1024) -> Task:
    """A noisy quadratic with a minimum in closed form.

    Args:
        dimension: length of w, >= 1.
        condition: largest over smallest eigenvalue of H, >= 1.
        noise: standard deviation of each x_i in each coordinate, >= 0.
        samples: how many x_i, >= 1.
    """
    require_integer("quadratic", "dimension", dimension, low=1)
    require_number("quadratic", "condition", condition, low=1.0, high=1e12)
    require_number("quadratic", "noise", noise, low=0.0, high=1e6)
    require_integer("quadratic", "samples", samples, low=1)
    h = torch.logspace(0.0, -torch.log10(torch.tensor(condition)).item(), dimension, dtype=torch.float64).float()
    drawn = random_stream(0, "quadratic").normal(scale=noise, size=(samples, dimension))
    x = torch.tensor(drawn, dtype=torch.float32)

    def loss(displacement: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (displacement.square() @ h.to(displacement)).mean()

    train, best = Split(x, torch.zeros(samples)), Split(x.double().mean(0, keepdim=True).float(), torch.zeros(1))
    return Task(
        name="quadratic",
        model=lambda: _Displacement(dimension, torch.float32),
        loss=loss,
        metric=Metric("excess loss", loss),
        train=train,
        test=best,
    )
