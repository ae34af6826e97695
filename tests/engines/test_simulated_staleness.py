"""The simulator against theory: who is how stale, given how long gradients take."""

from collections import Counter

import pytest
from scipy import stats

import tardigrad
from tardigrad.engines.base import Observer
from tardigrad.theory.staleness import mean_staleness, staleness_law


class Staleness(Observer):
    """Counts staleness per worker; the first commits, before the queue of pushes is mixed, do not count."""

    def __init__(self, skip: int) -> None:
        self.counts: dict[int, Counter[int]] = {}
        self.skip = skip

    def committed(self, time, commit):
        if commit.version > self.skip:
            for part in commit.contributions:
                self.counts.setdefault(part.worker, Counter())[commit.version - 1 - part.read_version] += 1


def simulate(tmp_path, **settings):
    watch = Staleness(skip=200)
    tardigrad.train(
        "quadratic",
        task="quadratic(dimension=2, samples=1000)",
        rule="asgd",
        batch_size=1,
        lr=0.001,
        evaluate_every=100,
        measure_every=0,
        directory=tmp_path / "run",
        observers=[watch],
        **settings,
    )
    return watch.counts


def test_unequal_exponential_workers_have_the_mean_staleness_of_theory(tmp_path):
    speeds = (1.0, 2.0, 0.5, 4.0)
    counts = simulate(tmp_path, workers=4, speeds=speeds, epochs=5, delay="exponential(mean=1.0)")
    for worker, expected in enumerate(mean_staleness(speeds)):
        values = list(counts[worker].elements())
        mean = sum(values) / len(values)
        # geometric: variance (1-p)/p^2 = mean (1 + mean); four standard errors
        allowed = 4.0 * (expected * (1.0 + expected) / len(values)) ** 0.5
        assert abs(mean - expected) < allowed, (worker, mean, expected)


def test_equal_exponential_workers_have_geometric_staleness(tmp_path):
    workers = 8
    counts = simulate(tmp_path, workers=workers, epochs=5, delay="exponential(mean=1.0)")
    total = sum(counts.values(), Counter())
    observed, expected, rest = [], [], sum(total.values())
    for k, share in enumerate(staleness_law([1.0] * workers, 0, 40)):
        observed.append(total[k])
        expected.append(share * sum(total.values()))
    observed.append(rest - sum(observed))
    expected.append(rest - sum(expected))
    # neighbouring staleness values of one worker are independent, pushes of different workers nearly so
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_constant_equal_delays_are_a_round_robin(tmp_path):
    counts = simulate(tmp_path, workers=5, epochs=1, delay="constant(1)")
    assert {k for own in counts.values() for k in own} == {4}


def test_a_worker_of_twice_the_speed_computes_twice_the_gradients(tmp_path):
    counts = simulate(tmp_path, workers=2, speeds=(2.0, 1.0), epochs=3, delay="constant(1)")
    assert sum(counts[0].values()) == pytest.approx(2 * sum(counts[1].values()), abs=2)


@pytest.mark.parametrize("rates", [[], [0.0], [1.0, float("nan")], [-1.0]])
def test_rates_out_of_range_are_refused(rates):
    with pytest.raises(tardigrad.errors.InvalidArgument, match="rates="):
        mean_staleness(rates)
