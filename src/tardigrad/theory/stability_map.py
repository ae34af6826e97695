r"""The map of stability: growth per commit over the curvature estimate and the delay.

One mode is enough to draw it: H = h and E = e are numbers, and what matters is lr h, lr e, tau and the momentum. Each
cell runs the recursion itself, from one impulse,

.. math::

    w_{t+1} = w_t + \mu (w_t - w_{t-1}) - s \left( h w_{t-\tau} + f (w_t - w_{t-\tau}) \right)

and reads the growth from how the largest weight in memory changes over the last half of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tardigrad.hyperparameters import require_integer, require_number

BLOCK = 32
"""Commits between two looks at the weights, after which they are scaled back to 1."""


def growth_map(
    curvature: float,
    estimates: ArrayLike,
    delays: Sequence[int],
    *,
    momentum: float = 0.0,
    step: float | None = None,
) -> NDArray[np.float64]:
    """Growth per commit, to about 0.002: shape (delays, estimates).

    Args:
        curvature: lr h, > 0.
        estimates: lr e, each in [0, 1000].
        delays: tau in commits, each >= 1.
        momentum: mu of heavy ball, in [0, 1).
        step: what the estimate is damped by, in units of lr, >= 0; None for none.
    """
    require_number("growth_map", "curvature", curvature, low=0.0, include_low=False, include_high=False)
    require_number("growth_map", "momentum", momentum, low=0.0, high=1.0, include_high=False)
    e = np.asarray(estimates, dtype=float)
    f = e if step is None else e / (1.0 + step * e)
    taus = [require_integer("growth_map", "delay", delay, low=1) for delay in delays]
    return np.array([_growth(f, curvature - f, tau, momentum) for tau in taus])


def _growth(b: NDArray[np.float64], c: NDArray[np.float64], delay: int, momentum: float) -> NDArray[np.float64]:
    """Growth per commit of w_{t+1} = w_t + mu (w_t - w_{t-1}) - b w_t - c w_{t-tau}, for arrays of b and c."""
    history = np.zeros((delay + 1, len(b)))  # row t % (delay + 1) holds w_t; the next row is the oldest, w_{t-tau}
    history[0] = 1.0
    before, now = np.zeros(len(b)), history[0].copy()
    blocks = max(32, 24 * (delay + 1) // BLOCK)
    sizes = np.zeros((blocks, len(b)))
    for t in range(1, blocks * BLOCK + 1):
        oldest = history[t % (delay + 1)]
        before, now = now, now + momentum * (now - before) - b * now - c * oldest
        history[t % (delay + 1)] = now
        if t % BLOCK == 0:
            largest = np.maximum(np.abs(history).max(axis=0), 1e-300)
            sizes[t // BLOCK - 1] = np.log(largest)
            history, before, now = history / largest, before / largest, now / largest
    total = np.cumsum(sizes, axis=0)
    quarter = blocks // 4
    late, later = total[-2 * quarter : -quarter].mean(axis=0), total[-quarter:].mean(axis=0)
    return np.asarray(np.exp((later - late) / (quarter * BLOCK)))
