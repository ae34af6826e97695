"""How many paired seeds a difference needs: the power of the paired t-test, without scipy.

With n pairs, mean m and spread s of the differences, the test's statistic follows the noncentral t law with n - 1
degrees of freedom and noncentrality m sqrt(n) / s. Its distribution function is the normal one averaged over the law
of the estimated spread (Johnson, Kotz and Balakrishnan, *Continuous Univariate Distributions* 2, 1995, ch. 31):

    P(T <= t) = integral over s > 0 of Phi(t s - noncentrality) f(s) ds,    df s^2 chi-squared with df degrees
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.student import t_quantile

MOST = 1000
"""Beyond so many pairs nobody counts: `pairs_needed` says infinity."""
_STEPS = 600


@functools.lru_cache(maxsize=4096)
def pairs_needed(mean: float, spread: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """The least number of pairs whose interval excludes 0 with probability ``power``.

    Args:
        mean: of the differences, taken for the truth; its sign does not matter.
        spread: standard deviation of the differences (ddof 1), > 0, taken for the truth.
        level: of the two-sided interval.
        power: in [0.5, 1).

    Returns:
        A whole number >= 2, or infinity for more than `MOST`.

    Raises:
        InvalidArgument: a spread that is not above 0, a level outside (0, 1), a power outside [0.5, 1).

    >>> [pairs_needed(d, 1.0) for d in (1.0, 0.8, 0.5)]
    [10, 15, 34]
    """
    if not spread > 0 or not 0 < level < 1 or not 0.5 <= power < 1:
        raise InvalidArgument(
            f"spread={spread}, level={level}, power={power}: give a spread above 0, a level between 0 and 1, "
            "a power of at least 0.5 and below 1."
        )
    effect = abs(mean) / spread
    known = NormalDist()
    least = known.inv_cdf(0.5 + level / 2) + known.inv_cdf(power)  # were the spread known: the search begins there
    if effect == 0.0 or (least / effect) ** 2 > MOST:
        return math.inf
    first = max(2, math.floor((least / effect) ** 2))
    return next((n for n in range(first, MOST + 1) if power_of(n, effect, level=level) >= power), math.inf)


def power_of(pairs: int, effect: float, *, level: float = 0.95) -> float:
    """Probability that the interval of ``pairs`` differences excludes 0.

    Args:
        pairs: how many, >= 2.
        effect: true mean over true spread of the differences, >= 0.
        level: of the two-sided interval.
    """
    df, shift = pairs - 1, effect * math.sqrt(pairs)
    edge = t_quantile(df, level=level)
    return 1.0 - noncentral_t(edge, df, shift) + noncentral_t(-edge, df, shift)


def noncentral_t(t: float, df: int, noncentrality: float) -> float:
    """P(T <= t) of the noncentral t law, df >= 1, by Simpson's rule: to 1e-6 and better."""
    width = 12.0 / math.sqrt(2.0 * df)  # the estimated spread is about 1 with this twelfth as its deviation
    low, high = max(0.0, 1.0 - width), 1.0 + width
    step = (high - low) / _STEPS
    total = 0.0
    for i in range(_STEPS + 1):
        s = low + i * step
        weight = 1 if i in (0, _STEPS) else (4 if i % 2 else 2)
        total += weight * _normal(t * s - noncentrality) * _spread_density(s, df)
    return total * step / 3.0


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _spread_density(s: float, df: int) -> float:
    """Density at ``s`` of the estimated over the true spread, df degrees of freedom."""
    if s <= 0.0:
        return math.sqrt(2.0 / math.pi) if df == 1 else 0.0
    half = df / 2.0
    return math.exp(math.log(2.0) + half * math.log(half) - math.lgamma(half) + (df - 1) * math.log(s) - half * s * s)
