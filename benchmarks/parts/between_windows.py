r"""Three rules made of a window of gradients: with a diagonal, with forgetting, and of applied directions.

`tardigrad.rules.dc_lowrank` is what they vary: :math:`E = \kappa S^T S` with the rows of S the last r gradients, and
the compensation :math:`c = E (I + s E)^{-1} d`, with d = w - backup and s = lr times the optimizer's gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import tardigrad
from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import Part
from tardigrad.commit.exact import ExactPath, Piece
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number
from tardigrad.optimizers.base import State
from tardigrad.records import Facts, RecentGradients
from tardigrad.rules.dc_lowrank import KAPPA, DCLowRank
from tardigrad.scopes import PER_WORKER, Scope, Sharing
from tardigrad.window import Window, WindowPlan

_MOST_TURNS = 25  # of conjugate gradients
_NEAR = 1e-3  # residual over what it was at first


@dataclass(frozen=True, slots=True)
class DiagonalAndLowRank(tardigrad.Compensation):
    r"""The diagonal of DC-ASGD-a plus the low rank of dc-lowrank, damped as one.

    With :math:`D = \lambda_t \, \mathrm{diag}(g^2)`, :math:`\lambda_t = \lambda_0 / \sqrt{M_t + \epsilon}` (Zheng et
    al. 2017, Eq. 14), :math:`E = D + \kappa S^T S` and :math:`A = I + s D`, the formula of Woodbury (1950) gives

    .. math::  c = E (I + s E)^{-1} d = A^{-1} (D d + S^T y),
        \qquad \left( \tfrac{1}{\kappa} I + s \, S A^{-1} S^T \right) y = S A^{-1} d

    A is new at every commit, so :math:`S A^{-1} S^T` is never formed: y is found by conjugate gradients, each turn two
    products with S, preconditioned by the same system with A = I, which needs the Gram matrix only.

    Args:
        scale: > 0, multiplies both parts.
        lambda0: >= 0, of the diagonal at scale 1; the paper's 2.
        mean_square_decay: m of Eq. 14, in [0, 1).
        eps: > 0, inside the root.

    References:
        Zheng et al., Asynchronous stochastic gradient descent with delay compensation, ICML 2017 (arXiv 1609.08326).
        Woodbury, Inverting modified matrices, 1950.
    """

    name: ClassVar[str] = "diagonal-and-low-rank"
    scope: ClassVar[Scope] = "model"
    reads_backup: ClassVar[bool] = True
    strength: ClassVar[str | None] = "scale"
    window_plan: ClassVar[WindowPlan | None] = WindowPlan()

    scale: float = 1.0
    lambda0: float = 2.0
    mean_square_decay: float = 0.95
    eps: float = 1e-7

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        _require_scale(self.name, self.scale)
        require_number(self.name, "lambda0", self.lambda0, low=0.0, high=math.inf, include_high=False)
        require_number(self.name, "mean_square_decay", self.mean_square_decay, low=0.0, high=1.0, include_high=False)
        require_number(self.name, "eps", self.eps, low=0.0, high=1.0, include_low=False)

    def state_spec(self) -> Mapping[str, Sharing]:
        """The mean square of Eq. 14."""
        return {"mean_square": PER_WORKER}

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g + E (I + s E)^-1 (w - backup), E = D + kappa S^T S."""
        mean_square = state["mean_square"].mul(self.mean_square_decay).addcmul(g, g, value=1 - self.mean_square_decay)
        if facts.staleness == 0:
            return g, {"mean_square": mean_square}
        window, step = _window_of(self.name, facts), facts.lr * facts.gain
        diagonal = g.square().mul(self.scale * self.lambda0).div(mean_square.add(self.eps).sqrt())
        kappa = self.scale * KAPPA * math.sqrt(facts.samples / window.size)
        across = 1.0 + step * diagonal  # A
        gap = (w - backup) / across  # A^-1 d
        y = _solved(window, across, window.against(gap), kappa=kappa, step=step)
        return g + diagonal * gap + window.combined(y) / across, {"mean_square": mean_square}


def _solved(window: RecentGradients, across: Tensor, products: Tensor, *, kappa: float, step: float) -> Tensor:
    """y of (I / kappa + s S A^-1 S^T) y = products, shape (r,), A = diag(across)."""

    def applied(y: Tensor) -> Tensor:
        return y / kappa + step * window.against(window.combined(y) / across)

    gram = window.gram
    rounding = torch.finfo(torch.float32).eps * step * float(gram.diagonal().max())
    plain = gram.mul(step)
    plain.diagonal().add_(1.0 / kappa + rounding)
    factor = torch.linalg.cholesky(plain)
    return conjugate_gradients(applied, products, lambda r: torch.cholesky_solve(r[:, None], factor)[:, 0])


