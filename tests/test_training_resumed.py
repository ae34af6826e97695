"""A run that was stopped or killed and goes on is bit for bit the run that was not."""

import json
import math
import subprocess
import sys
from itertools import count, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import tardigrad
from tardigrad import saving
from tardigrad.engines.base import Observer
from tardigrad.errors import Diverged, RunDirectoryError, Stopped
from tardigrad.leases import epoch_permutation
from tardigrad.tasks.base import ERROR, Split
from tardigrad.training import require_room, resume

RULES = ("asgd", "dc-asgd-a", "dc-asgd-a(shared=True)", "staleness-lr")
CONSISTENCIES = ("asynchronous", "ssp(2)", "synchronous", "synchronous(wait_for=3)")


def task(bad_sample=None):
    """Two classes, a model with BatchNorm and dropout; a sample may be infinite, so that its gradient is not finite."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=stream)
    y = (x[:, 0] > 0).long()
    if bad_sample is not None:
        x[bad_sample, 0] = math.inf
    parts = [Split(x[a:b], y[a:b]) for a, b in ((0, 60), (60, 75), (75, 90))]
    return tardigrad.Task(
        name="noisy",
        model=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)),
        loss=functional.cross_entropy,
        metric=ERROR,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
    )


NOISY = task()
SETTINGS = {
    "workers": 4, "batch_size": 4, "epochs": 2, "lr": 0.05, "schedule": "step(at=(1,), gamma=0.5)", "warmup": 0.5,
    "evaluate_every": 0.3, "measure_every": 3, "delay": "gamma(machine_cv=0.6, task_cv=0.5)",
    "straggler_probability": 0.2, "straggler_factor": 4.0, "service": 0.2,
}  # fmt: skip


def train(place, /, *, of=NOISY, **changes):
    made = tardigrad.rule(changes.pop("rule", "dc-asgd-a"), momentum=changes.pop("momentum", 0.9))
    return tardigrad.train(of, rule=made, directory=place, **{**SETTINGS, **changes})


def after(pushes):
    """A wish to stop that comes up with that many pushes."""
    asked = iter(range(1, pushes))
    return lambda: next(asked, None) is None


def train_in_parts(place, stops, **changes):
    """Stop after so many pushes each, then to the end."""
    for pushes in stops:
        with pytest.raises(Stopped):
            train(place, stop=after(pushes), **changes)
        assert not (place / "summary.json").exists()
    return train(place, **changes)


def test_there_is_room_for_a_run_that_an_error_ended_and_none_for_another_that_has_ended(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, stop=after(5))
    (tmp_path / "summary.json").write_text('{"status": "interrupted"}')
    require_room(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    with pytest.raises(RunDirectoryError, match="holds a finished run"):
        require_room(tmp_path)


def read(place):
    """All that a run directory says, but for wall times and environment."""
    evaluations = [json.loads(line) for line in (place / "evaluations.jsonl").read_text().splitlines()]
    summary = json.loads((place / "summary.json").read_text())
    for record in (*evaluations, summary):
        del record["wall"]
    for record in (*evaluations, summary["evaluations"]):
        del record["seconds"]
    names = {path.name for path in place.iterdir()}
    weights = (place / "weights.safetensors").read_bytes()
    return (place / "log.jsonl").read_bytes(), evaluations, json.dumps(summary), weights, names


def require_same(run, whole):
    for ours, theirs in zip(read(run.directory), read(whole.directory), strict=True):
        assert ours == theirs
    mine, others = run.state_dict(), whole.state_dict()
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)
    for one, other in zip(run.evaluations, whole.evaluations, strict=True):
        assert (one.epoch, one.version, one.train_loss, one.scores) == (
            other.epoch, other.version, other.train_loss, other.scores,
        )  # fmt: skip


@pytest.mark.parametrize(("rule", "consistency"), list(product(RULES, CONSISTENCIES)))
def test_a_run_stopped_twice_equals_the_whole_run(tmp_path, rule, consistency):
    changes = {"rule": rule, "consistency": consistency}
    whole = train(tmp_path / "whole", **changes)
    require_same(train_in_parts(tmp_path / "parts", (7, 9), **changes), whole)


@settings(max_examples=25)
@given(
    stops=st.lists(st.integers(1, 12), min_size=1, max_size=2),
    changes=st.fixed_dictionaries(
        {
            "rule": st.sampled_from(RULES),
            "consistency": st.sampled_from(CONSISTENCIES),
            "momentum": st.sampled_from((0.0, 0.9)),
            "leases": st.sampled_from(("dynamic", "static")),
            "batchnorm": st.sampled_from(("mean", "latest", "recalibrate")),
            "max_staleness": st.sampled_from((None, 1, 3)),
            "batch_size": st.sampled_from((4, (2, 8, 4, 6))),
            "delay": st.sampled_from((SETTINGS["delay"], "phases(fast_for=3, slow_for=3)", "constant(1)")),
            "service": st.sampled_from((0.0, 0.2)),
        }
    ),
)
def test_wherever_and_however_it_is_stopped(tmp_path_factory, stops, changes):
    place = tmp_path_factory.mktemp("run")
    require_same(train_in_parts(place / "parts", stops, **changes), train(place / "whole", **changes))


def test_rejections_and_lost_samples_are_not_forgotten(tmp_path):
    """The bad sample is leased three times and then given up; each stop lies between two of its rejections."""
    changes = {"of": task(bad_sample=7), "epochs": 3}
    whole = train(tmp_path / "whole", **changes)
    assert whole.summary["rejected"] == {"non-finite": 9}
    assert whole.summary["lost_samples"] == 3 * 4
    for stops in ((4, 5, 5), (9, 11), (17, 1, 1, 1)):
        require_same(train_in_parts(tmp_path / str(stops), stops, **changes), whole)


@pytest.mark.parametrize("batchnorm", ["mean", "latest"])
def test_the_last_evaluation_is_not_made_twice(tmp_path, batchnorm):
    """The last lease is given up, so the run ends at the version that was evaluated before the stop."""
    last = int(epoch_permutation(60, 0, 0)[-1])
    changes = {"of": task(bad_sample=last), "workers": 1, "epochs": 1, "evaluate_every": 0.01, "batchnorm": batchnorm}
    whole = train(tmp_path / "whole", **changes)
    assert [evaluation.version for evaluation in whole.evaluations] == list(range(15))
    require_same(train_in_parts(tmp_path / "parts", (15,), **changes), whole)


def test_how_many_gradients_in_a_row_were_not_finite_is_not_forgotten(tmp_path):
    every = Split(torch.full((40, 6), math.inf), torch.zeros(40, dtype=torch.long))
    bad = tardigrad.Task(name="bad", model=lambda: nn.Linear(6, 2), loss=functional.cross_entropy,
                         metric=ERROR, train=every, validation=NOISY.validation, test=NOISY.test)  # fmt: skip
    ends = []
    for place, stops in ((tmp_path / "whole", ()), (tmp_path / "parts", (8,))):
        with pytest.raises(Diverged) as caught:
            train_in_parts(place, stops, of=bad, rule="asgd")
        ends.append((str(caught.value), *read(place)))
    assert ends[0] == ends[1]
    assert "13 gradients" in ends[0][0]


def test_two_pushes_that_arrive_together_keep_their_order(tmp_path):
    changes = {"delay": "constant(1)", "straggler_probability": 0.0, "service": 0.0}
    whole = train(tmp_path / "whole", **changes)
    for pushes in (1, 2, 3, 5):
        require_same(train_in_parts(tmp_path / str(pushes), (pushes,), **changes), whole)


class Watch(Observer):
    def __init__(self):
        self.versions = []

    def committed(self, time, commit):
        self.versions.append(commit.version)


def test_a_run_stopped_after_each_push_comes_to_its_end(tmp_path):
    changes = {"epochs": 1, "consistency": "synchronous"}
    watch, told = Watch(), []
    for _ in range(14):
        with pytest.raises(Stopped) as caught:
            train(tmp_path / "parts", stop=lambda: True, observers=[watch], **changes)
        told.append((caught.value.directory, caught.value.version - len(watch.versions)))
    assert told == [(tmp_path / "parts", 0)] * 14
    run = train(tmp_path / "parts", stop=lambda: True, **changes)  # the 15th push is the last: nothing is left to stop
    assert watch.versions == [1, 2, 3]
    require_same(run, train(tmp_path / "whole", **changes))


def test_what_was_done_after_the_checkpoint_is_undone_and_kept(tmp_path):
    class Struck(Observer):
        def committed(self, time, commit):
            if commit.version == 12:
                raise KeyboardInterrupt

    place, whole = tmp_path / "parts", train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(place, stop=after(5))
    with pytest.raises(KeyboardInterrupt):
        train(place, observers=[Struck()])
    assert json.loads((place / "summary.json").read_text())["status"] == "interrupted"
    log, evaluations = ((place / name).read_bytes() for name in ("log.jsonl", "evaluations.jsonl"))
    with pytest.raises(Stopped):
        train(place, stop=after(2))
    assert not [name for name in ("summary.json", "weights.safetensors") if (place / name).exists()]
    undone = [(place / f"undone-1{name}.jsonl").read_bytes() for name in ("", "-evaluations")]
    assert undone[0].startswith(b'["commit",')
    assert len(undone[1].splitlines()) >= 1
    assert log.endswith(undone[0])
    assert evaluations.endswith(undone[1])
    with pytest.raises(KeyboardInterrupt):
        train(place, observers=[Struck()])
    run = train(place)
    known = sorted(path.name for path in place.glob("undone-*"))
    assert known == [f"undone-{number}{name}.jsonl" for number in (1, 2) for name in ("-evaluations", "")]
    for name in known:
        (place / name).unlink()
    require_same(run, whole)


def test_checkpoints_come_after_so_many_minutes(tmp_path, monkeypatch):
    """A clock that goes on by 20 s whenever it is read: at the beginning, after each push, after each checkpoint."""
    written, clock = [], count(step=20.0)
    write = saving.write_checkpoint

    def noted(directory, state, *, version, **rest):
        written.append(version)
        return write(directory, state, version=version, **rest)

    monkeypatch.setattr(saving, "write_checkpoint", noted)
    monkeypatch.setattr(saving, "perf_counter", lambda: next(clock))
    train(tmp_path / "run", checkpoint_every=1.0, epochs=1)
    assert written == [3, 6, 9, 12]
    train(tmp_path / "never", stop=lambda: False, epochs=1)
    assert written == [3, 6, 9, 12]


KILLED = """
import os, signal, sys
import tardigrad
from tardigrad.engines.base import Observer

