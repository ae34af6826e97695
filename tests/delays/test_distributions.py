"""Independent delays: means, spreads and distribution functions against closed forms; values out of range."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardigrad.delays import build_delay
from tardigrad.errors import InvalidArgument
from tardigrad.seeding import random_stream

COUNT = 40_000


def draw(spec, count=COUNT, seed=0):
    one = build_delay(spec).draws(random_stream(seed, "test"))
    return np.array([one() for _ in range(count)])


def erlang(shape, scale):
    """Distribution function of a gamma distribution whose shape is a whole number."""
    return lambda x: 1.0 - math.exp(-x / scale) * sum((x / scale) ** k / math.factorial(k) for k in range(shape))


# (spec, mean, coefficient of variation, distribution function)
CLOSED_FORMS = [
    ("exponential", 1.0, 1.0, lambda x: 1 - math.exp(-x)),
    ("exponential(mean=2)", 2.0, 1.0, lambda x: 1 - math.exp(-x / 2)),
    ("gamma(mean=2, machine_cv=0, task_cv=0.5)", 2.0, 0.5, erlang(4, 0.5)),
    ("lognormal", 1.0, math.sqrt(math.exp(0.25) - 1), lambda x: NormalDist(-0.125, 0.5).cdf(math.log(x))),
    ("uniform", 1.0, 1 / math.sqrt(12), lambda x: min(1.0, max(0.0, x - 0.5))),
    ("uniform(low=0, high=6)", 3.0, 1 / math.sqrt(3), lambda x: min(1.0, x / 6)),
    ("shifted-exponential", 1.0, 0.5, lambda x: 1 - math.exp(-2 * max(0.0, x - 0.5))),
    ("shifted-exponential(shift=1, mean=4)", 4.0, 0.75, lambda x: 1 - math.exp(-max(0.0, x - 1) / 3)),
    ("pareto", 1.0, 1 / math.sqrt(1.25), lambda x: 1 - min(1.0, 0.6 / x) ** 2.5),
    ("pareto(shape=6, mean=3)", 3.0, 1 / math.sqrt(24), lambda x: 1 - min(1.0, 2.5 / x) ** 6),
]


@pytest.mark.parametrize(("spec", "mean", "cv", "below"), CLOSED_FORMS, ids=[c[0] for c in CLOSED_FORMS])
def test_mean_and_distribution_within_four_standard_errors(spec, mean, cv, below):
    values = draw(spec)
    assert (values > 0).all()
    assert abs(values.mean() - mean) < 4 * mean * cv / math.sqrt(COUNT)
    for x in (0.3 * mean, 0.7 * mean, mean, 1.4 * mean, 3 * mean):
        p = below(x)
        assert abs((values <= x).mean() - p) <= 4 * math.sqrt(p * (1 - p) / COUNT)


@pytest.mark.parametrize(("spec", "mean", "cv", "_"), CLOSED_FORMS, ids=[c[0] for c in CLOSED_FORMS])
def test_coefficient_of_variation(spec, mean, cv, _):
    """By the second moment; its own error is estimated from the draws, which a Pareto of shape below 4 has none of."""
    if spec == "pareto":
        return
    squares = (draw(spec, seed=1) / mean - 1) ** 2
    assert abs(squares.mean() - cv**2) < 4 * squares.std() / math.sqrt(COUNT)


@pytest.mark.parametrize("spec", ["constant(3)", "gamma(mean=3, machine_cv=0, task_cv=0)", "uniform(low=3, high=3)"])
def test_delays_without_spread(spec):
    assert set(draw(spec, 50)) == {3.0}


def test_gamma_machines_differ_by_their_own_coefficient():
    means = [
        np.mean([one() for _ in range(200)])
        for one in (
            build_delay("gamma(mean=1, machine_cv=0.6, task_cv=0.1)").draws(random_stream(0, "machine", m))
            for m in range(400)
        )
    ]
    assert np.mean(means) == pytest.approx(1.0, rel=0.1)
    assert np.std(means) == pytest.approx(0.6, rel=0.12)


seconds = st.floats(min_value=1e-6, max_value=1e6)


@given(shift=seconds, beyond=seconds, seed=st.integers(0, 2**32))
def test_a_shifted_exponential_is_never_below_its_shift(shift, beyond, seed):
    values = draw(f"shifted-exponential(shift={shift!r}, mean={shift + beyond!r})", 20, seed)
    assert (values >= shift).all()
    assert np.isfinite(values).all()


@given(low=st.just(0.0) | seconds, width=seconds, seed=st.integers(0, 2**32))
def test_a_uniform_delay_is_positive_and_within_its_bounds(low, width, seed):
    values = draw(f"uniform(low={low!r}, high={low + width!r})", 20, seed)
    assert ((values >= low) & (values > 0) & (values <= low + width)).all()


@given(shape=st.floats(min_value=1.001, max_value=50.0), mean=seconds, seed=st.integers(0, 2**32))
def test_a_pareto_delay_is_never_below_its_least(shape, mean, seed):
    values = draw(f"pareto(shape={shape!r}, mean={mean!r})", 20, seed)
    assert (values >= mean * (shape - 1) / shape).all()
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("constant(0)", r"delay 'constant': seconds=0 is not a number in \(0, inf\)"),
        ("exponential(mean=inf)", r"delay 'exponential': mean=inf is not a number in \(0, inf\)"),
        ("gamma(task_cv=-1)", r"delay 'gamma': task_cv=-1 is not a number in \[0, 10\]"),
        ("lognormal(sigma=nan)", r"delay 'lognormal': sigma=nan is not a number in \[0, 10\]"),
        ("uniform(low=-1)", r"delay 'uniform': low=-1 is not a number in \[0, inf\)"),
        ("uniform(low=0, high=0)", r"delay 'uniform': high=0 is not a number in \(0, inf\)"),
        ("uniform(low=2)", r"delay 'uniform': low=2 is above high=1.5; give the smaller one first"),
        ("shifted-exponential(shift=-0.1)", r"delay 'shifted-exponential': shift=-0.1 is not a number in \[0, inf\)"),
        ("shifted-exponential(shift=1)", r"shift=1 is not below mean=1.0, which is the mean of the whole delay"),
        ("shifted-exponential(mean='1')", r"delay 'shifted-exponential': mean='1' is not a number in \(0, inf\)"),
        ("pareto(shape=1)", r"delay 'pareto': shape=1 is not a number in \(1, inf\)"),
        ("pareto(mean=0)", r"delay 'pareto': mean=0 is not a number in \(0, inf\)"),
        ("pareto(tail=2)", r"delay 'pareto' has no keyword 'tail'"),
        ("uniforme", r"unknown delay 'uniforme'. Did you mean 'uniform'"),
    ],
)
def test_values_out_of_range_are_refused_with_a_sentence(spec, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        build_delay(spec)
