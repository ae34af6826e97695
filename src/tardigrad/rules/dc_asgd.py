r"""Delay-Compensated ASGD, constant (-c) and adaptive (-a), and the damped default.

The gradient pushed by worker m was computed on weights ``backup`` that it pulled ``staleness`` commits ago. A
first-order Taylor step carries it to the current weights w, with the outer product of gradients in place of the
Hessian and only its diagonal kept (Zheng et al. 2017, Eq. 10):

.. math::

    w_{t+\tau+1} = w_{t+\tau} - \text{lr} \left( g + \lambda_t \, g \odot g \odot (w_{t+\tau} - w_{bak}(m)) \right)

    \text{-c: } \lambda_t = \lambda_0
    \qquad
    \text{-a (Eq. 14): } M_t = m \, M_{t-1} + (1 - m) \, g^2, \quad \lambda_t = \lambda_0 / \sqrt{M_t + \epsilon}

with M the mean square, m ``mean_square_decay``, M_0 = 0, updated before use, no bias correction, eps inside the
root. Beside the paper stand two safeguards, off unless asked:

* ``damped``: the curvature estimate :math:`E = \lambda_t g^2` is replaced by :math:`E / (1 + \text{lr} E)`, so that
  no delay can make a step unstable (on a quadratic, stability at every delay needs lr E below about 1);
* ``clip_compensation``: a bound per coordinate on :math:`|\lambda_t \, g \odot (w - w_{bak})|`, the compensation
  relative to its gradient.

>>> import torch, tardigrad
>>> server = tardigrad.ParameterServer([torch.ones(1)], tardigrad.rule("dc-asgd-c", lambda0=1.0), lr=0.5, workers=2)
>>> for worker in (0, 1):
...     snapshot = server.pull(worker)  # both read w = 1
>>> for worker in (0, 1):  # the second gradient, 1, is one commit old: it becomes 1 + 1 * (0.5 - 1) = 0.5
...     print(server.push(worker, [torch.ones(1)]).staleness, server.weights()[0].item())
0 0.5
1 0.25

References:
    Zheng et al., Asynchronous stochastic gradient descent with delay compensation, ICML 2017 (arXiv 1609.08326 v6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tardigrad.hyperparameters import STRENGTH_AUTO, require_flag, require_number, require_strength
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.base import Compensation
from tardigrad.scopes import PER_WORKER, SHARED, Scope, Sharing


def damped_relative(g: Tensor, w: Tensor, backup: Tensor, root: Tensor, *, strength: float) -> Tensor:
    """r where the curvature estimate E = lambda_t g^2 is damped: (w - backup) g / (root + lr lambda0 g^2).

    That is (lambda_t / lambda0) g (w - backup) / (1 + s E), with one division for two.

    Args:
        g, w, backup: tensors of one shape.
        root: lambda0 / lambda_t, of that shape or of none.
        strength: s lambda0, s the step size lr times `Optimizer.gain`.
    """
    return w.sub(backup).mul_(g).div_(root.addcmul(g, g, value=strength))


def lambda0_now(chosen: float | str, automatic: float, facts: Facts) -> float:
    """The number chosen; of "auto" the registered default, as strong as probes have found best."""
    return automatic * facts.strength if isinstance(chosen, str) else chosen


def delay_compensated(g: Tensor, relative: Tensor, *, lambda0: float, clip: float | None) -> Tensor:
    """g + lambda0 g r: Eq. 10 of the paper, written around the relative compensation r.

    Args:
        g: gradient.
        relative: r = (lambda_t / lambda0) g (w - backup), of its shape; lambda0 is multiplied last, which saves a pass.
        clip: bound on |lambda0 r| per coordinate, or None.
    """
    if clip is not None:
        relative = relative.clamp(-clip / lambda0, clip / lambda0)
    return g.addcmul(g, relative, value=lambda0)


@dataclass(frozen=True, slots=True)
class DCASGDConstant(Compensation):
    """DC-ASGD-c: lambda_t = lambda0.

    Args:
        lambda0: >= 0; 0.04 in the paper's CIFAR-10 runs; 0 is ASGD. The term is quadratic in the gradient: its
            relative size changes with the scale of the loss. "auto": 0.04 times a factor that follows probes.
        clip_compensation: bound > 0 per coordinate on the compensation relative to its gradient, or None.
        damped: replace the curvature estimate E by E / (1 + lr E).
    """

    name: ClassVar[str] = "dc-asgd-c"
    scope: ClassVar[Scope] = "element"
    reads_backup: ClassVar[bool] = True
    baseline: ClassVar[str] = "asgd"
    strength: ClassVar[str | None] = "lambda0"

    automatic: ClassVar[float] = 0.04

    lambda0: float | str = 0.04
    clip_compensation: float | None = None
    damped: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        _require_safeguards(self.name, self.lambda0, self.clip_compensation, self.damped)

    @property
    def follows_probes(self) -> bool:  # type: ignore[override]  # the base declares it per class
        """Whether lambda0 is "auto"."""
        return self.lambda0 == STRENGTH_AUTO

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """Eq. 10 with a constant lambda."""
        if facts.staleness == 0 or self.lambda0 == 0.0:
            return g, {}
        lambda0 = lambda0_now(self.lambda0, self.automatic, facts)
        if self.damped:
            relative = damped_relative(g, w, backup, g.new_ones(()), strength=facts.lr * facts.gain * lambda0)
        else:
            relative = w.sub(backup).mul_(g)
        return delay_compensated(g, relative, lambda0=lambda0, clip=self.clip_compensation), {}


@dataclass(frozen=True, slots=True)
class DCASGDAdaptive(Compensation):
    """DC-ASGD-a: lambda_t = lambda0 / sqrt(mean_square + eps).

    Args:
        lambda0: >= 0; 2 in the paper; 0 is ASGD. "auto": 2 times a factor that follows probes.
        mean_square_decay: m of Eq. 14, in [0, 1); 0.95 for CIFAR-10, 0 for ImageNet in the paper.
        eps: > 0, inside the root; 1e-7 in the paper.
        clip_compensation: bound > 0 per coordinate on the compensation relative to its gradient, or None.
        damped: replace the curvature estimate E by E / (1 + lr E).
        shared: one mean square for all workers in place of one per worker (as in the authors' code).
    """

    name: ClassVar[str] = "dc-asgd-a"
    scope: ClassVar[Scope] = "element"
    reads_backup: ClassVar[bool] = True
    baseline: ClassVar[str] = "asgd"
    strength: ClassVar[str | None] = "lambda0"

    automatic: ClassVar[float] = 2.0

    lambda0: float | str = 2.0
    mean_square_decay: float = 0.95
    eps: float = 1e-7
    clip_compensation: float | None = None
    damped: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        _require_safeguards(self.name, self.lambda0, self.clip_compensation, self.damped)
        require_number(self.name, "mean_square_decay", self.mean_square_decay, low=0.0, high=1.0, include_high=False)
        require_number(self.name, "eps", self.eps, low=0.0, high=1.0, include_low=False)
        require_flag(self.name, "shared", self.shared)

    @property
    def follows_probes(self) -> bool:  # type: ignore[override]  # the base declares it per class
        """Whether lambda0 is "auto"."""
        return self.lambda0 == STRENGTH_AUTO

    def state_spec(self) -> Mapping[str, Sharing]:
        """The mean square of Eq. 14; none where mean_square_decay is 0, since it is then g^2 itself."""
        if self.mean_square_decay == 0.0:
            return {}
        return {"mean_square": SHARED if self.shared else PER_WORKER}

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """Eq. 14, then Eq. 10."""
        decay = self.mean_square_decay
        if decay == 0.0:
            mean_square, after = g * g, {}
        else:
            mean_square = state["mean_square"].mul(decay).addcmul_(g, g, value=1.0 - decay)
            after = {"mean_square": mean_square}
        if facts.staleness == 0 or self.lambda0 == 0.0:
            return g, after
        lambda0 = lambda0_now(self.lambda0, self.automatic, facts)
        spread = mean_square.add(self.eps)  # its root is lambda0 / lambda_t
        if self.damped:
            relative = damped_relative(g, w, backup, spread.sqrt_(), strength=facts.lr * facts.gain * lambda0)
        else:
            relative = w.sub(backup).mul_(spread.rsqrt_().mul_(g))
        return delay_compensated(g, relative, lambda0=lambda0, clip=self.clip_compensation), after


@dataclass(frozen=True, slots=True)
class DCASGD(DCASGDAdaptive):
    """The safe default for people who just train: DC-ASGD-a, damped, with lambda0 8.

    The damping lets lambda0 be larger than the paper's without diverging; see the design page for the measurements.
    """

    name: ClassVar[str] = "dc-asgd"

    automatic: ClassVar[float] = 8.0

    lambda0: float | str = 8.0
    damped: bool = True


def _require_safeguards(owner: str, lambda0: float | str, clip: float | None, damped: bool) -> None:
    require_strength(owner, "lambda0", lambda0)
    require_flag(owner, "damped", damped)
    if clip is not None:
        require_number(
            owner, "clip_compensation", clip, low=0.0, high=float("inf"), include_low=False, include_high=False
        )
