r"""What momentum does to a delayed step, seen one mode at a time.

With :math:`w_t = z^t v`, torch's SGD turns a gradient into a step through one factor (the initial velocity aside):

.. math::

    (z - 1)(1 - \mu / z) \, v = -s \, D(z) \, g(z), \qquad
    D = 1 \text{ (none, heavy ball)}, \quad D = 1 + \mu - \mu / z \text{ (Nesterov)}

with s = lr (1 - dampening). On the unit circle, :math:`z = e^{i \theta}`, :math:`x = 1 - \cos \theta`, the transfer
function :math:`G = D / ((z - 1)(1 - \mu / z))` has the real part

.. math::

    -2 \, \mathrm{Re} \, G = \frac{1}{1 - \mu} \left( 1 + \frac{2 p (1 - \mu - x)}{(1 - \mu)^2 + 2 \mu x} \right),
    \qquad p = \mu \text{ (heavy ball)}, \quad p = \mu^2 \text{ (Nesterov)}

which falls as x grows. That is all the theorems on the page "Why damping" need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_flag, require_number


@dataclass(frozen=True, slots=True)
class Momentum:
    """Momentum as in torch.optim.SGD.

    Args:
        momentum: mu in [0, 1).
        dampening: in [0, 1]; without effect where momentum is 0.
        nesterov: needs momentum > 0 and dampening 0.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_number("momentum", "momentum", self.momentum, low=0.0, high=1.0, include_high=False)
        require_number("momentum", "dampening", self.dampening, low=0.0, high=1.0)
        require_flag("momentum", "nesterov", self.nesterov)
        if self.nesterov and (self.momentum == 0.0 or self.dampening != 0.0):
            raise InvalidArgument("momentum: nesterov=True needs momentum > 0 and dampening=0.")

    @property
    def gain(self) -> float:
        """What a gradient is multiplied by, beside lr, before it enters the velocity."""
        return 1.0 - self.dampening if self.momentum else 1.0

    @property
    def numerator(self) -> tuple[float, float]:
        """D(z) as the coefficients of 1 and 1 / z."""
        return (1.0 + self.momentum, -self.momentum) if self.nesterov else (1.0, 0.0)

    def excess(self, angle: float = 0.0) -> float:
        """-2 Re G at that angle in [0, pi]: the multiple of s that the damping must see; at angle 0 it is largest."""
        mu, x = self.momentum, 1.0 - math.cos(angle)
        power = mu * mu if self.nesterov else mu
        return (1.0 + 2.0 * power * (1.0 - mu - x) / ((1.0 - mu) ** 2 + 2.0 * mu * x)) / (1.0 - mu)

    def damping_gain(self, delay: int | None = None) -> float:
        """The multiple of lr by which an estimate must be damped, so that none can be too large up to that delay.

        Args:
            delay: the longest in commits, >= 0; None: any.
        """
        return _damping_gain(self, delay)

    def phase(self, angle: float) -> float:
        """2 arg(1 - mu / z) - 2 arg D(z) at that angle in [0, pi]: what momentum adds to the phase of a delay."""
        one, inverse = self.numerator
        z = complex(math.cos(angle), math.sin(angle))
        return 2.0 * (np.angle(1.0 - self.momentum / z) - np.angle(one + inverse / z)).item()

    def crossing(self, turns: float, target: float) -> float:
        """The angle in (0, pi] at which ``turns * angle + phase(angle)`` reaches ``target``, to rounding."""
        low, high = 0.0, math.pi
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if turns * middle + self.phase(middle) < target else (low, middle)
        return high

    def modulus(self, angle: float) -> float:
        """\\|1 / G\\| at that angle: the s h at which a mode without compensation may cross the circle there."""
        one, inverse = self.numerator
        z = complex(math.cos(angle), math.sin(angle))
        return abs((z - 1.0) * (1.0 - self.momentum / z) / (one + inverse / z))

    def tolerance(self, b: float) -> float:
        r"""The largest g such that a mode with :math:`|c| < g b` is stable at every delay: min over z of |1 + 1/(b G)|.

        It is 1 for b <= 1 / excess(), falls above, and is 0 where even c = 0 is unstable, or b <= 0.

        Args:
            b: s f, with f the mode's compensating curvature.
        """
        mu, one = self.momentum, self.numerator[0] - self.numerator[1]
        if not 0.0 < b < 2.0 * (1.0 + mu) / one:
            return 0.0
        square = (1.0 - mu) ** 2
        first, second = 2.0 * square * (1.0 - b * self.excess()), 4.0 * mu * (1.0 - b if self.nesterov else 1.0)
        bend = 2.0 * mu * (1.0 + mu) if self.nesterov else 0.0
        roots = np.roots([bend * second, 2.0 * second, first])
        places = np.array([0.0, 2.0, *roots[np.isreal(roots)].real.clip(0.0, 2.0)])
        least = (1.0 + (first * places + second * places**2) / (b * b * (1.0 + bend * places))).min()
        return math.sqrt(max(0.0, float(least)))


@lru_cache(maxsize=1024)
def _damping_gain(loop: Momentum, delay: int | None) -> float:
    if delay is None:
        return loop.gain * loop.excess()
    turns = max(2, delay) + 1  # delays 0 and 1 need no more than 2
    return loop.gain * loop.excess(loop.crossing(turns, 2.0 * math.pi))
