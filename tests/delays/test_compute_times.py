"""The time each worker takes: streams of their own, speeds, stragglers, a state; runs of the simulator."""

import numpy as np
import pytest
from delay_examples import SPECS, spec_of

import tardigrad
from tardigrad.delays import DELAYS, ComputeTimes, build_delay
from tardigrad.errors import InvalidArgument


def times(workers, spec="exponential", **settings):
    settings = {"seed": 0, "reference": 10, **settings}
    return ComputeTimes(build_delay(spec), workers=workers, **settings)


def test_every_delay_has_an_example():
    assert set(SPECS) == DELAYS._builtin


@pytest.mark.parametrize("name", SPECS)
def test_another_worker_changes_nobody_elses_delays(name, tmp_path):
    spec = spec_of(name, tmp_path)
    few, many = times(4, spec), times(9, spec)
    for worker in (1, 3):
        assert [few.next(worker, 10) for _ in range(50)] == [many.next(worker, 10) for _ in range(50)]


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"constant", "trace"}))
def test_workers_and_seeds_draw_from_streams_of_their_own(name):
    mixed, alone, other = times(2, SPECS[name]), times(2, SPECS[name]), times(2, SPECS[name], seed=1)
    first, second = [], []
    for _ in range(4):
        first.append(mixed.next(0, 10))
        second.append(mixed.next(1, 10))
    assert first == [alone.next(0, 10) for _ in range(4)]
    assert first != second
    assert first != [other.next(0, 10) for _ in range(4)]


@pytest.mark.parametrize("name", SPECS)
def test_from_a_state_the_delays_go_on_as_if_nothing_had_happened(name, tmp_path):
    settings = {"straggler_probability": 0.3, "straggler_factor": 10.0}
    here, there = (times(5, spec_of(name, tmp_path), **settings) for _ in range(2))
    for worker in (0, 4, 4, 1, 0, 4):
        here.next(worker, 7)
    there.load_state_dict(here.state_dict())
    order = [0, 1, 2, 3, 4] * 4
    assert [here.next(worker, 10) for worker in order] == [there.next(worker, 10) for worker in order]


def test_a_delay_that_knows_its_workers_is_told_which_one_draws(tmp_path):
    recorded = times(3, spec_of("trace", tmp_path))
    assert [recorded.next(worker, 10) for worker in range(3)] == [1.0, 2.5, 4.0]


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


@pytest.mark.parametrize("name", SPECS)
def test_the_simulator_runs_with_every_delay(name, tmp_path):
    """One epoch of 8 workers: all samples applied, and the staleness that every asynchronous schedule has."""
    settings = {"rule": "asgd", "workers": 8, "epochs": 4, "lr": 0.02, "delay": spec_of(name, tmp_path)}
    run = tardigrad.train("quadratic", directory=tmp_path / "run", **settings)
    assert run.summary["status"] == "finished"
    assert run.summary["epoch"] == 4.0
    assert run.summary["staleness"]["mean"] == pytest.approx(7.0, abs=0.5)
    assert run.evaluations[-1].scores["test"]["excess loss"] < 0.5 * run.evaluations[0].scores["test"]["excess loss"]
    times_ = [evaluation.time for evaluation in run.evaluations]
    assert times_ == sorted(times_)
    assert times_[-1] > 0
