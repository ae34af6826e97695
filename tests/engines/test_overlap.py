"""Two workers in one place that compute in turn, so that one's exchange falls into the other's computing."""

import fcntl
import select
import socket
import threading
from pathlib import Path

import pytest
from agents_here import Site

import tardigrad
from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.engines.joined.agent import Agent
from tardigrad.engines.joined.greeting import Assignment, TaskAssignment
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.local.lodging import Processes
from tardigrad.engines.local.nursery import context
from tardigrad.engines.local.processes import Duty
from tardigrad.engines.local.turns import Turn
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.logs import read_events
from tardigrad.records import Lease
from tardigrad.replaying import replay
from tardigrad.tasks import TASKS
from tardigrad.transports.credentials import Credentials, new_secret
from tardigrad.transports.slots import Order, Pushed, Ready, ServerEnd, Slot, SlotLayout

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def turn():
    made = Turn.make()
    yield made
    made.close()


def is_free(turn):
    """Whether nobody else holds it."""
    try:
        fcntl.lockf(turn._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.lockf(turn._descriptor, fcntl.LOCK_UN)
    return True


def hold(turn, end):
    """In another process: hold it until the other end says something."""
    with turn:
        end.send(b"held")
        end.recv(1)
    end.send(b"free")
    end.recv(1)


@pytest.fixture
def holder(turn):
    mine, theirs = socket.socketpair()
    process = context().Process(target=hold, args=(turn, theirs), daemon=True)
    process.start()
    theirs.close()
    assert mine.recv(4) == b"held"
    yield process, mine
    process.kill()
    process.join()
    mine.close()


def test_a_turn_is_held_by_one_process_and_handed_on(turn, holder):
    _, end = holder
    assert not is_free(turn)
    waiting = threading.Thread(target=lambda: turn.__enter__())
    waiting.start()
    end.send(b"x")
    assert end.recv(4) == b"free"
    waiting.join()


def test_who_is_killed_while_he_holds_a_turn_gives_it_back(turn, holder):
    process, _ = holder
    assert not is_free(turn)
    process.kill()
    process.join()
    assert is_free(turn)


def waits_for_a_lock(pid):
    """Whether the kernel has this process wait."""
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_worker_computes_only_while_it_holds_its_turn(turn):
    blueprint = Blueprint("quadratic", 0, Arithmetic())
    body, lodging = blueprint.build_worker(TASKS.build("quadratic")), Processes(0)
    slots = [Slot.make(SlotLayout.of(body.layout, {}), name) for name in ("down", "up")]
    end = ServerEnd(lodging.work(Duty(0, blueprint, turn=turn), 0, *slots))
    try:
        assert isinstance(end.receive(), Ready)
        with turn:
            end.send(Order(0, 0, Lease(0, 0, 8)))
            while not waits_for_a_lock(lodging.pid):
                assert select.select([end], [], [], 0.0)[0] == [], "it computed without its turn"
        assert isinstance(end.receive(), Pushed)
        assert is_free(turn)
    finally:
        lodging.kill()
        lodging.reap()
        end.close()
        for slot in slots:
            slot.close()


def test_two_places_share_a_turn_and_a_device():
    blueprint = Blueprint("quadratic", 0, Arithmetic())
    slots = SlotLayout.of(FlatLayout.of(blueprint.build_worker(TASKS.build("quadratic")).weights), {})
    assignment = Assignment("life", 3, 0, TaskAssignment.of(Duty(3, blueprint), slots, "1a2b"))
    agent = Agent("127.0.0.1:1", Credentials(new_secret(), True), Means(), places=2, overlap=True)
    duties = [place._means.duty(assignment, place._number) for place in agent._places]
    assert len(duties) == 4
    assert duties[0].turn is duties[1].turn is not duties[2].turn is duties[3].turn is not None
    alone = Means().duty(assignment, 0)
    assert alone.turn is None
    for each in agent._turns:
        each.close()


def test_a_script_does_not_compute_in_turn(tmp_path):
    (tmp_path / "script.py").write_text("")
    with pytest.raises(InvalidArgument, match="overlap is for tasks"):
        Agent("127.0.0.1:1", Credentials(new_secret(), True), Means(script=str(tmp_path / "script.py")), overlap=True)


def test_a_run_with_overlap_has_two_workers_and_replays(tmp_path):
    with Site(tmp_path / "site") as site:
        site.process(1, "--overlap")
        settings = {"workers": 2, "rule": "dc-asgd-a", "batch_size": 32, "epochs": 1, **site.settings}
        run = tardigrad.train("quadratic", directory=tmp_path / "run", **settings)
    commits = [event for event in read_events(run.directory) if event[0] == "commit"]
    assert {part[0] for event in commits for part in event[5]} == {0, 1}
    assert run.summary["samples"] == 1024
    assert replay(run.directory).equal
