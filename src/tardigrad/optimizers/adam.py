r"""Adam and AdamW, as in torch.optim: a step measured in each coordinate by the gradients that it has seen.

.. math::

    d_t &= g_t + \text{weight\_decay} \, w_t \text{ (adam)}, \quad g_t \text{ (adamw)} \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \, d_t, \qquad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2) \, d_t^2, \qquad m_0 = v_0 = 0 \\
    u_t &= w_t \text{ (adam)}, \quad (1 - \text{lr} \cdot \text{weight\_decay}) \, w_t \text{ (adamw)} \\
    w_{t+1} &= u_t - \frac{\text{lr}}{1 - \beta_1^t} \,
        \frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

with t the number of the step from 1, and with amsgrad the largest v so far in the place of :math:`v_t`. The gradient is
the compensated one: compensation comes before the moments, in a commit of either path.

The expressions are torch's own, in its order, so that one worker equals ``torch.optim.AdamW(foreach=False,
fused=False)`` bit for bit on the exact commit path.

>>> import torch, tardigrad
>>> rule = tardigrad.rule("asgd", optimizer="adamw(weight_decay=0.0)")
>>> server = tardigrad.ParameterServer([torch.ones(1)], rule, lr=0.25)
>>> for g in (3.0, -1.0, 0.5):  # the first step is lr, whatever the gradient's length
...     commit = server.push(0, [torch.tensor([g])])
...     print(f"{commit.version}: {server.weights()[0].item():.3f}")
1: 0.750
2: 0.650
3: 0.549

References:
    Kingma, Ba, Adam: a method for stochastic optimization, ICLR 2015 (arXiv 1412.6980), Algorithm 1.
    Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019 (arXiv 1711.05101), Algorithm 2.
    Reddi, Kale, Kumar, On the convergence of Adam and beyond, ICLR 2018 (arXiv 1904.09237), Algorithm 2 (amsgrad).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tardigrad.hyperparameters import require_flag, require_number
from tardigrad.optimizers.base import Optimizer, State
from tardigrad.optimizers.momentum import Momentum
from tardigrad.records import Facts
from tardigrad.scopes import Scope

_LEAST_EPS = torch.finfo(torch.float32).tiny  # a smaller one is 0 in float32: where v is 0, the step would be 0 / 0


@dataclass(frozen=True, slots=True)
class Adam(Optimizer):
    """Adam; weight decay is coupled: a part of the gradient, which the moments see.

    Args:
        beta1: of the first moment, in [0, 1).
        beta2: of the second moment, in [0, 1).
        eps: > 0, added to the root of the second moment; at least 1.2e-38, which float32 tells from 0.
        weight_decay: >= 0, added to the gradient as ``weight_decay * w`` with the server's current weights.
        amsgrad: divide by the largest second moment so far.
    """

    name: ClassVar[str] = "adam"
    scope: ClassVar[Scope] = "element"
    decoupled: ClassVar[bool] = False

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_number(self.name, "beta1", self.beta1, low=0.0, high=1.0, include_high=False)
        require_number(self.name, "beta2", self.beta2, low=0.0, high=1.0, include_high=False)
        require_number(self.name, "eps", self.eps, low=_LEAST_EPS, high=math.inf, include_high=False)
        require_number(self.name, "weight_decay", self.weight_decay, low=0.0, high=math.inf, include_high=False)
        require_flag(self.name, "amsgrad", self.amsgrad)

    def state_spec(self) -> Sequence[str]:
        """m and v, and with amsgrad the largest v."""
        return ("first_moment", "second_moment", *(("largest_second_moment",) if self.amsgrad else ()))

    def gain(self, delay: int) -> float:
        """What the first moment adds, which is heavy ball with dampening beta1; see "Behind Adam" on "Why damping"."""
        return Momentum(self.beta1, self.beta1).damping_gain(delay)

    def preconditioner(self, state: Mapping[str, Tensor], facts: Facts) -> Tensor:
        """1 over the denominator of the last step; 1 / eps before the first, when nothing is known of a weight."""
        v = state["largest_second_moment" if self.amsgrad else "second_moment"]
        root = (1 - self.beta2**facts.step) ** 0.5 if facts.step else 1.0
        return v.sqrt().div_(root).add_(self.eps).reciprocal_()

    def step(self, w: Tensor, g: Tensor, state: Mapping[str, Tensor], facts: Facts) -> tuple[Tensor, State]:
        """One update; see the module's equations."""
        t = facts.step + 1
        if self.weight_decay and self.decoupled:
            w = w.mul(1 - facts.lr * self.weight_decay)  # u
        elif self.weight_decay:
            g = g.add(w, alpha=self.weight_decay)  # d = g + weight_decay w
        m = state["first_moment"].lerp(g, 1 - self.beta1)
        v = state["second_moment"].mul(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        after = {"first_moment": m, "second_moment": v}
        if self.amsgrad:
            v = after["largest_second_moment"] = torch.maximum(state["largest_second_moment"], v)
        denominator = v.sqrt().div_((1 - self.beta2**t) ** 0.5).add_(self.eps)
        return w.addcdiv(m, denominator, value=-(facts.lr / (1 - self.beta1**t))), after


@dataclass(frozen=True, slots=True)
class AdamW(Adam):
    """AdamW: Adam whose weight decay is decoupled: a step of its own, lr times weight_decay, past the moments.

    Args:
        beta1, beta2, eps, amsgrad: as `Adam`.
        weight_decay: >= 0; lr times it must stay below 1, or the decay turns the weights' sign.
    """

    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True

    weight_decay: float = 0.01