class Killer(Observer):
    def committed(self, time, commit):
        if commit.version == 20:
            os.kill(os.getpid(), signal.SIGKILL)

tardigrad.train("quadratic", rule="dc-asgd-a", epochs=1, checkpoint_every=1e-9, observers=[Killer()],
                directory=sys.argv[1])
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], timeout=120)
    assert done.returncode == -9
    assert len(list((tmp_path / "killed").glob("checkpoint-*.json"))) == 2
    watch = Watch()
    run = resume(tmp_path / "killed", observers=[watch], checkpoint_every=0.0)
    assert watch.versions[0] == 20
    for path in (tmp_path / "killed").glob("undone-*"):
        path.unlink()
    require_same(run, tardigrad.train("quadratic", rule="dc-asgd-a", epochs=1, directory=tmp_path / "whole"))


def test_without_a_checkpoint_an_unfinished_run_begins_anew(tmp_path):
    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "run", stop=after(9))
    for path in (tmp_path / "run").glob("checkpoint-*.json"):  # as if it had been killed in the middle of writing it
        path.unlink()
    assert list((tmp_path / "run").glob("checkpoint-*"))
    with pytest.raises(RunDirectoryError, match="no run that can go on"):
        resume(tmp_path / "run")
    require_same(train(tmp_path / "run"), whole)


