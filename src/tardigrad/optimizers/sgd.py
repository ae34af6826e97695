r"""Stochastic gradient descent with momentum, as in torch.optim.SGD.

.. math::

    d_t &= g_t + \text{weight\_decay} \, w_t \\
    v_t &= \text{momentum} \, v_{t-1} + (1 - \text{dampening}) \, d_t, \qquad v_0 = d_0 \\
    s_t &= d_t + \text{momentum} \, v_t \text{ (Nesterov)}, \quad v_t \text{ (momentum)}, \quad d_t \text{ (neither)} \\
    w_{t+1} &= w_t - \text{lr} \, s_t

The expressions are torch's own, in its order, so that one worker equals
``torch.optim.SGD(foreach=False, fused=False)`` bit for bit on the exact commit path: ``add(alpha=)`` is one fused
multiply-add where the same formula written with ``*`` and ``+`` rounds twice.

References:
    Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_flag, require_number
from tardigrad.optimizers.base import Optimizer, State
from tardigrad.optimizers.momentum import Momentum
from tardigrad.records import Facts
from tardigrad.scopes import Scope


@dataclass(frozen=True, slots=True)
class SGD(Optimizer):
    """SGD with momentum, Nesterov, dampening and coupled weight decay.

    Args:
        momentum: in [0, 1).
        nesterov: needs momentum > 0 and dampening 0.
        dampening: in [0, 1].
        weight_decay: >= 0, added to the gradient as ``weight_decay * w`` with the server's current weights.
    """

    name: ClassVar[str] = "sgd"
    scope: ClassVar[Scope] = "element"

    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_number("sgd", "momentum", self.momentum, low=0.0, high=1.0, include_high=False)
        require_number("sgd", "dampening", self.dampening, low=0.0, high=1.0)
        require_number("sgd", "weight_decay", self.weight_decay, low=0.0, high=float("inf"), include_high=False)
        require_flag("sgd", "nesterov", self.nesterov)
        if self.nesterov and (self.momentum == 0.0 or self.dampening != 0.0):
            raise InvalidArgument("sgd: nesterov=True needs momentum > 0 and dampening=0.")

    def state_spec(self) -> Sequence[str]:
        """The velocity v, where there is momentum."""
        return ("velocity",) if self.momentum else ()

    def gain(self, delay: int) -> float:
        """What momentum adds: so damped, no estimate, however large, is unstable up to this delay; see `Momentum`."""
        if not self.momentum:
            return 1.0
        return Momentum(self.momentum, self.dampening, self.nesterov).damping_gain(delay)

    def step(self, w: Tensor, g: Tensor, state: Mapping[str, Tensor], facts: Facts) -> tuple[Tensor, State]:
        """One update; see the module's equations."""
        if self.weight_decay:
            g = g.add(w, alpha=self.weight_decay)  # d = g + weight_decay w
        if not self.momentum:
            return w.add(g, alpha=-facts.lr), {}
        if facts.step == 0:
            v = g.clone()  # v_0 = d_0, undampened, as in torch
        else:
            v = state["velocity"].mul(self.momentum).add_(g, alpha=1.0 - self.dampening)
        s = g.add(v, alpha=self.momentum) if self.nesterov else v
        return w.add(s, alpha=-facts.lr), {"velocity": v}
