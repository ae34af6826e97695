"""What an engine knows of agents, without any: halls, offices, who is waited for, who is given up."""

import os
import queue
import signal
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
from joined_stubs import FACTS, Bridge, Channel, Recruiter, Told, arrival, placed

from tardigrad.assembling import assemble, resolve
from tardigrad.engines.base import Meeting
from tardigrad.engines.joined.base import JoinedBase
from tardigrad.engines.joined.casting import JoinedCast
from tardigrad.engines.joined.hall import Hall
from tardigrad.engines.joined.office import Office
from tardigrad.engines.joined.reaching import Reach
from tardigrad.engines.joined.scripted import JoinedScriptEngine
from tardigrad.engines.joined.wishes import Wishes
from tardigrad.engines.local.lodging import Processes
from tardigrad.errors import AllWorkersLost, InvalidArgument, ProtocolError, SessionError, ShardLost
from tardigrad.records import Failure
from tardigrad.rules.base import make_rule


@pytest.fixture
def hall(tmp_path):
    made = Hall(Meeting(tmp_path, trusted_network=True), FACTS, None, 1)
    yield made
    made.close(finished=True)


# -- a shard that is gone ----------------------------------------------------------------------------------------------


class Post:
    """To a desk: what it reports, and then its end."""

    def __init__(self):
        self.reports = queue.SimpleQueue()

    def send(self, word, content, tensors):
        pass

    def receive(self):
        report = self.reports.get()
        if isinstance(report, Exception):
            raise report
        return report

    def close(self):
        self.reports.put(EOFError())


@pytest.mark.parametrize("end", [EOFError(), OSError("gone"), ProtocolError("?"), ("in", {}, {})])
def test_an_office_says_which_shard_it_hears_no_more_but_not_when_it_is_closed(end):
    gone, posts = queue.SimpleQueue(), [Post(), Post()]
    office = Office(posts, [], gone=gone.put)
    posts[1].reports.put(end)
    assert gone.get(timeout=30.0) == 2
    office.close()
    assert gone.empty()


def test_a_shard_that_is_gone_ends_the_run_in_the_engines_thread(hall):
    hall.lose_shard(2)
    hall.host = SimpleNamespace()
    with pytest.raises(ShardLost) as raised:
        hall.attend()
    assert raised.value.shard == 2
    hall.lose_shard(1)
    hall.dismiss(finished=True)
    hall.attend()


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("gone"), ProtocolError("it received what was never sent")])
def test_a_channel_on_which_a_worker_cannot_go_on_is_closed_and_it_was_not_reached(error):
    one, channel = placed(), Channel()
    one._bridge, one.cut_since = Bridge(fails=error), 5.0
    assert one.go_on(channel, 0) is None
    assert channel.closed
    assert one.cut_since == 5.0
    assert one._bridge.closed == isinstance(error, ProtocolError)


def test_while_a_link_is_to_be_cut_nobody_is_reached(hall):
    one, channel, reached = placed(), Channel(), []
    one._bridge, one._not_before = Bridge(), float("inf")
    hall._places[0], one.place = one, "p"
    hall.host = SimpleNamespace(reached=lambda *given, **more: reached.append(given))
    resumes = SimpleNamespace(life=one.life, received=0)
    hall._arrived(arrival(channel=channel, resumes=resumes))
    assert channel.closed
    assert not reached
    one._not_before = 0.0
    hall._arrived(arrival(resumes=resumes))
    assert [worker for worker, _ in reached] == [0]


def test_whether_something_came_since_the_last_time_is_known():
    one = placed()
    one._bridge = Bridge(came=3)
    found = []
    for came in (3, 3, 4):
        one._bridge.came = came
        assert one.go_on(Channel(), 0) == 0.0
        found.append(one.moved)
    assert found == [True, False, True]


def test_an_agent_that_waited_too_long_to_be_there_still_is_given_no_worker(hall):
    seated = []
    hall.host = SimpleNamespace(arrived=seated.append)
    late, soon = arrival(), arrival()
    hall._arrived(replace(late, until=late.until - hall.patience - 1.0))
    hall._arrived(soon)
    assert seated == [soon]
    assert late.channel.closed


