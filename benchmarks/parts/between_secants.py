r"""A rule of secant pairs: how much a worker's gradient changed since its last push, over how far its weights moved.

After Barzilai and Borwein, Two-point step size gradient methods, IMA Journal of Numerical Analysis 8 (1988), whose
quotient :math:`\langle s, y \rangle / \langle s, s \rangle` is the curvature along s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tardigrad
from tardigrad.hyperparameters import require_number
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.scopes import PER_WORKER, SHARED, Scope, Sharing


@dataclass(frozen=True, slots=True)
class Secant(tardigrad.Compensation):
    r"""One curvature for each parameter tensor, from the pairs of all workers, its positive part damped.

    With g, w_bak of a worker's push and :math:`g', w_{bak}'` of its push before,

    .. math::  y = g - g', \quad s = w_{bak} - w_{bak}', \qquad
        e = b \, \frac{\max(0, \, \overline{\langle s, y \rangle})}{\overline{\langle s, s \rangle}}, \qquad
        c = \frac{e}{1 + s_t e} (w - w_{bak})

    the bars exponential averages over the pushes of all workers, :math:`s_t` lr times the optimizer's gain. The two
    gradients are of different batches, so y is mostly noise; it has mean zero but for one term: s holds the step that
    g' itself made, -lr g', whose noise adds about lr :math:`\lVert \text{noise} \rVert^2` to the first average, one
    part in as many as there are steps in s. Only inner products are kept of a pair, since a sum over many weights and
    pushes is what outweighs the noise: a matrix projected on the span of the last 16 pairs, and one number for all
    weights, came less near to gradients computed again at the weights of now.

    Args:
        scale: b > 0.
        decay: of the averages, in [0, 1).
    """

    name: ClassVar[str] = "secant"
    scope: ClassVar[Scope] = "tensor"
    reads_backup: ClassVar[bool] = True
    strength: ClassVar[str | None] = "scale"

    scale: float = 1.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_number(self.name, "scale", self.scale, low=0.0, high=math.inf, include_low=False, include_high=False)
        require_number(self.name, "decay", self.decay, low=0.0, high=1.0, include_high=False)

    def state_spec(self) -> Mapping[str, Sharing]:
        """A worker's last push, and the two averages, each one number in every place of its tensor."""
        return {"last_gradient": PER_WORKER, "last_backup": PER_WORKER, "products": SHARED, "squares": SHARED}

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g + e / (1 + s e) (w - backup)."""
        known = (state["last_gradient"] != 0.0).any()  # zero before a worker's first push: no pair then
        s, y = (backup - state["last_backup"]) * known, g - state["last_gradient"]
        products = self._averaged(state["products"], s * y)
        squares = self._averaged(state["squares"], s * s)
        after = {"last_gradient": g, "last_backup": backup, "products": products, "squares": squares}
        if facts.staleness == 0:
            return g, after
        quotient = torch.where(squares > 0.0, products.clamp(min=0.0) / squares, torch.zeros_like(squares))
        curvature = self.scale * quotient
        return g + curvature / (1.0 + facts.lr * facts.gain * curvature) * (w - backup), after

    def _averaged(self, held: Tensor, terms: Tensor) -> Tensor:
        """An average with one more sum in it, in every place."""
        return held.mul(self.decay).add((1.0 - self.decay) * terms.sum())


tardigrad.register_rule("secant", Secant)
