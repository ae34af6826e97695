"""Every registered consistency keeps the laws of a consistency, in any order of arrivals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardigrad.consistency import CONSISTENCIES, build_consistency
from tardigrad.testing import check_consistency

# name -> (spec, bound on steps ahead of the slowest). A new consistency needs its line here.
SPECS = {
    "asynchronous": [("asynchronous", None)],
    "ssp": [("ssp(0)", 0), ("ssp(1)", 1), ("ssp(3)", 3)],
    "synchronous": [
        ("synchronous", 0),
        ("synchronous(lr_scaling='linear')", 0),
        ("synchronous(wait_for=1)", None),
        ("synchronous(wait_for=2)", None),
        ("synchronous(wait_for=9)", 0),
    ],
}
CASES = [case for name in CONSISTENCIES.names() for case in SPECS[name]]
scripts = st.lists(st.integers(min_value=0, max_value=9_999), max_size=80)


@pytest.mark.parametrize(("spec", "bound"), CASES)
def test_every_consistency_keeps_the_laws(spec, bound):
    check_consistency(spec, bound=bound)


@pytest.mark.parametrize(("spec", "bound"), CASES)
@settings(max_examples=30)
@given(script=scripts, workers=st.integers(min_value=1, max_value=5))
def test_every_consistency_keeps_the_laws_in_any_order_of_arrivals(spec, bound, script, workers):
    check_consistency(spec, workers=workers, bound=bound, scripts=[script])


@pytest.mark.parametrize(("spec", "bound"), CASES)
def test_a_spec_builds_the_same_consistency_again(spec, bound):
    made = build_consistency(spec)
    again = build_consistency(made.spec)
    assert (type(again), again.spec) == (type(made), made.spec)
    assert again is not made
