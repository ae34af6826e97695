r"""Staleness-aware learning rate: the older the gradient, the smaller its step.

.. math::  w_{t+\tau+1} = w_{t+\tau} - \frac{\text{lr}}{\max(1, \tau)^p} \; g(w_t)

The simplest rival of compensation: it needs no backup and no state. The factor is put on the gradient, which for
plain SGD is the same; under momentum each gradient keeps the weight of its own age.

References:
    Zhang et al., Staleness-aware Async-SGD for distributed deep learning, IJCAI 2016 (arXiv 1511.05950), p = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tardigrad.hyperparameters import require_number
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.base import Compensation
from tardigrad.scopes import Scope


@dataclass(frozen=True, slots=True)
class StalenessLR(Compensation):
    """Learning rate divided by staleness to a power.

    Args:
        power: p >= 0; 1 in the paper, 0.5 is gentler, 0 is ASGD.
    """

    name: ClassVar[str] = "staleness-lr"
    scope: ClassVar[Scope] = "element"
    reads_backup: ClassVar[bool] = False
    baseline: ClassVar[str] = "asgd"

    power: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a power outside its range."""
        require_number("staleness-lr", "power", self.power, low=0.0, high=float("inf"), include_high=False)

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g / max(1, staleness) ** power."""
        if facts.staleness <= 1:
            return g, {}
        return g.div(float(facts.staleness) ** self.power), {}
