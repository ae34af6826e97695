r"""Clipping: ASGD whose whole gradient is held to a largest length. It knows nothing of delays.

.. math::  w_{t+\tau+1} = w_{t+\tau} - \text{lr} \; g \, \min(1, \text{max\_norm} / \lVert g \rVert)

with the L2 norm over all parameters together, taken in float64. It is the control for "a bound on the step alone": a
compensation that does no better than this one bought nothing but tamer steps. `torch.nn.utils.clip_grad_norm_`
divides by ||g|| + 1e-6 in place of ||g||, which shortens a clipped gradient by a relative 1e-6 / ||g|| more.

It clips fresh gradients too. So it has no plain rule for a baseline: at staleness 0 it is SGD with clipping, which is
what it is at every other staleness, and the baseline it declares is itself.

References:
    Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013, Algorithm 1.
"""

from __future__ import annotations

import math
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
class Clipping(Compensation):
    """Control: no compensation; the whole gradient's L2 norm is clipped to max_norm.

    Args:
        max_norm: > 0.
    """

    name: ClassVar[str] = "clipping"
    scope: ClassVar[Scope] = "element"
    reads_backup: ClassVar[bool] = False
    read_passes: ClassVar[int] = 1
    strength: ClassVar[str | None] = "max_norm"

    max_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a norm outside its range."""
        require_number(
            self.name, "max_norm", self.max_norm, low=0.0, high=float("inf"), include_low=False, include_high=False
        )

    @property
    def baseline(self) -> str:  # type: ignore[override]  # the base declares it per class; here it has the keyword in it
        """Itself: it clips at staleness 0 as at any other."""
        return f"{self.name}(max_norm={float(self.max_norm)!r})"

    def measure(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> Mapping[str, Tensor]:
        """||g||^2."""
        return {"square": g.double().square().sum()}

    def conclude(self, sums: Mapping[str, float], facts: Facts) -> Mapping[str, float]:
        """min(1, max_norm / ||g||)."""
        norm = math.sqrt(sums["square"])
        return {"factor": self.max_norm / norm if norm > self.max_norm else 1.0}

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g min(1, max_norm / ||g||); a gradient that is short stays bit for bit."""
        return g.mul(facts.measured["factor"]), {}
