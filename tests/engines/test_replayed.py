"""The replayed engine by itself: it obeys any source of events, can be paused, copies nothing, and knows nonsense."""

import math
from dataclasses import replace

import pytest
import torch

import tardigrad
from recorded_runs import NOISY, lines_of, record
from tardigrad.engines.base import Observer
from tardigrad.engines.parting import Parting
from tardigrad.engines.replayed import ReplayedEngine
from tardigrad.errors import Diverged, ReplayError
from tardigrad.replaying.reopening import reopen


class Events(Observer):
    """Collects a run's events in the form in which a log has them."""

    def __init__(self):
        self.lines = []

    def pulled(self, time, worker, snapshot):
        self.lines.append(["pull", time, worker, snapshot.incarnation, snapshot.version, _plain(snapshot.lease)])

    def committed(self, time, commit):
        parts = [
            [part.worker, part.incarnation, part.read_version, _plain(part.lease), part.samples, part.loss, part.norm]
            for part in commit.contributions
        ]
        self.lines.append(["commit", time, commit.version, commit.lr, commit.live, parts, commit.compensation_ratio])

    def held(self, time, push, result):
        read = result.version - result.staleness
        who = [push.worker, push.incarnation, read, _plain(push.lease), push.samples]
        self.lines.append(["held", time, *who, push.loss, push.norm])

    def rejected(self, time, push, result):
        read = result.version - result.staleness
        who = [push.worker, push.incarnation, read, _plain(result.lease)]
        self.lines.append(["reject", time, *who, result.reason, result.lost])

    def joined(self, time, worker, incarnation):
        self.lines.append(["join", time, worker, incarnation])

    def left(self, time, worker, incarnation, reason):
        self.lines.append(["leave", time, worker, incarnation, reason])

    def failed(self, time, failure):
        life = [failure.worker, failure.incarnation, failure.version]
        self.lines.append(["fail", time, *life, failure.kind, failure.exit_code, failure.traceback])


def _plain(lease):
    return None if lease is None else [lease.epoch, lease.start, lease.stop]


@pytest.fixture(scope="module", params=["asynchronous", "synchronous(wait_for=2)"])
def recorded(request, tmp_path_factory):
    """A run in which workers die, raise and push nonsense, and its events as an observer saw them."""
    watch = Events()
    chaos = "kill worker 1 at push 3; raise in worker 2 at push 4; corrupt push 5 of worker 0"
    place = tmp_path_factory.mktemp("recorded") / "run"
    run = record(place, consistency=request.param, chaos=chaos, epochs=3, observers=[watch])
    kinds = {line[0] for line in watch.lines}
    assert kinds >= {"pull", "commit", "reject", "join", "leave", "fail"}
    return run, watch.lines


def engine_of(run, events, *, observers=(), **changes):
    made = tardigrad.rule(run.config.rule, **changes.pop("rule", {"momentum": 0.9}))
    job, _ = reopen(run.directory).job(made, NOISY)
    return ReplayedEngine(replace(job, observers=observers), events, **changes)


def test_events_from_any_source_give_the_runs_weights(recorded):
    run, events = recorded
    engine = engine_of(run, events)
    assert engine.run()
    assert engine.parting.differences == {}
    assert all(torch.equal(a, b) for a, b in zip(engine.job.server.weights(), run.weights(), strict=True))
    buffers = engine.job.server.buffers.combined(engine.job.server.live)
    assert all(torch.equal(buffers[name], tensor) for name, tensor in run.state_dict().items() if name in buffers)


def test_whoever_watches_is_told_the_same(recorded):
    run, events = recorded
    watch = Events()
    engine_of(run, events, observers=[watch]).run()
    assert watch.lines == events


def test_a_log_as_it_stands_in_the_file_is_the_same_source(recorded):
    run, events = recorded
    told = [line for line in lines_of(run.directory)[1:] if line[0] not in ("digest", "note")]
    assert [[line[0], *line[2:]] for line in told if line[0] != "commit"] == [
        [line[0], *line[2:]] for line in events if line[0] != "commit"
    ]
    assert [line[5] for line in told if line[0] == "commit"] == [line[5] for line in events if line[0] == "commit"]


@pytest.mark.parametrize("pushes", [1, 7, 20])
def test_paused_and_restored_it_goes_on_as_if_nothing_had_happened(recorded, pushes):
    run, events = recorded
    asked = iter(range(1, pushes))
    first = engine_of(run, events)
    assert not first.run(lambda: next(asked, None) is None)
    state, before = first.state_dict(), first.parting.commits
    second = engine_of(run, events)
    second.load_state_dict(state)
    assert second.run()
    assert second.parting.differences == {}
    assert before + second.parting.commits == run.summary["commits"]
    assert torch.equal(second.job.server.flat, second.job.server.layout.pack(run.weights()))
    assert first.run(), "the one that was paused goes on as well"
    assert torch.equal(first.job.server.flat, second.job.server.flat)


def test_nothing_is_copied_but_what_the_server_copies(recorded):
    run, events = recorded
    engine = engine_of(run, events, evaluate_at=())
    engine.run()
    backups = run.summary["memory"]["backups"]
    assert engine.job.server.bytes_held()["backups"] <= backups
    snapshots = []

    class Kept(Observer):
        def pulled(self, time, worker, snapshot):
            own = engine.job.server.backups.of(worker)
            snapshots.append(snapshot.flat.data_ptr() == own.data_ptr())

    engine = engine_of(run, events, observers=[Kept()], evaluate_at=())
    engine.run()
    assert snapshots
    assert all(snapshots)


