"""An agent, and a server that a test plays by hand over a real connection on this machine."""

import dataclasses
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
import torch
from by_hand import SOON, Guest, begun, the_task

from tardigrad.engines.joined import stay
from tardigrad.engines.joined.facts import digest_of
from tardigrad.engines.joined.greeting import Assignment, Resumes, ScriptAssignment
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.local.acting import Part
from tardigrad.errors import InvalidArgument, Unreachable
from tardigrad.records import Lease, Snapshot
from tardigrad.session.scripts import Script
from tardigrad.transports.credentials import Credentials, new_secret
from tardigrad.transports.meeting import CredentialsRefused
from tardigrad.transports.parts import Elsewhere, WorkerParts
from tardigrad.transports.slots import Order, Pushed, Raised, Ready

SCRIPT = """
import os, sys
def main(session, rate):
    file = os.path.basename(__file__)
    raise ValueError(f"{session.worker} of {session.workers} with {rate} and {sys.argv[1:]} in {file}")
def end_0(session):
    os._exit(0)
def end_3(session):
    os._exit(3)
"""


def gradient_of(body, down, lease):
    return body.compute(0, Snapshot(0, [], lease, down.flat.clone(), {}, 0)).gradient.clone()


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_worker_computes_what_it_would_compute_at_the_server(server, guests):
    guest = guests()
    end, down, up, body, pid = begun(server)
    for number in range(3):
        lease = Lease(0, 4 * number, 4 * number + 4)
        down.flat.add_(1.0)
        end.send(Order(number, 0, lease))
        pushed = end.receive()
        assert isinstance(pushed, Pushed)
        assert torch.equal(up.flat, gradient_of(body, down, lease))
    server.over()
    assert guest.ended() is None
    assert not lives(pid)
    assert guest.words[-1] == "the run has ended"


def test_a_place_says_who_it_is_and_stays_the_same(server, guests):
    guest = guests(Means(device="cpu"), places=1)
    channel, first = server.answer("wait", seconds=0.01)
    channel.close()
    channel, second = server.answer("wait", seconds=0.01)
    channel.close()
    assert second == first
    assert (first.host, first.resumes, first.wants) == (socket.gethostname(), None, None)
    assert first.facts.code == Means().facts.code
    server.answer("over", words="too late", finished=True)[0].close()
    assert guest.ended() is None


def test_several_places_are_several_workers_and_end_together(server, guests):
    guest = guests(places=2)
    assignment, _ = the_task()
    seated = [server.assign(dataclasses.replace(assignment, worker=worker)) for worker in (0, 1)]
    assert all(isinstance(end.receive(), Ready) for end, *_ in seated)
    assert len({hello.place for *_, hello in seated}) == 2
    assert sorted(view.worker for view in guest.agent.views()) == [0, 1]
    for bridge in server.bridges:
        bridge.tell("over", {"words": "the run has ended", "finished": True})
    assert guest.ended() is None


def test_a_machine_that_builds_another_model_is_refused_before_it_computes(server, guests):
    guest = guests()
    assignment, _ = the_task(layout="another")
    end, _, _, _ = server.assign(assignment)
    word, content = server.told.get(timeout=SOON)
    assert word == "ended"
    assert "builds another model" in content["refused"]
    with pytest.raises((EOFError, OSError)):
        end.receive()
    server.bridges[-1].close()
    error = guest.ended()
    assert isinstance(error, InvalidArgument)
    assert "layout another" not in str(error)
    assert "not another" in str(error)


def with_another_shard():
    assignment, _ = the_task()
    end = 4 * assignment.task.slots.elements
    return dataclasses.replace(assignment, parts=(Elsewhere("127.0.0.1:1", 4, end),))


def test_a_machine_that_does_not_reach_a_shard_is_refused_with_the_address(server, guests, monkeypatch):
    monkeypatch.setattr(stay, "_REACHING", 0.0)
    monkeypatch.setattr(stay, "_PAUSE", 0.0)
    guest = guests()
    server.assign(with_another_shard())
    word, content = server.told.get(timeout=SOON)
    assert (word, content["code"]) == ("ended", None)
    assert "shard 1 at 127.0.0.1:1 cannot be reached" in content["refused"]
    server.bridges[-1].close()
    error = guest.ended()
    assert isinstance(error, InvalidArgument)
    assert "shard 1 at 127.0.0.1:1 cannot be reached" in str(error)


