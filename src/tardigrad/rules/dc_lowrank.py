r"""Low-rank delay compensation: the matrix of the last r gradients in place of its diagonal, damped.

The paper derives its compensation from :math:`G(w) = E[g g^T]`, which stands in for the Hessian (Zheng et al. 2017, Eq.
6 and 7), and keeps the diagonal to save memory (Eq. 10). Here the matrix is kept as what it is made of. With the rows
of S the last r gradients that any worker pushed, the newest included, the curvature estimate is
:math:`E = \kappa S^T S`; damped, so that no delay can make a step unstable, and by the push-through identity it acts on
how far the weights have gone since the gradient's own:

.. math::

    c = E (I + s E)^{-1} (w - w_{bak}) = S^T \left( \tfrac{1}{\kappa} I + s \, S S^T \right)^{-1} S \, (w - w_{bak}),
    \qquad w_{t+1} = w_t - \text{lr} (g + c)

with s the step size lr times what the optimizer makes of it (`Optimizer.gain`, and the mean of its preconditioner along
the gradient): two products with S and a system of r equations. :math:`w - w_{bak}` is a sum of late steps, thus nearly
in the span of S: little of it escapes.

**How strong.** For gradients of batches, :math:`E[h h^T]` is about F / B + grad grad^T, F the Fisher information of one
example: kappa r of the order of B were right if the r gradients spanned all directions. They do not, and the fewer they
are the more each stands for. Measured by least squares against true gradients (B of 8, 32 and 128, r from 32 to 512),
the best kappa grows as about the 3/4 power of B and falls with the root of r:

.. math::  \kappa = 0.3 \, \sqrt{B / r} \; (B / 32)^{1/4}

References:
    Zheng et al., Asynchronous stochastic gradient descent with delay compensation, ICML 2017 (arXiv 1609.08326 v6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import STRENGTH_AUTO, require_choice, require_flag, require_integer, require_number
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.base import Compensation
from tardigrad.scopes import Scope
from tardigrad.window import Kept, WindowPlan

KAPPA, BATCH = 0.3, 32.0  # of kappa = KAPPA sqrt(B / r) (B / BATCH)^(1/4)
_ROUNDING = 32.0  # inner products are known to so many roundings of the longest gradient's square


@dataclass(frozen=True, slots=True)
class DCLowRank(Compensation):
    """DC-ASGD with the outer products of the last gradients, damped.

    Args:
        kappa: weight > 0 of one gradient's outer product; None: 0.3 sqrt(B / r) (B / 32)^(1/4), B the samples behind
            the pushed gradient, r the gradients in the window now; ``"auto"``: that, times what probes find.
        scale: > 0, multiplies kappa.
        window: gradients kept, >= 1; None: 8 for each live worker, at least 128.
        damped: damp the estimate E to E / (1 + s E); without, a delay or a large gradient can make it unstable.
        kept: gradients are kept ``"as the weights"`` are, or as ``"bfloat16"`` in half the memory.
    """

    name: ClassVar[str] = "dc-lowrank"
    scope: ClassVar[Scope] = "model"
    reads_backup: ClassVar[bool] = True
    baseline: ClassVar[str] = "asgd"
    strength: ClassVar[str | None] = "scale"

    kappa: float | str | None = None
    scale: float = 1.0
    window: int | None = None
    damped: bool = True
    kept: Kept = "as the weights"

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if self.kappa is not None and self.kappa != STRENGTH_AUTO:
            _require_positive(self.name, "kappa", self.kappa)
        _require_positive(self.name, "scale", self.scale)
        if self.window is not None:
            require_integer(self.name, "window", self.window, low=1)
        require_flag(self.name, "damped", self.damped)
        require_choice(self.name, "kept", self.kept, ("as the weights", "bfloat16"))

    @property
    def window_plan(self) -> WindowPlan:  # type: ignore[override]  # the base declares it per class
        """The gradients kept."""
        return WindowPlan(rows=self.window, kept=self.kept)

    @property
    def follows_probes(self) -> bool:  # type: ignore[override]  # as above
        """Where kappa is "auto"."""
        return self.kappa == STRENGTH_AUTO

    @property
    def reads_preconditioner(self) -> bool:  # type: ignore[override]  # as above
        """Where it damps."""
        return self.damped

    def kappa_for(self, samples: int, size: int) -> float:
        """kappa for a gradient of so many samples and a window of so many gradients."""
        if self.kappa is not None and not self.follows_probes:
            return self.scale * float(self.kappa)
        quarter: float = (samples / BATCH) ** 0.25
        return self.scale * KAPPA * math.sqrt(samples / size) * quarter

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g + S^T (I / kappa + s S S^T)^-1 S (w - backup)."""
        window = facts.window
        if window is None:
            raise InvalidArgument(f"{self.name} needs facts.window: commit through ParameterServer or ExactPath.")
        if facts.staleness == 0:
            return g, {}
        kappa = self.kappa_for(facts.samples, window.size) * facts.strength
        step = facts.lr * facts.gain * stretched(g, facts.preconditioner) if self.damped else 0.0
        eps = torch.finfo(g.dtype).eps
        factors = solved(window.gram, window.against(w - backup), kappa=kappa, step=step, eps=eps)
        return g + window.combined(factors), {}


def stretched(g: Tensor, preconditioner: Tensor | None) -> float:
    """<g, P g> / <g, g>: by how much a preconditioner makes a step along a gradient longer; 1 without either."""
    if preconditioner is None:
        return 1.0
    long, plain = torch.stack([torch.dot(g * preconditioner, g), torch.dot(g, g)]).tolist()
    return float(long / plain) if plain > 0.0 else 1.0


def solved(gram: Tensor, products: Tensor, *, kappa: float, step: float, eps: float) -> Tensor:
    """y of (I / kappa + step S S^T) y = S d, for rows of S that are zero too.

    Args:
        gram: S S^T, float64, shape (r, r), positive semi-definite but for the rounding of its entries.
        products: S d, float64, shape (r,).
        kappa: > 0.
        step: >= 0; 0: no damping.
        eps: of the numbers whose products they are, such as 1.2e-7 for float32.
    """
    if step == 0.0:
        return products * kappa
    system = gram * step
    system.diagonal().add_(1.0 / kappa + _ROUNDING * eps * step * float(gram.diagonal().max()))
    triangle, failed = torch.linalg.cholesky_ex(system)
    if not failed:
        return torch.cholesky_solve(products[:, None], triangle)[:, 0]
    if not torch.isfinite(system).all():
        return products * math.nan  # the server sees weights that are not finite, and says so
    values, vectors = torch.linalg.eigh(gram)
    solution: Tensor = vectors @ ((vectors.T @ products) / (1.0 / kappa + step * values.clamp_min(0.0)))
    return solution


def _require_positive(owner: str, name: str, value: object) -> None:
    require_number(owner, name, value, low=0.0, high=math.inf, include_low=False, include_high=False)
