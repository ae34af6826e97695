"""Time to a target: when the mean curve over the seeds first reaches it."""

import math

import pytest
from fake_runs import config, evaluations, summary, write_run

from tardigrad.metrics.arrivals import arrival, mean_curve, target
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs


def cell(tmp_path, curves, *, times=(10.0, 10.0), status=("finished", "finished"), metric="error"):
    for seed, (values, time, how) in enumerate(zip(curves, times, status, strict=True)):
        records = evaluations(values, "same", time=time, diverged=how == "diverged", metric=metric)
        write_run(tmp_path / str(seed), config=config(seed=seed), evaluations=records, summary=summary(how))
    c = compare_runs(find_runs(tmp_path))
    return c, c.series[0].cells[0]


def test_the_mean_curve_takes_the_kth_evaluations_together(tmp_path):
    c, one = cell(tmp_path, ([0.6, 0.4, 0.2], [0.8, 0.4, 0.3]), times=(10.0, 12.0))
    times, means = mean_curve(c, one)
    assert times == pytest.approx([11.0, 22.0, 33.0])
    assert means == pytest.approx([70.0, 40.0, 25.0])
    # The first seed alone is at 20 % after 30 s; the mean never is.
    assert arrival(c, one, 40.0) == pytest.approx(22.0)
    assert arrival(c, one, 39.9) == pytest.approx(33.0)
    assert arrival(c, one, 20.0) == math.inf


def test_a_diverged_seed_holds_the_mean_up(tmp_path):
    c, one = cell(tmp_path, ([0.6, 0.4, 0.2], [0.9]), status=("finished", "diverged"))
    assert mean_curve(c, one)[1] == pytest.approx([75.0, 65.0, 55.0])
    assert arrival(c, one, 54.0) == math.inf


def test_a_seed_without_a_number_leaves_no_curve(tmp_path):
    c, one = cell(tmp_path, ([0.6, 0.4], [None, None]))
    assert mean_curve(c, one) == ([], [])
    assert arrival(c, one, 90.0) == math.inf


def test_the_target_is_where_sequential_ends_and_the_tolerance(tmp_path):
    for seed, value in ((0, 0.30), (1, 0.32)):
        write_run(
            tmp_path / str(seed), config=config("sequential", workers=1, seed=seed),
            evaluations=evaluations([0.5, value], "same"), summary=summary(workers=1),
        )  # fmt: skip
    assert target(compare_runs(find_runs(tmp_path))) == pytest.approx(31.0 + 2.0)
    assert target(compare_runs(find_runs(tmp_path), tolerance=0.5)) == pytest.approx(31.5)


def test_without_sequential_there_is_no_target(tmp_path):
    c, _ = cell(tmp_path, ([0.6], [0.5]))
    assert target(c) is None