def test_a_life_whose_shard_is_not_reached_again_dials_until_it_is_and_says_why(server, guests, monkeypatch):
    found = iter(["", "shard 1 is away", "shard 1 is away", ""])
    monkeypatch.setattr(WorkerParts, "connect", lambda parts, peer: next(found))
    guest = guests()
    end, *_ = server.assign(with_another_shard())
    assert isinstance(end.receive(), Ready)
    bridge, before = server.bridges[-1], None
    received = bridge.detach()
    for _ in range(3):
        channel, hello = server.greeted()
        assert hello.resumes is not None
        if before is not None:
            before.close()
        channel.send("resumed", {"received": received})
        before = channel
    bridge.attach(before, received=hello.resumes.received)
    guest.agent.wishes.drain()
    assert server.told.get(timeout=SOON) == ("drain", {})
    assert len([words for words in guest.words if "shard 1 is away" in words]) == 2
    server.over()
    assert guest.ended() is None


def test_the_end_of_one_places_script_is_not_the_end_of_the_others(server, guests):
    guest = guests(places=2)
    assignment, _ = the_task()
    end, *_ = server.assign(assignment)
    assert isinstance(end.receive(), Ready)
    waiting, other = server.greeted()
    server.over(words="its script has come to its end", only_this=True)
    pause = threading.Event()
    while "left" not in [view.state for view in guest.agent.views()]:
        pause.wait(0.01)
    waiting.send("wait", {"seconds": 0.0})
    channel, hello = server.greeted()
    assert hello.place == other.place
    channel.send("over", {"words": "the run was stopped", "finished": False})
    assert guest.ended() is None
    assert {"its script has come to its end", "the run was stopped"} <= set(guest.words)


def test_what_the_run_imports_and_this_machine_lacks_is_said_to_both(server, guests):
    assignment, _ = the_task()
    blueprint = dataclasses.replace(assignment.task.blueprint, imports=("/nowhere/mine.py",))
    task = dataclasses.replace(assignment.task, blueprint=blueprint, imports={"mine.py": "digest"})
    guest = guests()
    server.assign(dataclasses.replace(assignment, task=task))
    word, content = server.told.get(timeout=SOON)
    assert (word, content["code"]) == ("ended", None)
    assert "--imports mine.py" in content["refused"]
    server.bridges[-1].close()
    assert "--imports mine.py" in str(guest.ended())


def test_a_connection_that_is_cut_is_made_again_and_the_same_life_goes_on(server, guests):
    guests()
    end, down, up, body, pid = begun(server)
    bridge = server.bridges[-1]
    received = bridge.detach()
    lease = Lease(0, 0, 4)
    end.send(Order(0, 0, lease))  # while nobody is connected
    channel, hello = server.greeted()
    assert hello.resumes == Resumes("life", hello.resumes.received)
    assert hello.wants == 0
    channel.send("resumed", {"received": received})
    bridge.attach(channel, received=hello.resumes.received)
    assert isinstance(end.receive(), Pushed)
    assert torch.equal(up.flat, gradient_of(body, down, lease))
    assert lives(pid)


def test_a_server_that_begins_anew_gets_a_new_worker_and_the_old_one_is_ended(server, guests):
    guests()
    _, _, _, _, before = begun(server)
    server.bridges[-1].close()
    assignment, _ = the_task()
    end, _, _, hello = server.assign(dataclasses.replace(assignment, life="another", incarnation=1))
    assert hello.resumes.life == "life"
    ready = end.receive()
    assert ready.facts["pid"] != before
    assert not lives(before)


@pytest.mark.parametrize("by", ["itself", "the server"])
def test_the_end_of_a_worker_is_told_with_its_code_and_the_place_is_offered_again(server, guests, by):
    guests()
    _, _, _, _, pid = begun(server)
    if by == "itself":
        os.kill(pid, signal.SIGKILL)
    else:
        server.bridges[-1].tell("signal", {"number": int(signal.SIGKILL)})
    assert server.told.get(timeout=SOON) == ("ended", {"code": -signal.SIGKILL, "refused": ""})
    server.bridges[-1].close()
    channel, hello = server.greeted()
    assert (hello.wants, hello.resumes) == (0, None)
    channel.close()


@pytest.mark.parametrize("code", [0, 3])
def test_a_server_that_is_gone_is_an_error_unless_the_work_was_done(server, guests, tmp_path, code):
    script = dataclasses.replace(a_script(tmp_path), args=(), qualname=f"end_{code}")
    guest = guests(Means(script=str(tmp_path / "mine.py")), afterwards=0.0)
    part = Part(0, 1, 0, 7, 1, "cpu", "fork")
    server.assign(Assignment("life", 0, 0, script=ScriptAssignment.of(script, part)))
    assert server.told.get(timeout=SOON)[1]["code"] == code
    server.listener.close()
    server.bridges[-1].close()
    assert (guest.ended() is None) == (code == 0)
    assert guest.agent.wishes.finished == (code == 0)


