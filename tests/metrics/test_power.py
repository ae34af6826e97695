"""How many paired seeds a difference needs: against known values, and the noncentral t law against scipy's."""

import math

import pytest
from scipy import stats

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.power import MOST, noncentral_t, pairs_needed, power_of


@pytest.mark.parametrize(("effect", "pairs"), [(2.0, 5), (1.0, 10), (0.8, 15), (0.5, 34), (0.3, 90), (0.2, 199)])
def test_pairs_for_a_power_of_80_percent_are_the_textbooks(effect, pairs):
    # Two-sided paired t-test at 5 %: Cohen (1988), and every power calculator since.
    assert pairs_needed(effect, 1.0) == pairs
    assert pairs_needed(-3.0 * effect, 3.0) == pairs


@pytest.mark.parametrize(("effect", "power", "pairs"), [(0.5, 0.9, 44), (1.0, 0.95, 16), (0.5, 0.5, 18)])
def test_other_powers_are_the_textbooks_too(effect, power, pairs):
    assert pairs_needed(effect, 1.0, power=power) == pairs


def test_it_is_the_least_number():
    assert power_of(10, 1.0) >= 0.8 > power_of(9, 1.0)


@pytest.mark.parametrize("pairs", [2, 5, 30])
def test_without_a_difference_it_errs_as_often_as_the_level_says(pairs):
    assert power_of(pairs, 0.0) == pytest.approx(0.05, abs=1e-5)


def test_no_difference_and_a_tiny_one_need_more_than_anybody_runs():
    assert pairs_needed(0.0, 1.0) == math.inf
    assert pairs_needed(0.08, 1.0) == math.inf
    assert pairs_needed(0.09, 1.0) == 971 < MOST


def test_a_huge_difference_still_needs_two():
    assert pairs_needed(50.0, 1.0) == 2


@pytest.mark.parametrize("df", [1, 2, 4, 9, 33, 200])
@pytest.mark.parametrize("noncentrality", [0.5, 3.0, 6.0])
def test_the_law_is_scipys(df, noncentrality):
    for t in (-2.0, 0.0, 2.0, 4.3, 12.7):
        assert noncentral_t(t, df, noncentrality) == pytest.approx(stats.nct.cdf(t, df, noncentrality), abs=2e-6)


@pytest.mark.parametrize(("spread", "level", "power"), [(0.0, 0.95, 0.8), (1.0, 1.0, 0.8), (1.0, 0.95, 0.3)])
def test_nonsense_is_refused(spread, level, power):
    with pytest.raises(InvalidArgument, match="give a spread above 0"):
        pairs_needed(1.0, spread, level=level, power=power)