def test_what_an_agent_sends_and_nobody_understands_is_said(hall):
    one, said = placed(), []
    one.why, one._bridge = "no message", Bridge()
    hall._places[0] = one
    hall.host = SimpleNamespace(broken=lambda worker, why: said.append((worker, why)))
    hall._told(one, "ended", one.connection)
    assert said == [(0, "no message")]
    assert one._bridge.closed


def test_connections_over_which_nothing_comes_are_made_less_and_less_often(monkeypatch):
    reach = Reach(lambda: "", None, keep_trying=0.0, afterwards=0.0, tell=lambda words: None)
    pauses = []
    monkeypatch.setattr(reach, "rest", pauses.append)
    for moved in [False] * 12 + [True, False]:
        reach.lost(moved=moved)
    assert pauses[:12] == sorted(pauses[:12])
    assert (pauses[0], pauses[11], pauses[12]) == (0.1, 5.0, 0.1)


# -- halls -------------------------------------------------------------------------------------------------------------


def test_where_nobody_can_be_recruited_nothing_is_left_open(tmp_path):
    recruiter = Recruiter(InvalidArgument("no cluster"))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument, match="no cluster"):
        Hall(Meeting(tmp_path, trusted_network=True), FACTS, recruiter, 1)
    host, _, port = recruiter.address.rpartition(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), 5.0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert recruiter.closed
    assert not (tmp_path / "join.json").exists()


def test_what_a_recruiter_says_is_said_once_while_the_first_worker_of_a_script_is_waited_for(tmp_path):
    recruiter, told = Recruiter(), Told()
    hall = Hall(Meeting(tmp_path, trusted_network=True), FACTS, recruiter, 2)
    cast = object.__new__(JoinedCast)
    cast.hall, cast.seats, cast._wanted, cast._stop, cast._observers = hall, {}, 2, None, [told]
    recruiter.words = ["waiting for nodes"]
    cast._look()
    cast._look()
    assert (told.notes, recruiter.wanted) == (["waiting for nodes"], [2])
    hall.close(finished=True)


# -- engines -----------------------------------------------------------------------------------------------------------


class Engine(JoinedBase):
    """Counts what it is told; no worker of it computes."""

    def _begin(self): ...
    def _is_over(self): ...
    def _read(self, station): ...
    def _applied(self, now, commit): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...

    computation = "none"

    def _is_idle(self, station):
        return True

    def _start(self, worker):
        self.started.append(worker)

    def _drop(self, worker):
        self.dropped.append(worker)

    def _start_ready(self):
        self.ready.append(self._all_came())


def engine(hall, *, workers=3):
    config, task = resolve("quadratic", workers=workers, epochs=1)
    job = replace(assemble(config, task, make_rule("asgd")), meeting=hall.meeting)
    made = Engine(job)
    made._hall, made.started, made.dropped, made.ready = hall, [], [], []
    made._lives.alone = False
    hall.host = made
    return made


def test_workers_that_have_not_come_can_be_removed_and_the_run_begins_without_them(hall):
    made = engine(hall)
    made._expected = {1, 2}
    made._resize(1)
    assert made._expected == set()
    assert made.dropped == [2, 1] or made.dropped == [1, 2]
    assert made.ready[-1]


def raised(worker, incarnation=0):
    return Failure(worker, incarnation, "raised", 0, 1, "Traceback")


def test_all_are_lost_only_where_every_place_that_ever_was_has_failed_too_often(hall):
    made = engine(hall, workers=2)
    for worker, place in enumerate(("a", "b")):
        hall.seat(arrival(place), worker)
    first, second = (hall.placed(worker) for worker in (0, 1))
    for worker in (0, 1):
        made._lives.leave(0.0, worker, 0, "failed")
    made._spent.append(raised(0))
    hall.spend(first)
    made._require_hope()
    hall.spend(second)
    with pytest.raises(AllWorkersLost):
        made._require_hope()


def test_time_is_given_only_to_a_worker_from_which_something_came(hall):
    made, postponed = engine(hall), []
    made._stations[0] = SimpleNamespace(postpone=postponed.append)
    made.reached(0, 3.0, moved=False)
    assert not postponed
    made.reached(0, 3.0, moved=True)
    assert postponed == [3.0 + hall.patience]


