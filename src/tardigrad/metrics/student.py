"""Student's t: the interval of a mean known from a few seeds, without scipy.

The distribution function for whole degrees of freedom is the finite sum of Abramowitz and Stegun, *Handbook
of Mathematical Functions* (1964), 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

from tardigrad.errors import InvalidArgument


def t_central(t: float, df: int) -> float:
    """P(-t < T < t) for ``df`` degrees of freedom, t >= 0, df >= 1."""
    theta = math.atan(t / math.sqrt(df))
    cosine, odd = math.cos(theta), df % 2
    if df == 1:
        return 2 * theta / math.pi
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, df, 2):  # odd: 2/3, 4/5, ... even: 1/2, 3/4, ...
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total


@functools.cache
def t_quantile(df: int, *, level: float = 0.95) -> float:
    """The t with P(-t < T < t) = ``level``: 12.706 for df 1, 4.303 for 2, at level 0.95.

    Raises:
        InvalidArgument: df below 1, or a level outside (0, 1).
    """
    if df < 1 or not 0 < level < 1:
        raise InvalidArgument(f"df={df}, level={level}: give df >= 1 and a level between 0 and 1.")
    low, high = 0.0, 1.0
    while t_central(high, df) < level:
        high *= 2
    for _ in range(60):  # halving a range of 2^k so often leaves less than a double's last digit
        middle = (low + high) / 2
        low, high = (middle, high) if t_central(middle, df) < level else (low, middle)
    return (low + high) / 2


def t_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float] | None:
    """Two-sided interval of the mean of ``values``; None for fewer than two of them."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1, level=level) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
