"""Phases: a gradient spans them as it should; long-run mean, first phase and spread against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardigrad.delays import build_delay
from tardigrad.errors import InvalidArgument
from tardigrad.seeding import random_stream


class Script:
    """Stands for a stream: the first phase and the durations of all are given."""

    def __init__(self, first, durations):
        self.first, self.durations, self.means = first, iter(durations), []

    def random(self):
        return self.first

    def exponential(self, mean):
        self.means.append(mean)
        return next(self.durations)


def test_a_gradient_goes_on_at_the_new_speed_when_the_phase_changes():
    stream = Script(0.0, [1.5, 20.0, 100.0])  # fast for 1.5 s, slow for 20 s, fast for 100 s
    one = build_delay("phases(fast=1, slow=10, fast_for=30, slow_for=15, task_cv=0)").draws(stream)
    # 1 | half in 0.5 s, half in 5 s | 10 | the slow phase's last 5 s do a half, then 0.5 s | fast
    assert [one() for _ in range(5)] == [1.0, 5.5, 10.0, 5.5, 1.0]
    assert stream.means == [30.0, 15.0, 30.0]


def test_a_gradient_may_span_many_phases():
    one = build_delay("phases(fast=1, slow=4, fast_for=1, slow_for=1, task_cv=0)").draws(
        Script(0.0, [0.25, 1.0, 0.25, 9.0])
    )
    assert one() == 0.25 + 1.0 + 0.25 + 0.25 * 4  # a quarter of the work in each


@pytest.mark.parametrize(("first", "pace"), [(0.66, 1.0), (0.67, 10.0)])
def test_the_first_phase_is_the_one_met_at_a_random_moment(first, pace):
    """Fast for two thirds of the time."""
    delay = build_delay("phases(fast=1, slow=10, fast_for=40, slow_for=20, task_cv=0)")
    assert delay.draws(Script(first, [1000.0]))() == pace


WORKERS, GRADIENTS = 1000, 60


@pytest.mark.parametrize(
    ("fast", "slow", "fast_for", "slow_for", "task_cv"),
    [(0.75, 3.0, 40.0, 20.0, 0.1), (1.0, 8.0, 5.0, 12.0, 0.0), (0.5, 2.0, 0.6, 0.4, 0.5), (1.0, 1.0, 3.0, 3.0, 0.3)],
)
def test_mean_and_spread_within_four_standard_errors(fast, slow, fast_for, slow_for, task_cv):
    """Counted in work, a phase ends at the rates a and b; the pace is then a process of rate r = a + b."""
    spec = f"phases(fast={fast}, slow={slow}, fast_for={fast_for}, slow_for={slow_for}, task_cv={task_cv})"
    ones = [build_delay(spec).draws(random_stream(0, "phases", worker)) for worker in range(WORKERS)]
    values = np.array([[one() for _ in range(GRADIENTS)] for one in ones])
    a, b = fast / fast_for, slow / slow_for
    r, slow_share, slow_time = a + b, a / (a + b), slow_for / (fast_for + slow_for)
    mean = (fast_for + slow_for) / (fast_for / fast + slow_for / slow)

    def damped(gradients):
        """E exp(-r W), W the work in so many gradients."""
        return (1 + r * task_cv**2) ** (-gradients / task_cv**2) if task_cv else math.exp(-r * gradients)

    totals = values.sum(1)
    first = (slow_time - slow_share) * (slow - fast) / r * (1 - damped(GRADIENTS))  # it starts at a random moment
    assert abs(totals.mean() - GRADIENTS * mean - first) < 4 * totals.std() / math.sqrt(WORKERS)
    if damped(GRADIENTS) < 1e-3:  # the last gradient has forgotten the start
        squares = (values[:, -1] - mean) ** 2
        variance = (slow - fast) ** 2 * slow_share * (1 - slow_share) * 2 / r**2 * (r - 1 + damped(1))
        assert abs(squares.mean() - variance - (task_cv * mean) ** 2) < 4 * squares.std() / math.sqrt(WORKERS)


def test_without_a_difference_it_is_a_gamma_delay():
    values = [build_delay("phases(fast=2, slow=2, task_cv=0)").draws(random_stream(0, "p"))() for _ in range(20)]
    assert values == pytest.approx([2.0] * 20)


def test_a_slow_gradient_is_followed_by_slow_ones():
    """What independent draws do not do: neighbours in time are alike."""
    one = build_delay("phases").draws(random_stream(0, "phases"))
    slow = np.array([one() for _ in range(20_000)]) > 1.5
    assert slow[1:][slow[:-1]].mean() > 0.75 > 0.25 > slow.mean()


lasting = st.floats(min_value=0.1, max_value=1e4)


@given(fast=lasting, slower=st.floats(1.0, 50.0), fast_for=lasting, slow_for=lasting, seed=st.integers(0, 2**32))
def test_without_noise_every_gradient_lies_between_fast_and_slow(fast, slower, fast_for, slow_for, seed):
    slow = fast * slower
    fast_for, slow_for = fast_for * fast, slow_for * slow
    spec = f"phases(fast={fast!r}, slow={slow!r}, fast_for={fast_for!r}, slow_for={slow_for!r}, task_cv=0)"
    one = build_delay(spec).draws(random_stream(seed, "phases"))
    for _ in range(20):
        assert fast * (1 - 1e-9) <= one() <= slow * (1 + 1e-9)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("phases(fast=0)", r"delay 'phases': fast=0 is not a number in \(0, inf\)"),
        ("phases(slow_for=inf)", r"delay 'phases': slow_for=inf is not a number in \(0, inf\)"),
        ("phases(task_cv=-1)", r"delay 'phases': task_cv=-1 is not a number in \[0, 10\]"),
        ("phases(fast=2, slow=1)", r"fast=2 is above slow=1; both are seconds for a gradient"),
        ("phases(slow_for=0.001)", r"slow_for=0.001 is less than a thousandth of a gradient"),
    ],
)
def test_values_out_of_range_are_refused_with_a_sentence(spec, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        build_delay(spec)
