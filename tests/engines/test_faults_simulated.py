"""Faults in virtual time: what each kind does, who is told, and that no sample is applied twice or forgotten."""

import math
import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import tardigrad
from tardigrad.assembling import assemble, resolve
from tardigrad.chaos import fault_plan
from tardigrad.engines.base import Limits, Observer
from tardigrad.engines.simulated import SimulatedEngine
from tardigrad.errors import AllWorkersLost, WorkerFailed
from tardigrad.faults import Fault, FaultPlan
from tardigrad.records import Lease
from tardigrad.rules.base import make_rule
from tardigrad.tasks.base import Split

SAMPLES, EPOCHS, BATCH = 120, 2, 10
SMALL = f"quadratic(dimension=3, samples={SAMPLES})"


class Tape(Observer):
    """Everything told, in order."""

    def __init__(self):
        self.events = []

    def pulled(self, time, worker, snapshot):
        self.events.append(("pull", time, worker, snapshot.incarnation, snapshot.version, snapshot.lease))

    def committed(self, time, commit):
        self.events.append(("commit", time, commit))

    def rejected(self, time, push, result):
        self.events.append(("reject", time, push.worker, result.reason, result.lost))

    def held(self, time, push, result):
        self.events.append(("held", time, push.worker, push.lease))

    def joined(self, time, worker, incarnation):
        self.events.append(("join", time, worker, incarnation))

    def left(self, time, worker, incarnation, reason):
        self.events.append(("leave", time, worker, incarnation, reason))

    def failed(self, time, failure):
        self.events.append(("fail", time, failure))

    def digested(self, version, digests):
        self.events.append(("digest", version, dict(digests)))

    def of(self, *kinds):
        return [event for event in self.events if event[0] in kinds]

    @property
    def commits(self):
        return [event[2] for event in self.of("commit")]