def test_it_ends_after_the_version_asked_for(recorded):
    run, events = recorded
    read = []
    engine = engine_of(run, (read.append(event) or event for event in events), until=5, evaluate_at=())
    assert engine.run()
    assert engine.job.server.version == 5
    assert read[-1][:1] + read[-1][2:3] == ["commit", 5]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (["dance", 0.0], "'dance' with 1 columns is no event"),
        (["pull", 0.0, 0], "'pull' with 2 columns is no event"),
        (["pull", 0.0, 0, 0, 3, [0, 0, 4]], "worker 0 reads version 3, but the last commit made version 0"),
        (["pull", 0.0, 9, 0, 0, [0, 0, 4]], "worker 9 does not take part"),
        (["commit", 0.0, 2, 0.1, 3, [[0, 0, 0, [0, 0, 4], 4, 1.0, 1.0]], None], "makes version 2, but the one before"),
        (["commit", 0.0, 1, 0.1, 3, [[0, 0, 0, [0, 0, 4], 4, 1.0, 1.0]], None], "worker 0 pushes, but it has not"),
        (["commit", 0.0, 1, 0.1, 3, [], None], "a commit is due only later"),
        (["reject", 0.0, 0, 0, 0, [0, 0, 4], "late", False], "worker 0 pushes, but it has not pulled"),
        (["join", 0.0, 0, 1], "worker 0 already takes part"),
        (["leave", 0.0, 9, 0, "failed"], "worker 9 does not take part"),
    ],
)
def test_what_cannot_be_is_refused_by_its_line(recorded, event, words):
    run, _ = recorded
    engine = engine_of(run, [event], evaluate_at=(), line=41)
    with pytest.raises(ReplayError, match=rf"line 41 of the log cannot follow the ones before it: .*{words}"):
        engine.run()


def test_a_push_that_was_refused_without_reason_is_a_contradiction(recorded):
    run, events = recorded
    pull = next(event for event in events if event[0] == "pull")
    reject = ["reject", 0.0, *pull[2:4], 0, pull[5], "stale", False]
    refused = pytest.raises(ReplayError, match="refused as stale, but nothing is wrong with it")
    with refused:
        engine_of(run, [pull, reject], evaluate_at=()).run()


def test_what_a_life_had_pulled_ends_with_it(recorded):
    run, events = recorded
    pull = next(event for event in events if event[0] == "pull")
    worker, lease = pull[2], pull[5]
    gone = [pull, ["leave", 0.0, worker, 0, "failed"], ["join", 0.0, worker, 1]]
    commit = ["commit", 0.0, 1, 0.05, 3, [[worker, 1, 0, lease, 4, 1.0, 1.0]], None]
    with pytest.raises(ReplayError, match=f"worker {worker} pushes, but it has not pulled"):
        engine_of(run, [*gone, commit], evaluate_at=()).run()


def test_refused_repeats_and_earlier_lives_change_nothing(recorded):
    run, events = recorded
    pull, *_ = (event for event in events if event[0] == "pull")
    odd = [
        pull,
        ["reject", 0.0, pull[2], 5, 0, pull[5], "incarnation", False],
        ["reject", 0.0, pull[2], 0, 0, pull[5], "duplicate", False],
        *events[events.index(pull) + 1 :],
    ]
    engine = engine_of(run, odd, evaluate_at=())
    assert engine.run()
    assert engine.parting.differences == {}


def test_under_a_rule_that_breaks_it_ends_as_diverged(tmp_path):
    run = tardigrad.train("quadratic", rule="clipping(max_norm=1e-3)", lr=1e4, workers=2, directory=tmp_path / "run")
    job, _ = reopen(run.directory).job(tardigrad.rule("asgd"), None)
    judged = []

    class Judged(Observer):
        def evaluated(self, evaluation):
            judged.append(evaluation)

    events = lines_of(run.directory)[1:]
    engine = ReplayedEngine(replace(job, observers=[Judged()]), events, evaluate_at={0})
    with pytest.raises(Diverged):
        engine.run()
    assert [evaluation.diverged for evaluation in judged] == [False, True]
    assert not engine.only_words_left()


# -- where they part -----------------------------------------------------------------------------------------


def digests(parting, version, equal):
    parting.digested(version, {"w": "a"}, {"w": "a" if equal else "b"})


def test_the_interval_is_as_wide_as_what_is_known():
    parting = Parting()
    assert parting.interval is None
    digests(parting, 0, True)
    for version in range(6):
        parting.pushed(version, equal=True)
    parting.pushed(9, equal=False)
    assert (parting.interval, parting.agrees_until) == ((0, 9), 5)
    parting.pushed(7, equal=False)  # one that was read earlier arrives later
    assert (parting.interval, parting.agrees_until) == ((0, 7), 5)
    parting.pushed(12, equal=True)  # a last bit may not show in loss and norm: this says nothing
    assert parting.equal_again is None
    digests(parting, 20, False)
    assert parting.interval == (0, 7)
    digests(parting, 21, True)
    assert parting.equal_again == 21
    assert [parting.tensors, parting.digested_at, parting.digests] == [["w"], 21, 3]


def test_another_gradient_on_equal_weights_is_not_the_weights_fault():
    parting = Parting()
    digests(parting, 3, True)
    parting.pushed(3, equal=False)
    assert (parting.interval, parting.computed_otherwise) == (None, 3)


def test_only_the_first_of_each_kind_is_kept():
    parting = Parting()
    parting.line = 7
    assert parting.check("loss", 1.0, 1.0, version=1)
    assert not parting.check("loss", 1.0, math.nextafter(1.0, 2.0), version=2, worker=5)
    parting.line = 8
    assert not parting.check("loss", 1.0, 3.0, version=3)
    (difference,) = parting.differences.values()
    assert str(difference) == "line 7: loss of worker 5 at version 2: the run 1.0, replayed 1.0000000000000002"
