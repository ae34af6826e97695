"""Lives: what follows when a worker fails, is removed or is added."""

from dataclasses import replace

import pytest
import torch

from tardigrad.assembling import assemble, resolve
from tardigrad.engines.base import Limits, Observer
from tardigrad.engines.lives import Lives
from tardigrad.errors import AllWorkersLost, WorkerFailed
from tardigrad.records import Failure
from tardigrad.rules.base import make_rule


class Told(Observer):
    def __init__(self):
        self.events = []

    def joined(self, time, worker, incarnation):
        self.events.append(("join", time, worker, incarnation))

    def left(self, time, worker, incarnation, reason):
        self.events.append(("leave", time, worker, incarnation, reason))

    def failed(self, time, failure):
        self.events.append(("fail", time, failure))


def lives(workers=2, *, limits=None, epochs=1, **settings):
    config, task = resolve("quadratic", workers=workers, epochs=epochs, **settings)
    told = Told()
    job = replace(assemble(config, task, make_rule("asgd")), observers=[told], limits=limits or Limits())
    commits = []
    return Lives(job, lambda time, commit: commits.append((time, commit))), job.server, told, commits


def died(worker, incarnation=0):
    return Failure(worker, incarnation, "died", version=0, exit_code=-9)


def test_a_failed_worker_begins_its_next_life_until_it_had_too_many():
    made, server, told, _ = lives(limits=Limits(max_restarts=1))
    assert made.failed(1.0, died(0)) is True
    assert made.failed(2.0, died(0, 1)) is False
    assert told.events == [
        ("fail", 1.0, died(0)), ("leave", 1.0, 0, 0, "failed"), ("join", 1.0, 0, 1),
        ("fail", 2.0, died(0, 1)), ("leave", 2.0, 0, 1, "failed"),
    ]  # fmt: skip
    assert (server.live, made.given_up, made.restarts) == ([1], [0], {0: 1})


def test_the_last_one_lost_ends_the_run_and_a_resumed_one_begins_with_all_of_them():
    made, server, _, _ = lives(limits=Limits(max_restarts=0))
    made.failed(1.0, died(1))
    with pytest.raises(AllWorkersLost, match="at version 0") as caught:
        made.failed(2.0, died(0))
    assert caught.value.failures == [died(1), died(0)]
    again, server, told, _ = lives(limits=Limits(max_restarts=0))
    for worker in (0, 1):
        server.leave(worker)
    again.load_state_dict(made.state_dict())
    assert again.given_up == [0, 1]
    assert again.revive(3.0) == [0, 1]
    assert (server.live, again.given_up, again.restarts) == ([0, 1], [], {})
    assert [event[:3] for event in told.events] == [("join", 3.0, 0), ("join", 3.0, 1)]


def test_nobody_is_revived_while_somebody_is_there():
    made, server, _, _ = lives(limits=Limits(max_restarts=0))
    made.failed(1.0, died(1))
    assert made.revive(2.0) == []
    assert server.live == [0]


def test_the_last_one_may_fail_when_all_is_done():
    made, server, _, _ = lives(limits=Limits(max_restarts=0), epochs=0)
    assert [made.failed(1.0, died(worker)) for worker in (0, 1)] == [False, False]
    assert server.live == []


def test_a_failure_ends_the_run_if_asked_and_is_told_first():
    made, _, told, _ = lives(limits=Limits(on_failure="raise"))
    with pytest.raises(WorkerFailed, match="Worker 1"):
        made.failed(1.0, died(1))
    assert [event[0] for event in told.events] == ["fail", "leave"]


def test_a_round_that_waited_for_the_one_that_leaves_is_committed():
    made, server, told, commits = lives(consistency="synchronous")
    for worker in (0, 1):
        server.pull(worker)
    server.push(0, torch.ones(20))
    made.leave(4.0, 1, 0, "removed")
    (time, commit), = commits  # fmt: skip
    assert (time, commit.version, commit.live) == (4.0, 1, 1)
    assert told.events == [("leave", 4.0, 1, 0, "removed")]
    assert made.given_up == []