def conjugate_gradients(
    applied: Callable[[Tensor], Tensor], wanted: Tensor, preconditioned: Callable[[Tensor], Tensor]
) -> Tensor:
    """x with applied(x) near wanted, for a symmetric positive definite map.

    Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    x, residual = torch.zeros_like(wanted), wanted
    z = preconditioned(residual)
    direction, energy, first = z, residual @ z, residual.norm()
    for _ in range(_MOST_TURNS):
        if residual.norm() <= _NEAR * first:
            break
        image = applied(direction)
        length = energy / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        z = preconditioned(residual)
        before, energy = energy, residual @ z
        direction = z + (energy / before) * direction
    return x


@dataclass(frozen=True, slots=True)
class Forgetting(tardigrad.Compensation):
    r"""dc-lowrank whose gradients fade with their age.

    .. math::  E = S^T K S, \quad K = \kappa \, \mathrm{diag}(\beta^{a_i}),
        \qquad c = S^T K^{1/2} \left( I + s \, K^{1/2} S S^T K^{1/2} \right)^{-1} K^{1/2} S \, d

    with :math:`a_i` the age of row i in pushes: the exponential average of outer products, cut where the window ends.
    :math:`\beta = 1 - 2 / r`, so that the sum of all weights of an endless window were r / 2, half of the window's
    own size r. :math:`\kappa = 0.3 \sqrt{B / \sum_i \beta^{a_i}}`: that of dc-lowrank, for what is left.

    Args:
        scale: > 0, multiplies kappa.
        half_window: of an endless window, the sum of all weights over the window's own size, in (0, 1].
    """

    name: ClassVar[str] = "forgetting"
    scope: ClassVar[Scope] = "model"
    reads_backup: ClassVar[bool] = True
    strength: ClassVar[str | None] = "scale"
    window_plan: ClassVar[WindowPlan | None] = WindowPlan()

    scale: float = 1.0
    half_window: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        _require_scale(self.name, self.scale)
        require_number(self.name, "half_window", self.half_window, low=0.0, high=1.0, include_low=False)

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g + S^T K^1/2 (I + s K^1/2 S S^T K^1/2)^-1 K^1/2 S (w - backup)."""
        window = _window_of(self.name, facts)
        if facts.staleness == 0:
            return g, {}
        assert self.window_plan is not None
        decay = 1.0 - 1.0 / (self.half_window * self.window_plan.rows_for(facts.live))
        weights = decay ** window.ages.double()  # of rows that do not count they meet zeros only
        total = float(weights[window.gram.diagonal() > 0.0].sum()) or 1.0
        root = (weights * self.scale * KAPPA * math.sqrt(facts.samples / total)).sqrt()
        system = facts.lr * facts.gain * root[:, None] * window.gram * root
        rounding = torch.finfo(torch.float32).eps * float(system.diagonal().max())
        system.diagonal().add_(1.0 + rounding)
        products = root * window.against(w - backup)
        y = torch.cholesky_solve(products[:, None], torch.linalg.cholesky(system))[:, 0]
        return g + window.combined(root * y), {}


@dataclass(frozen=True, slots=True)
class AppliedDirections(DCLowRank):
    """dc-lowrank with the directions that were applied, g + c, as the rows of S in place of raw gradients.

    While a gradient is compensated its own row holds the gradient itself, as in dc-lowrank; then g + c takes that row.
    w - backup is minus lr times a sum of such directions, so that it lies in the span of S but for the oldest. A rule
    may not write into its facts: this one needs the commit path ``directions``, and every keyword is dc-lowrank's.
    """

    name: ClassVar[str] = "applied-directions"

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g + S^T (I / kappa + s S S^T)^-1 S (w - backup)."""
        if not isinstance(facts.window, DirectionWindow):
            raise InvalidArgument(f"{self.name} needs a window of directions; type --commit-path directions.")
        return DCLowRank.compensate(self, g, w, backup, state, facts)


class DirectionWindow(Window):
    """A window whose newest row may be replaced."""

    def replace_newest(self, direction: Tensor) -> None:
        """Put a flat vector in the place of the newest row."""
        row = int(self._number.argmax())
        self._rows[row].copy_(direction)
        products = self._products(self._rows[row].to(direction.dtype))
        self._gram[row], self._gram[:, row] = products, products


class DirectionsPath(ExactPath):
    """The exact path with a window of applied directions."""

    name: ClassVar[str] = "directions"

    def __init__(self, rule: tardigrad.Rule, layout: Any, **keywords: Any) -> None:
        super().__init__(rule, layout, **keywords)
        plan = rule.compensation.window_plan
        if plan is None:
            raise InvalidArgument(f"{rule.name} has no window; the commit path {self.name!r} is for one that has.")
        self.state.window = DirectionWindow(plan, layout)

    def _repaired(self, w: Tensor, part: Part, piece: Piece, *, advance: bool) -> Tensor:
        repaired = super()._repaired(w, part, piece, advance=advance)
        if advance:
            assert isinstance(self.state.window, DirectionWindow)
            self.state.window.replace_newest(repaired)
        return repaired


def _window_of(name: str, facts: Facts) -> RecentGradients:
    if facts.window is None:
        raise InvalidArgument(f"{name} needs facts.window: commit through ParameterServer or ExactPath.")
    return facts.window


def _require_scale(owner: str, scale: object) -> None:
    require_number(owner, "scale", scale, low=0.0, high=math.inf, include_low=False, include_high=False)


tardigrad.register_rule("diagonal-and-low-rank", DiagonalAndLowRank)
tardigrad.register_rule("forgetting", Forgetting)
tardigrad.register_rule("applied-directions", AppliedDirections)
COMMIT_PATHS.register("directions", DirectionsPath)