def test_whoever_was_lost_is_made_up_for_before_a_new_number_is_given(hall):
    made = engine(hall)
    made._lives.leave(0.0, 2, 0, "failed")
    made._lives.leave(0.0, 1, 0, "drained")
    made._owed = {2}
    made.arrived(arrival())
    assert made.started == [2]
    assert made._owed == set()


def scripts(*, stations=(), ended=True, owed=(), expected=(), over=False, hall=None):
    """An engine of scripts as far as it knows whether it is over."""
    made = object.__new__(JoinedScriptEngine)
    made._stations = dict(stations)
    made._has_ended, made._owed, made._expected, made._absent_at = ended, set(owed), set(expected), float("inf")
    made._lives, made._judge, made._hall = SimpleNamespace(over=over), None, hall
    made._base, made._since = 0.0, 0.0
    return made


@pytest.mark.parametrize(
    ("state", "over"),
    [
        ({}, True),
        ({"ended": False}, False),
        ({"owed": [1]}, False),
        ({"expected": [1]}, False),
        ({"owed": [1], "over": True}, True),
        ({"stations": {0: None}}, False),
    ],
)
def test_scripts_are_over_when_nobody_is_awaited_whose_own_has_not_ended(state, over):
    assert scripts(**state)._is_over() == over


def test_those_that_do_not_come_back_in_time_are_not_awaited_any_more():
    made = scripts(expected=[1])
    made._absent_at = made.now - 1.0
    assert made._is_over()


@pytest.mark.parametrize(
    ("state", "only_this"),
    [({}, False), ({"owed": [1]}, True), ({"owed": [1], "over": True}, False), ({"stations": {1: False}}, True)],
)
def test_the_end_of_one_script_is_said_to_be_no_more_than_that(hall, monkeypatch, state, only_this):
    others = {worker: SimpleNamespace(finished=finished) for worker, finished in state.pop("stations", {}).items()}
    made, said = scripts(**state, stations=others, hall=hall), []
    seat = SimpleNamespace(worker=0, finished=True, hung=False)
    hall._places[0] = SimpleNamespace(say_over=said.append)
    monkeypatch.setattr(JoinedScriptEngine, "_stop", lambda *given, **how: None)
    monkeypatch.setattr(JoinedScriptEngine, "_forget", lambda *given: None)
    made._lost(seat)
    hall._places.clear()
    assert said[0]["only_this"] == only_this


@pytest.mark.parametrize("here", [True, False])
def test_an_agent_whose_script_prepares_something_else_is_refused_and_a_process_of_ones_own_is_an_error(
    hall, monkeypatch, here
):
    def differs(*given):
        raise SessionError("worker 1 prepares other data")

    made, lost = scripts(hall=hall), []
    monkeypatch.setattr("tardigrad.engines.local.scripted.ScriptEngine._prepare", differs)
    monkeypatch.setattr(JoinedScriptEngine, "_lost", lambda made, seat: lost.append(seat))
    seat = SimpleNamespace(worker=1)
    if here:
        with pytest.raises(SessionError):
            made._prepare(seat, {}, [])
        return
    one = hall._places[1] = placed(worker=1)
    made._prepare(seat, {}, [])
    hall._places.clear()
    assert one.refused == "worker 1 prepares other data"
    assert lost == [seat]


# -- agents ------------------------------------------------------------------------------------------------------------


def test_a_place_that_is_done_does_not_end_the_others():
    wishes = Wishes()
    wishes.done("its script has come to its end")
    assert (wishes.finished, wishes.gives_up(working=False)) == (True, False)
    wishes.end("the run was stopped", finished=False)
    wishes.done("its script has come to its end")
    assert (wishes.finished, wishes.gives_up(working=False)) == (False, True)


def test_a_process_that_is_reaped_while_it_is_signalled_is_no_reason_to_signal_ones_own_group(monkeypatch):
    household, sent = Processes(0), []

    def reaped():
        household._processes = []
        return True

    household._processes = [SimpleNamespace(pid=4711, is_alive=reaped)]
    monkeypatch.setattr(os, "kill", lambda *given: sent.append(given))
    household.signal(signal.SIGKILL)
    assert sent == [(4711, signal.SIGKILL)]
