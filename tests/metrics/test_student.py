"""Student's t against scipy's, which the library itself does not need."""

import numpy as np
import pytest
from scipy import stats

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.student import t_central, t_interval, t_quantile


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_the_distribution_is_scipys(df):
    for t in (0.0, 0.3, 1.0, 2.5, 13.0):
        assert t_central(t, df) == pytest.approx(stats.t.cdf(t, df) - stats.t.cdf(-t, df), abs=1e-13)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("df", [1, 2, 3, 7, 40])
def test_quantiles_are_scipys(df, level):
    assert t_quantile(df, level=level) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=1e-10)


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).normal(1.0, 2.0, size=6).tolist()
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_one_value_has_no_interval():
    assert t_interval([1.0]) is None


@pytest.mark.parametrize(("df", "level"), [(0, 0.95), (3, 1.0), (3, 0.0)])
def test_nonsense_is_refused(df, level):
    with pytest.raises(InvalidArgument, match="df >= 1"):
        t_quantile(df, level=level)