def engine(chaos="", *, task=None, limits=None, life=0, **changes):
    """An engine of four workers whose gradients take one second each, and the tape of what it tells."""
    chosen = {"workers": 4, "epochs": EPOCHS, "batch_size": BATCH, "delay": "constant(1)", "rule": "dc-asgd-a"}
    config, made = resolve(task or "quadratic", **({} if task else {"task": SMALL}), **{**chosen, **changes})
    job, tape = assemble(config, made, make_rule(config.rule, optimizer=config.optimizer)), Tape()
    plan = chaos
    if isinstance(chaos, str):
        plan = fault_plan(chaos, workers=config.workers, pushes=SAMPLES * EPOCHS // BATCH)
    return SimulatedEngine(replace(job, faults=plan, observers=[tape], limits=limits or Limits(), life=life)), tape


def run(chaos="", **changes):
    made, tape = engine(chaos, **changes)
    assert made.run()
    return made, tape


def require_laws(made, tape, *, samples=SAMPLES, epochs=EPOCHS):
    """Versions without a gap, staleness as it should be, every sample of every epoch once, or lost."""
    leases = made.job.server.leases
    commits = tape.commits
    assert [commit.version for commit in commits] == list(range(1, len(commits) + 1))
    for commit in commits:
        own = next(part for part in commit.contributions if part.worker == commit.worker)
        assert commit.staleness == commit.version - 1 - own.read_version >= 0
    done = Counter((part.lease.epoch, at) for c in commits for part in c.contributions
                   for at in range(part.lease.start, part.lease.stop))  # fmt: skip
    lost = Counter((lease.epoch, at) for lease, _ in leases.lost for at in range(lease.start, lease.stop))
    assert done + lost == Counter((epoch, at) for epoch in range(epochs) for at in range(samples))
    assert leases.over
    lives = [(failure.worker, failure.incarnation) for _, _, failure in tape.of("fail")]
    assert len(set(lives)) == len(lives)


def push_times(tape, worker):
    """When this worker's pushes were committed."""
    return [event[1] for event in tape.of("commit") if event[2].worker == worker]


def test_a_cut_link_holds_one_push_up_and_a_delay_every_one_from_then_on():
    made, tape = run("cut worker 2 at push 3 for 20 s; delay worker 1 by 250 ms from push 2", workers=3)
    require_laws(made, tape)
    assert push_times(tape, 2)[:4] == [1.0, 2.0, 23.0]
    assert push_times(tape, 1)[:4] == [1.0, 2.5, 4.0, 5.5]  # there and back
    assert push_times(tape, 0)[:3] == [1.0, 2.0, 3.0]
    assert not tape.of("fail")


def test_a_killed_workers_push_never_arrives_and_its_samples_go_to_the_next():
    made, tape = run("kill worker 2 at push 3 after 0.25 of a step")
    (_, time, failure), = tape.of("fail")  # fmt: skip
    assert time == 2.25
    assert (failure.worker, failure.incarnation, failure.kind, failure.exit_code) == (2, 0, "died", -signal.SIGKILL)
    assert (failure.version, failure.traceback) == (8, "")
    at = tape.events.index(("fail", time, failure))
    held = [event for event in tape.events[:at] if event[:3] == ("pull", 2.0, 2)]
    assert tape.events[at + 1 : at + 4] == [
        ("leave", 2.25, 2, 0, "failed"), ("join", 2.25, 2, 1), ("pull", 2.25, 2, 1, 8, held[0][5]),
    ]  # fmt: skip
    require_laws(made, tape)
    assert {part.incarnation for commit in tape.commits for part in commit.contributions if part.worker == 2} == {0, 1}


def test_a_raising_worker_leaves_its_traceback():
    made, tape = run("raise in worker 1 at push 2")
    (_, time, failure), = tape.of("fail")  # fmt: skip
    assert (time, failure.kind, failure.exit_code) == (2.0, "raised", None)
    assert failure.traceback == "RuntimeError: as planned, worker 1 raises at its push 2\n"
    require_laws(made, tape)


def test_a_hung_worker_is_noticed_when_its_time_is_up():
    limits = Limits(hang_after=5.0, first_step=9.0)
    made, tape = run("hang worker 0 at push 1; hang worker 1 at push 2", limits=limits)
    assert [(time, failure.worker, failure.kind) for _, time, failure in tape.of("fail")] == [
        (1.0 + 5.0, 1, "hung"), (9.0, 0, "hung"),
    ]  # fmt: skip
    require_laws(made, tape)


def test_the_first_gradient_of_a_new_life_may_take_its_time_too():
    limits = Limits(hang_after=2.0, first_step=3.0)
    _, tape = run("kill worker 0 at push 2 after 0 of a step; hang worker 0 at push 3", limits=limits)
    assert [time for _, time, _ in tape.of("fail")] == [1.0, 1.0 + 3.0]


def test_a_paused_workers_push_comes_later_and_counts():
    made, tape = run("pause worker 3 at push 1 for 2.5 s")
    assert next(event[1] for event in tape.of("commit") if event[2].worker == 3) == 3.5
    assert not tape.of("fail", "leave", "join", "reject")
    require_laws(made, tape)


def test_a_corrupted_push_is_rejected_and_the_next_one_is_clean():
    made, tape = run("corrupt push 2 of worker 0")
    assert tape.of("reject") == [("reject", 2.0, 0, "non-finite", False)]
    assert torch.isfinite(made.job.server.flat).all()
    assert all(math.isfinite(part.norm) for commit in tape.commits for part in commit.contributions)
    require_laws(made, tape)


def test_a_lease_corrupted_three_times_is_lost():
    plan = "; ".join(f"corrupt push {n} of worker 0" for n in (1, 2, 3))
    made, tape = run(plan, workers=1)
    assert [event[3:] for event in tape.of("reject")] == [("non-finite", False)] * 2 + [("non-finite", True)]
    assert made.job.server.leases.lost == [(Lease(0, 0, BATCH), "non-finite")]
    require_laws(made, tape)


def test_who_fails_too_often_is_given_up_and_the_others_finish():
    plan = "; ".join(f"kill worker 0 at push {n}" for n in (1, 2, 3))
    made, tape = run(plan, limits=Limits(max_restarts=2))
    assert [event[3] for event in tape.of("join")] == [1, 2]
    assert [event[0] for event in tape.of("fail", "leave", "join")][-2:] == ["fail", "leave"]
    assert made.job.server.live == [1, 2, 3]
    assert {commit.worker for commit in tape.commits} == {1, 2, 3}
    require_laws(made, tape)


def test_when_all_are_lost_it_says_so_and_a_resumed_run_begins_again():
    plan = "kill worker 0 at push 3; raise in worker 1 at push 2"
    made, _ = engine(plan, workers=2, limits=Limits(max_restarts=0))
    with pytest.raises(AllWorkersLost, match="no worker is left at version 3") as caught:
        made.run()
    assert [failure.worker for failure in caught.value.failures] == [1, 0]
    assert caught.value.version == made.job.server.version == 3
    again, tape = engine(plan, workers=2, limits=Limits(max_restarts=0))
    again.load_state_dict(made.state_dict())
    assert again.run()
    assert [event[2:] for event in tape.of("join")] == [(0, 1), (1, 1)]
    assert again.job.server.leases.over


def test_a_failure_ends_the_run_if_that_is_asked():
    made, tape = engine("raise in worker 1 at push 2", limits=Limits(on_failure="raise"))
    with pytest.raises(WorkerFailed, match=r"Worker 1 \(life 0\) raised at version 5.\nRuntimeError: as planned"):
        made.run()
    assert [event[0] for event in tape.events[-2:]] == ["fail", "leave"]


def test_a_round_that_waited_for_the_dead_worker_only_is_committed_at_once():
    made, tape = run("hang worker 3 at push 1", consistency="synchronous", limits=Limits(first_step=7.0))
    at = next(place for place, event in enumerate(tape.events) if event[0] == "fail")
    assert [event[0] for event in tape.events[at : at + 4]] == ["fail", "leave", "commit", "join"]
    first = tape.commits[0]
    assert [part.worker for part in first.contributions] == [0, 1, 2]
    assert first.live == 3
    assert [event[2] for event in tape.of("held")][:3] == [0, 1, 2]
    require_laws(made, tape)


def test_a_worker_whose_push_waits_dies_and_returns_and_the_push_counts_once():
    """Not in the simulator, where a worker whose push waits computes nothing; by hand, as an engine does it."""
    made, _ = engine(consistency="synchronous", workers=2)
    server = made.job.server
    for worker in (0, 1):
        server.pull(worker)
    waiting = server.push(0, torch.ones(3))
    server.leave(0)
    assert server.join(0) == 1
    assert server.ready() == []
    commit = server.push(1, torch.ones(3))
    assert not hasattr(waiting, "contributions")
    assert [(part.worker, part.incarnation) for part in commit.contributions] == [(0, 0), (1, 0)]
    assert server.ready() == [0, 1]
    assert server.pull(0).lease == Lease(0, 20, 30)
    assert server.leases.applied == 20


def test_a_new_life_does_not_begin_with_the_statistics_of_a_push_that_waited():
    made, _ = engine(task=NOISY, consistency="synchronous", workers=2)
    server, ones = made.job.server, torch.ones(made.job.server.layout.size)
    for worker in (0, 1):
        server.pull(worker)
    mean = "1.running_mean"
    statistics = [{name: torch.full_like(b, n) for name, b in made.job.body.buffers.items()} for n in (5, 7)]
    server.push(0, ones, buffers=statistics[0])
    server.leave(0)
    server.join(0)
    server.push(1, ones, buffers=statistics[1])
    assert torch.equal(server.pull(0).buffers[mean], statistics[1][mean])  # the mean over those that live


def test_the_server_kills_itself_after_the_commit_of_that_version(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "kill", lambda pid, sign: ended.append((pid, sign, made.job.server.version)))
    made, _ = engine("kill server at version 7; kill server at version 21")
    made.run()
    assert ended[0] == (os.getpid(), signal.SIGKILL, 7)
    ended.clear()
    made, _ = engine("kill server at version 7; kill server at version 21", life=1)
    made.run()
    assert ended[0][2] == 21
    ended.clear()
    made, _ = engine("kill server at version 7; kill server at version 21", life=2)
    made.run()
    assert ended == []


@pytest.mark.parametrize(("every", "versions"), [(0, [0, 12, 24]), (10, [10, 20, 24]), (12, [12, 24])])
def test_weights_are_digested_at_evaluations_or_at_intervals_and_at_the_end(every, versions):
    made, tape = run(limits=Limits(digest_every=every))
    assert [version for _, version, _ in tape.of("digest")] == versions
    at = [place for place, event in enumerate(tape.events) if event[0] == "digest"]
    assert [tape.events[place - 1][2].version for place in at if place] == [version for version in versions if version]
    assert tape.of("digest")[-1][2] == made.job.server.layout.digests(made.job.server.flat)


CONSISTENCIES = ("asynchronous", "ssp(0)", "ssp(2)", "synchronous", "synchronous(wait_for=2)")
counted = {"worker": st.integers(0, 3), "at": st.integers(1, 9)}
ends = st.builds(Fault, kind=st.sampled_from(("kill", "raise", "hang")), moment=st.floats(0.0, 0.9), **counted)
delays = st.builds(Fault, kind=st.just("pause"), seconds=st.floats(0.0, 40.0), **counted)
spoilt = st.builds(Fault, kind=st.just("corrupt"), **counted)
plans = st.lists(ends | delays | spoilt, max_size=14, unique_by=lambda fault: (fault.worker, fault.at)).map(FaultPlan)
runs = {
    "consistency": st.sampled_from(CONSISTENCIES),
    "leases": st.sampled_from(("dynamic", "static")),
    "batch_size": st.sampled_from((BATCH, (20, 5, 10, 40))),
    "delay": st.sampled_from(("constant(1)", "exponential")),
    "max_staleness": st.sampled_from((None, 2)),
}


@settings(max_examples=150)
@given(plan=plans, changes=st.fixed_dictionaries(runs), restarts=st.integers(0, 4))
def test_whatever_goes_wrong_it_ends_with_every_sample_once_or_lost(plan, changes, restarts):
    made, tape = engine(plan, limits=Limits(max_restarts=restarts, hang_after=3.0, first_step=5.0), **changes)
    try:
        assert made.run()
    except AllWorkersLost:
        assert made.job.server.live == []
        again, rest = engine(plan, limits=Limits(max_restarts=9), **changes)
        again.load_state_dict(made.state_dict())
        assert again.run()
        made, rest.events = again, tape.events + rest.events
        tape = rest
    require_laws(made, tape)


NOISY = tardigrad.Task(
    name="noisy",
    model=lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2)),
    loss=functional.cross_entropy,
    train=Split(torch.linspace(-1.0, 1.0, 3 * SAMPLES).reshape(SAMPLES, 3), torch.arange(SAMPLES) % 2),
    test=Split(torch.linspace(-1.0, 1.0, 12).reshape(4, 3), torch.arange(4) % 2),
)


@settings(max_examples=40)
@given(plan=plans, changes=st.fixed_dictionaries(runs), pauses=st.integers(1, 20))
def test_a_resumed_run_meets_the_same_faults_and_ends_bit_for_bit_alike(plan, changes, pauses):
    """With BatchNorm and dropout, so that buffers and random draws must go on as well."""
    limits = Limits(max_restarts=20, hang_after=3.0, first_step=5.0)
    whole, everything = run(plan, limits=limits, task=NOISY, lr=0.05, **changes)
    first, tape = engine(plan, limits=limits, task=NOISY, lr=0.05, **changes)
    asked = iter(range(1, pauses))
    done = first.run(lambda: next(asked, None) is None)
    if not done:
        second, rest = engine(plan, limits=limits, task=NOISY, lr=0.05, **changes)
        second.load_state_dict(first.state_dict())
        assert second.run()
        first, tape.events = second, tape.events + rest.events
    assert torch.equal(first.job.server.flat, whole.job.server.flat)
    assert tape.events == everything.events
    ours, theirs = (made.job.server.buffers.combined(made.job.server.live) for made in (first, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
