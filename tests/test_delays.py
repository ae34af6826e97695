"""Delays: their means and spreads, streams of their own, bad values."""

import numpy as np
import pytest

from tardigrad.delays import ComputeTimes, build_delay
from tardigrad.errors import InvalidArgument
from tardigrad.seeding import random_stream


def draw(spec, count=20_000, seed=0):
    one = build_delay(spec).draws(random_stream(seed, "test"))
    return np.array([one() for _ in range(count)])


@pytest.mark.parametrize(
    ("spec", "mean", "cv"),
    [
        ("constant(3)", 3.0, 0.0),
        ("exponential(mean=2)", 2.0, 1.0),
        ("gamma(mean=2, machine_cv=0, task_cv=0.3)", 2.0, 0.3),
        ("gamma(mean=2, machine_cv=0, task_cv=0)", 2.0, 0.0),
        ("lognormal(mean=2, sigma=0.5)", 2.0, np.sqrt(np.exp(0.25) - 1.0)),
    ],
)
def test_mean_and_coefficient_of_variation(spec, mean, cv):
    values = draw(spec)
    assert (values > 0).all()
    assert values.mean() == pytest.approx(mean, rel=0.03)
    assert values.std() / values.mean() == pytest.approx(cv, rel=0.05, abs=1e-9)


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


def times(workers, **settings):
    settings = {"seed": 0, "reference": 10, **settings}
    return ComputeTimes(build_delay("exponential"), workers=workers, **settings)


def test_another_worker_changes_nobody_elses_delays():
    few, many = times(2), times(5)
    assert [few.next(1, 10) for _ in range(5)] == [many.next(1, 10) for _ in range(5)]


def test_workers_draw_from_streams_of_their_own():
    mixed, alone = times(2), times(2)
    first = []
    for _ in range(4):
        first.append(mixed.next(0, 10))
        mixed.next(1, 10)
    assert first == [alone.next(0, 10) for _ in range(4)]


def test_speeds_and_batch_sizes_scale_the_delay():
    plain, fast = times(1), times(1, speeds=(4.0,))
    assert fast.next(0, 5) == pytest.approx(plain.next(0, 10) / 8.0)


def test_stragglers_have_their_probability_and_do_not_shift_the_other_draws():
    plain, luck = times(1), times(1, straggler_probability=0.25, straggler_factor=10.0)
    ratios = np.array([luck.next(0, 10) / plain.next(0, 10) for _ in range(4000)])
    assert set(np.round(ratios, 6)) == {1.0, 10.0}
    assert (ratios > 5).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("settings", [{"straggler_factor": 0.5}, {"straggler_probability": -0.1}, {"speeds": (-1.0,)}])
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(InvalidArgument, match=next(iter(settings))):
        times(1, **settings)
