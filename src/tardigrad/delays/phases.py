r"""A delay with a memory: a worker is fast for a while, then slow for a while.

What a shared machine does to a worker: somebody else's job comes, stays for some time, and goes. Phases therefore
last for seconds, not for a number of gradients, and a gradient that is under way when the phase changes goes on at
the new speed. With p the share of time in the fast phase, fast_for / (fast_for + slow_for):

.. math::

    \text{gradients per second} = \frac{p}{\text{fast}} + \frac{1 - p}{\text{slow}},
    \qquad \text{mean delay} = \frac{\text{fast\_for} + \text{slow\_for}}
                                    {\text{fast\_for} / \text{fast} + \text{slow\_for} / \text{slow}}

>>> phases = Phases()
>>> (phases.fast_for + phases.slow_for) / (phases.fast_for / phases.fast + phases.slow_for / phases.slow)
1.0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tardigrad.delays.base import Delay, Draw, gamma_draw, require_positive
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number


@dataclass(frozen=True, slots=True)
class Phases(Delay):
    """A shared machine: fast for a while, slow for a while; the durations are exponential, in seconds.

    The seconds are those a worker spends computing: its clock stands while it waits for others. The first phase is
    the one met at a random moment.

    Args:
        fast: seconds a gradient takes in a fast phase, > 0 and at most ``slow``.
        slow: seconds it takes in a slow phase.
        fast_for: mean duration of a fast phase in seconds, > 0.
        slow_for: mean duration of a slow phase in seconds, > 0.
        task_cv: coefficient of variation of the work in a gradient (gamma distributed), >= 0.
    """

    fast: float = 0.75
    slow: float = 3.0
    fast_for: float = 40.0
    slow_for: float = 20.0
    task_cv: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("fast", "slow", "fast_for", "slow_for"):
            require_positive("phases", name, getattr(self, name))
        if self.fast > self.slow:
            raise InvalidArgument(
                f"delay 'phases': fast={self.fast!r} is above slow={self.slow!r}; both are seconds for a gradient, "
                "and the fast one takes fewer."
            )
        if self.fast_for < 1e-3 * self.fast or self.slow_for < 1e-3 * self.slow:  # a thousand phases in one gradient
            raise InvalidArgument(
                f"delay 'phases': fast_for={self.fast_for!r} or slow_for={self.slow_for!r} is less than a thousandth "
                "of a gradient; give mean durations of phases in seconds, such as fast_for=40, slow_for=20."
            )
        require_number("delay 'phases'", "task_cv", self.task_cv, low=0.0, high=10.0)

    def draws(self, stream: np.random.Generator) -> Draw:
        """A walk through the phases: each gradient begins in the phase where the one before it ended."""
        return _Walk(self, stream)


class _Walk:
    """Where one worker stands; called, it goes on by one gradient and returns the seconds that took."""

    def __init__(self, phases: Phases, stream: np.random.Generator) -> None:
        self._phases = phases
        self._stream = stream
        self._slow = float(stream.random()) >= phases.fast_for / (phases.fast_for + phases.slow_for)
        self._left = self._duration()  # without memory, what is left of the first phase is as long as a whole one

    def __call__(self) -> float:
        work, seconds = gamma_draw(self._stream, 1.0, self._phases.task_cv), 0.0
        while (needed := work * self._pace()) > self._left:
            seconds += self._left
            work -= self._left / self._pace()
            self._slow = not self._slow
            self._left = self._duration()
        self._left -= needed
        return seconds + needed

    def _pace(self) -> float:
        """Seconds a whole gradient takes in this phase."""
        return self._phases.slow if self._slow else self._phases.fast

    def _duration(self) -> float:
        """Seconds that this phase lasts."""
        return float(self._stream.exponential(self._phases.slow_for if self._slow else self._phases.fast_for))