def test_draining_is_asked_of_the_server_and_ends_when_it_agrees(server, guests):
    guest = guests(again=True)
    end, _, _, _, _ = begun(server)
    end.send(Order(0, 0, Lease(0, 0, 4)))
    guest.agent.wishes.drain()
    assert server.told.get(timeout=SOON) == ("drain", {})
    assert isinstance(end.receive(), Pushed)
    server.over(words="drained", finished=False)
    assert guest.ended() is None


def test_a_place_without_work_drains_at_once(server, guests):
    guest = guests()
    server.answer("wait", seconds=60.0)[0].close()
    guest.agent.wishes.drain()
    assert guest.ended() is None


def test_leaving_at_once_ends_the_worker(server, guests):
    guest = guests()
    _, _, _, _, pid = begun(server)
    guest.agent.wishes.leave()
    assert guest.ended() is None
    assert not lives(pid)
    assert server.lost.get(timeout=SOON) == "ended"


def test_after_one_run_the_next_is_waited_for_where_that_is_wanted(server, guests):
    guests(again=True)
    begun(server)
    server.over()
    channel, hello = server.greeted()
    assert hello.resumes is None
    channel.close()


def test_a_refusal_is_the_end(server, guests):
    guest = guests(places=2)
    server.answer("refused", message="the run computes with torch 9.9")[0].close()
    error = guest.ended()
    assert isinstance(error, InvalidArgument)
    assert "the server refuses this machine: the run computes with torch 9.9" in str(error)


def test_another_secret_is_the_end(server, credentials, guests):
    guest = Guest(server, Credentials(new_secret(), trusted=True), Means())
    assert isinstance(guest.ended(), CredentialsRefused)


def test_where_nobody_answers_it_is_said_why(server, guests):
    server.listener.close()
    error = guests(keep_trying=0.0).ended()
    assert isinstance(error, Unreachable)
    assert server.listener.address in str(error)
    assert "--listen" in str(error)
    assert "not known yet" in str(guests(address=lambda: "", keep_trying=0.0).ended())


def test_the_address_is_asked_for_anew_before_every_attempt(server, guests):
    known = iter(["", "127.0.0.1:1", server.listener.address])
    guest = guests(address=lambda: next(known))
    server.answer("over", words="", finished=True)[0].close()
    assert guest.ended() is None
    assert len([words for words in guest.words if "trying again" in words]) == 1


def a_script(folder):
    (folder / "theirs.py").write_text(SCRIPT)
    (folder / "mine.py").write_text(SCRIPT)
    path = folder / "theirs.py"
    return Script("__main__", "", "main", str(path), str(folder), ("--lr", "1"), digest_of(path), (0.5,))


def test_a_script_runs_from_this_machines_copy_with_the_runs_arguments(server, guests, tmp_path):
    script = a_script(tmp_path)
    part = Part(0, 3, 0, 7, 1, "cuda:9", "fork", group=2)
    guests(Means(script=str(tmp_path / "mine.py")))
    wire, _, _, hello = server.assign(Assignment("life", 0, 0, script=ScriptAssignment.of(script, part)))
    assert hello.facts.script.digest == script.digest
    word, content, _ = wire.receive()
    assert word == "raised"
    assert "0 of 3 with 0.5 and ['--lr', '1'] in mine.py" in content["traceback"]


def test_own_arguments_of_a_script_take_the_place_of_the_runs(server, guests, tmp_path):
    script = a_script(tmp_path)
    guests(Means(script=str(tmp_path / "mine.py"), args=("--data", "here")))
    part = Part(0, 3, 0, 7, 1, "cpu", "fork")
    wire, _, _, _ = server.assign(Assignment("life", 0, 0, script=ScriptAssignment.of(script, part)))
    assert "['--data', 'here']" in wire.receive()[1]["traceback"]


def test_a_workers_error_reaches_the_server(server, guests, tmp_path):
    (tmp_path / "wrong.py").write_text("raise RuntimeError('no such thing')\n")
    assignment, _ = the_task()
    task = assignment.task
    blueprint = dataclasses.replace(task.blueprint, task="nothing", imports=(str(tmp_path / "wrong.py"),))
    guests()
    end, _, _, _ = server.assign(dataclasses.replace(assignment, task=dataclasses.replace(task, blueprint=blueprint)))
    answer = end.receive()
    assert isinstance(answer, Raised)
    assert "no such thing" in answer.traceback
