"""The simulator: determinism, virtual time, and what an epoch means."""

import json

import pytest
import torch

import tardigrad
from tardigrad.engines.base import Observer
from tardigrad.errors import Diverged, InvalidArgument
from tardigrad.logs import read_events


def run(tmp_path, name="run", **settings):
    settings = {"workers": 4, "epochs": 2, "rule": "dc-asgd-a", **settings}
    return tardigrad.train("quadratic", directory=tmp_path / name, **settings)


class Events(Observer):
    def __init__(self):
        self.events = []

    def pulled(self, time, worker, snapshot):
        self.events.append(("pull", time, worker, snapshot.lease))

    def committed(self, time, commit):
        self.events.append(("commit", time, commit.worker, commit.contributions[0].lease))


def test_the_same_seed_gives_bitwise_equal_weights(tmp_path):
    one, two = run(tmp_path, "one"), run(tmp_path, "two")
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), two.weights(), strict=True))
    assert (one.directory / "log.jsonl").read_text() == (two.directory / "log.jsonl").read_text()
    other = run(tmp_path, "other", seed=1)
    assert not all(torch.equal(a, b) for a, b in zip(one.weights(), other.weights(), strict=True))


def test_rules_of_one_seed_share_start_delays_and_samples(tmp_path):
    logs = []
    for rule in ("asgd", "dc-asgd", "staleness-lr"):
        watch = Events()
        run(tmp_path, rule, rule=rule, observers=[watch])
        logs.append(watch.events)
    assert logs[0] == logs[1] == logs[2]


@pytest.mark.parametrize("leases", ["dynamic", "static"])
@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(0)", "ssp(2)", "synchronous", "synchronous(wait_for=3)"])
@pytest.mark.parametrize("batch_size", [24, (8, 40, 8, 16)])
def test_every_sample_of_every_epoch_is_applied_exactly_once(tmp_path, leases, consistency, batch_size):
    done = run(tmp_path, leases=leases, consistency=consistency, batch_size=batch_size, delay="exponential")
    seen = {}
    for line in (done.directory / "log.jsonl").read_text().splitlines()[1:]:
        event = json.loads(line)
        if event[0] == "commit":
            for _, _, _, (epoch, start, stop), samples, *_ in event[5]:
                assert samples == stop - start
                seen.setdefault(epoch, []).extend(range(start, stop))
    assert {epoch: sorted(samples) for epoch, samples in seen.items()} == {e: list(range(1024)) for e in (0, 1)}
    assert done.summary["samples"] == 2048


def test_synchronous_time_is_the_slowest_of_each_round(tmp_path):
    settings = {"workers": 2, "speeds": (1.0, 0.25), "delay": "constant(1)", "epochs": 1, "batch_size": 128}
    synchronous = run(tmp_path, "synchronous", consistency="synchronous", **settings)
    asynchronous = run(tmp_path, "asynchronous", **settings)
    assert synchronous.evaluations[-1].time == 4 * 4.0  # 8 batches in 4 rounds of 4 s
    # asynchronous: the slow worker takes 2 batches in 8 s, the fast one the other 6 in 6 s
    assert asynchronous.evaluations[-1].time == 8.0


def test_batches_by_speed_let_a_slow_worker_hold_nobody_up(tmp_path):
    settings = {"workers": 2, "speeds": (1.0, 0.25), "delay": "constant(1)", "epochs": 1}
    done = run(tmp_path, consistency="synchronous", batch_size=(128, 32), **settings)
    commits = [event for event in read_events(done.directory) if event[0] == "commit"]
    assert [[part[4] for part in event[5]] for event in commits] == [*[[128, 32]] * 6, [64]]
    assert done.evaluations[-1].time == 6.5  # a second for each whole round, half a one for half a batch


def test_the_server_serves_one_push_at_a_time(tmp_path):
    done = run(tmp_path, workers=4, delay="constant(1)", service=2.0, epochs=1, batch_size=128)
    assert done.evaluations[-1].time == 1.0 + 8 * 2.0  # all wait in one queue that never runs empty