def test_another_configuration_is_refused_and_nothing_is_changed(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, stop=after(9))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changes, words in (({"lr": 0.1}, "lr=0.05, not 0.1"), ({"rule": "asgd"}, r"rule='dc-asgd-a\(.*, not 'asgd'")):
        with pytest.raises(RunDirectoryError, match=f"stopped run with {words}"):
            train(tmp_path, **changes)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert train(tmp_path, label="another name", checkpoint_every=5.0).summary["status"] == "finished"


def test_a_finished_or_missing_run_is_not_resumed(tmp_path):
    train(tmp_path / "run", epochs=1)
    for place in (tmp_path / "run", tmp_path / "nowhere"):
        with pytest.raises(RunDirectoryError, match="no run that can go on"):
            resume(place)


def test_the_environments_of_a_resumed_run_are_all_recorded(tmp_path):
    run = train_in_parts(tmp_path / "run", (9, 3))
    recorded = json.loads((run.directory / "environment.json").read_text())
    assert [one["commits"] for one in recorded["resumed"]] == [9, 12]
    assert all(one["torch"] == torch.__version__ for one in (recorded, *recorded["resumed"]))


def test_the_older_checkpoint_serves_when_the_newer_one_is_torn(tmp_path):
    whole = train(tmp_path / "whole")
    for pushes in (6, 5):
        with pytest.raises(Stopped):
            train(tmp_path / "run", stop=after(pushes))
    newest = tmp_path / "run" / "checkpoint-11.json"
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"checkpoint-11.json is torn .* goes on from checkpoint-6.json"):
        run = train(tmp_path / "run")
    (tmp_path / "run" / "undone-1.jsonl").unlink()
    (tmp_path / "run" / "undone-1-evaluations.jsonl").unlink(missing_ok=True)
    require_same(run, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("consistency", CONSISTENCIES)
def test_a_run_on_cuda_goes_on_on_cuda(tmp_path, consistency):
    changes = {"device": "cuda", "consistency": consistency}
    whole, run = train(tmp_path / "whole", **changes), train_in_parts(tmp_path / "parts", (7, 9), **changes)
    require_same(run, whole)
    assert {tensor.device.type for tensor in run.state_dict().values()} == {"cuda"}


def test_what_a_stop_raises_is_not_a_stop(tmp_path):
    def broken():
        raise OSError("the wish was lost")

    with pytest.raises(OSError, match="the wish was lost"):
        train(tmp_path / "run", stop=broken)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
