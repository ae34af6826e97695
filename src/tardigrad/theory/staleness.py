r"""Staleness of asynchronous workers whose gradients take exponential times, before a server that is always free.

Worker i finishes gradients at rate :math:`\mu_i`. While one of its gradients takes T, each other worker j commits a
Poisson number of mean :math:`\mu_j T`; with T exponential of rate :math:`\mu_i`,

.. math::

    E[\tau_i] = \sum_{j \ne i} \mu_j / \mu_i, \qquad
    P(\tau_i = k) = p_i (1 - p_i)^k, \quad p_i = \mu_i / \sum_j \mu_j

For W equal workers the law is geometric: :math:`P(k) = \frac{1}{W} \left( \frac{W-1}{W} \right)^k`, of mean W - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tardigrad.errors import InvalidArgument


def mean_staleness(rates: Sequence[float]) -> list[float]:
    """The mean staleness of each worker, in commits.

    Args:
        rates: gradients per second of each worker, each > 0.
    """
    values = _rates(rates)
    return [float((values.sum() - rate) / rate) for rate in values]


def staleness_law(rates: Sequence[float], worker: int, longest: int) -> np.ndarray:
    """P(staleness = k) of one worker for k = 0 ... ``longest``: shape (longest + 1,)."""
    values = _rates(rates)
    share = values[worker] / values.sum()
    return np.asarray(share * (1.0 - share) ** np.arange(longest + 1))


def _rates(rates: Sequence[float]) -> np.ndarray:
    values = np.asarray(rates, dtype=float)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise InvalidArgument(f"rates={list(rates)!r} is not a list of numbers > 0, one for each worker.")
    return values
