"""Bridges of workers that run scripts: questions, memory behind descriptors, slots that come with a welcome."""

import os

import pytest
from lines import channels, closed
from sides import SOON, Both, layout_of
from torch import nn

from tardigrad.testing.leftovers import held_now, left_since
from tardigrad.transports.requests import Wire, content_of, memory_with
from tardigrad.transports.slots import Slot


@pytest.fixture
def wires(make):
    both = make(speaks="script")
    return both, Wire(both.server.mine), Wire(both.worker.mine)


def test_questions_and_answers_of_scripts_cross(wires):
    _, server, worker = wires
    worker.send("log", {"values": {"x": float("inf")}})
    assert server.receive() == ("log", {"values": {"x": float("inf")}}, [])
    server.send("ok", {})
    assert worker.receive() == ("ok", {}, [])


def test_what_is_too_long_for_one_message_crosses(wires):
    _, server, worker = wires
    worker.send("order", {"states": list(range(50_000))})
    assert server.receive() == ("order", {"states": list(range(50_000))}, [])


@pytest.mark.parametrize("size", [0, 1, 8000])
def test_memory_that_a_descriptor_leads_to_crosses(wires, size):
    _, server, worker = wires
    lying = memory_with(bytes(range(256)) * size)
    worker.send("save", {}, [lying])
    os.close(lying)
    word, _, (descriptor,) = server.receive()
    assert (word, content_of(descriptor)) == ("save", bytes(range(256)) * size)


def welcome(server, worker):
    """Slots at both ends, made by a welcome that carries some state."""
    layout = layout_of(nn.Linear(2, 2))
    mine = [Slot.make(layout, name) for name in ("down", "up")]
    mine[0].flat.fill_(7.0)
    state = memory_with(b"state")
    server.send("welcome", {"epoch": 3}, [mine[0].descriptor, mine[1].descriptor, state])
    os.close(state)
    word, content, descriptors = worker.receive()
    assert (word, content, content_of(descriptors[2])) == ("welcome", {"epoch": 3}, b"state")
    theirs = [Slot(layout, descriptor) for descriptor in descriptors[:2]]
    return mine, theirs


@pytest.fixture
def welcomed(wires):
    both, server, worker = wires
    mine, theirs = welcome(server, worker)
    yield both, server, worker, mine, theirs
    closed(*mine, *theirs)


def test_nothing_is_left_of_a_script():
    before = held_now()
    both = Both(speaks="script")
    mine, theirs = welcome(Wire(both.server.mine), Wire(both.worker.mine))
    both.close()
    closed(*mine, *theirs)
    del both, mine, theirs
    assert left_since(before) == []


def test_a_welcome_makes_slots_of_the_same_size_with_the_weights_in_them(welcomed):
    *_, mine, theirs = welcomed
    assert [os.fstat(slot.descriptor).st_size for slot in theirs] == [slot.layout.size for slot in mine]
    assert bool((theirs[0].flat == 7.0).all())


DOWNWARDS = [("released", {}), ("lease", {"lease": None, "released": {"version": 1}})]


@pytest.mark.parametrize(("word", "content"), DOWNWARDS)
def test_weights_go_down_with_the_words_that_release(welcomed, word, content):
    _, server, worker, mine, theirs = welcomed
    mine[0].flat.fill_(1.5)
    server.send(word, content)
    assert worker.receive() == (word, content, [])
    assert bool((theirs[0].flat == 1.5).all())


def test_other_words_leave_the_slots_alone(welcomed):
    _, server, worker, mine, theirs = welcomed
    mine[0].flat.fill_(1.5)
    server.send("lease", {"lease": [0, 0, 8], "released": None})
    worker.receive()
    assert bool((theirs[0].flat == 7.0).all())


def test_a_push_takes_the_gradient_up_also_over_another_line(welcomed):
    both, server, worker, mine, theirs = welcomed
    for value in (2.5, 3.5):
        theirs[1].flat.fill_(value)
        worker.send("push", {"samples": 4})
        assert server.receive() == ("push", {"samples": 4}, [])
        assert bool((mine[1].flat == value).all())
        both.connect(channels())


def test_what_is_no_message_of_a_script_ends_it(make):
    """What a worker says is read as JSON where it is said, never as a pickle."""
    both = make(speaks="script")
    both.worker.mine.send(b"cos\nsystem\n")
    assert both.server.told.get() == ("ended", {})


@pytest.mark.parametrize("prepared", ["{}", '{"size":-1,"dtype":"float32"}', '{"size":1e9,"dtype":"float32"}'])
def test_a_script_whose_slots_cannot_be_understood_has_ended(make, prepared):
    both = make(speaks="script", each={"wire": "bfloat16"})
    both.worker.mine.send(f'["prepare",{prepared}]'.encode())
    assert both.server.told.get(timeout=SOON) == ("ended", {})


@pytest.mark.parametrize("content", [7, [], None, {"size": "x"}])
def test_a_prepare_that_is_none_ends_the_line(make, content):
    both = make(speaks="script", each={"wire": "bfloat16"})
    mine, other = channels()
    both.server.bridge.attach(mine)
    said = {"word": "prepare", "content": content}
    other.send("relay", {"number": 1, "got": 0, "said": said, "ships": ""})
    assert both.server.lost.get(timeout=SOON) == "ended"
    assert "a script prepares" in both.server.why
    closed(other)


def test_a_push_before_there_are_slots_ends_the_line(wires):
    both, _, worker = wires
    worker.send("push", {})
    assert both.worker.lost.get(timeout=SOON) == "ended"
    assert both.worker.why == "'up'"