def test_the_network_costs_latency_and_bytes_each_way(tmp_path):
    quick = run(tmp_path, "quick", workers=1, delay="constant(1)", epochs=1, batch_size=256)
    slow = run(tmp_path, "slow", workers=1, delay="constant(1)", epochs=1, batch_size=256, latency=0.5, bandwidth=80.0)
    assert quick.evaluations[-1].time == 4.0
    assert slow.evaluations[-1].time == pytest.approx(4.0 * (1.0 + 2 * (0.5 + 20 * 4 / 80.0)))


def test_a_smaller_last_batch_takes_its_share_of_the_time(tmp_path):
    done = run(tmp_path, workers=1, delay="constant(1)", epochs=1, batch_size=1000)
    assert done.evaluations[-1].time == pytest.approx(1.024)


def test_stragglers_take_their_factor(tmp_path):
    done = run(
        tmp_path,
        workers=1,
        delay="constant(1)",
        epochs=1,
        batch_size=64,
        straggler_probability=1.0,
        straggler_factor=3.0,
    )
    assert done.evaluations[-1].time == pytest.approx(16 * 3.0)


def test_too_old_pushes_are_rejected_and_their_samples_computed_again(tmp_path):
    done = run(tmp_path, workers=8, max_staleness=3, delay="exponential")
    assert done.summary["rejected"]["stale"] > 0
    assert done.summary["staleness"]["max"] <= 3
    assert done.summary["samples"] == 2048
    kept = run(tmp_path, "kept", workers=8, max_staleness=3, on_stale="reweight", delay="exponential")
    assert kept.summary["rejected"] == {}
    assert kept.summary["staleness"]["max"] > 3


def test_evaluations_come_every_epoch_and_at_the_end(tmp_path):
    done = run(tmp_path, epochs=3, batch_size=100)
    assert [round(e.epoch) for e in done.evaluations] == [0, 1, 2, 3]
    assert done.evaluations[0].version == 0
    assert done.evaluations[-1].samples == 3 * 1024
    finer = run(tmp_path, "finer", epochs=1, evaluate_every=0.25, batch_size=16)
    assert len(finer.evaluations) == 5


def test_a_diverged_run_is_recorded_to_its_end(tmp_path):
    with pytest.raises(Diverged, match=r"version \d+.*smaller lr") as caught:
        run(tmp_path, rule="asgd", lr=500.0, epochs=20)
    assert str(tmp_path / "run") in caught.value.__notes__[0]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "diverged"
    last = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert last["diverged"] is True
    assert last["version"] == caught.value.version == summary["version"]


def test_an_infinite_loss_of_finite_weights_has_diverged(tmp_path):
    # the quadratic's loss overflows float32 long before its weights do
    with pytest.raises(Diverged, match="the loss is no longer finite"):
        run(tmp_path, rule="asgd", workers=16, lr=0.4, epochs=20, batch_size=16)
    evaluations = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [e.get("diverged", False) for e in evaluations] == [False] * (len(evaluations) - 1) + [True]
    assert evaluations[-1]["test"]["loss"] is None


def test_no_epochs_means_no_commits(tmp_path):
    done = run(tmp_path, epochs=0)
    assert done.summary["commits"] == 0
    assert len(done.evaluations) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"speeds": (1.0, 2.0)}, "2 factors for 4 workers"),
        ({"speeds": (1.0, 2.0, 0.0, 1.0)}, "speeds"),
        ({"delay": "exponential(mean=-1)"}, "mean"),
        ({"delay": "gamma(machine_cv=nan)"}, "machine_cv"),
        ({"delay": "sleepy"}, "unknown delay 'sleepy'"),
        ({"straggler_probability": 1.5}, "straggler_probability"),
        ({"batch_size": (1, 2)}, "2 sizes for 4 workers"),
        ({"consistency": "ssp"}, "ssp"),
        ({"engine": "imaginary"}, "unknown engine"),
        ({"device": "gpu"}, "cpu, cuda"),
        ({"device": "mps"}, "not supported"),
        ({"device": "cuda:99"}, "not here"),
    ],
)
def test_bad_settings_get_a_sentence_and_write_nothing(tmp_path, settings, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        run(tmp_path, **settings)
    assert not (tmp_path / "run").exists()
