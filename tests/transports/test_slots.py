"""Slots: two mappings of one memory, and messages that come out as they went in."""

import os
import select
import signal
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from tardigrad.errors import ProtocolError
from tardigrad.layout import FlatLayout
from tardigrad.records import Lease
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import (
    FAULTS,
    Order,
    Pushed,
    Raised,
    Ready,
    ServerEnd,
    Slot,
    SlotLayout,
    WorkerEnd,
    answer_of,
    ends,
)


def layout_of(model):
    return SlotLayout.of(FlatLayout.of_model(model), dict(model.named_buffers()))


@pytest.fixture
def slot():
    made = Slot.make(layout_of(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))), "test")
    yield made
    made.close()


def test_a_slot_holds_flat_weights_and_every_buffer_apart_from_each_other(slot):
    assert slot.flat.dtype == torch.float32
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in slot.buffers.items()} == {
        "1.running_mean": (torch.float32, (5,)),
        "1.running_var": (torch.float32, (5,)),
        "1.num_batches_tracked": (torch.int64, ()),
    }
    slot.flat.fill_(1.0)
    for number, tensor in enumerate(slot.buffers.values()):
        tensor.fill_(number + 2)
    assert bool((slot.flat == 1.0).all())
    for number, tensor in enumerate(slot.buffers.values()):
        assert bool((tensor == number + 2).all())


def test_every_part_of_a_slot_begins_where_torch_would_align_it(slot):
    assert [tensor.data_ptr() % 64 for tensor in (slot.flat, *slot.buffers.values())] == [0, 0, 0, 0]


def test_another_mapping_of_the_same_memory_sees_what_is_written(slot):
    other = Slot(slot.layout, os.dup(slot.descriptor), writable=False)
    slot.flat.copy_(torch.arange(len(slot.flat), dtype=torch.float32))
    slot.buffers["1.num_batches_tracked"].fill_(7)
    assert torch.equal(other.flat, slot.flat)
    assert other.buffers["1.num_batches_tracked"].item() == 7
    other.close()


def test_a_view_outlives_the_slot(slot):
    view = slot.flat
    view.fill_(3.0)
    slot.close()
    slot.close()  # once more does no harm
    assert bool((view == 3.0).all())


def test_closing_gives_the_descriptor_back():
    before = set(os.listdir("/proc/self/fd"))
    slot = Slot.make(layout_of(nn.Linear(2, 2)), "test")
    assert len(os.listdir("/proc/self/fd")) > len(before)
    slot.close()
    del slot
    assert set(os.listdir("/proc/self/fd")) == before


WRITER = """
import os, torch
from torch import nn
from tardigrad.layout import FlatLayout
from tardigrad.transports.slots import Slot, SlotLayout
slot = Slot.make(SlotLayout.of(FlatLayout.of_model(nn.Linear(2, 2)), {}), "test")
Slot(slot.layout, os.dup(slot.descriptor), writable=False).flat.fill_(1.0)
print("still alive")
"""


def test_writing_to_a_slot_that_is_for_reading_ends_the_process_that_tries():
    done = subprocess.run([sys.executable, "-c", WRITER], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")


@pytest.fixture
def sockets():
    both = ends()
    yield both
    for each in both:
        each.close()


@pytest.fixture
def pair(sockets):
    return ServerEnd(sockets[0]), WorkerEnd(sockets[1])


@pytest.mark.parametrize("fault", FAULTS)
def test_an_order_arrives_as_it_was_given(pair, fault):
    order = Order(2**40, 3, Lease(7, 2**33, 2**33 + 16), fault)
    pair[0].send(order)
    assert pair[1].receive() == order


ANSWERS = [
    Pushed(2**40, 3, 0.1, 1e-300, 12.5),
    Pushed(0, 0, float("inf"), -0.0, 0.0),
    Ready({"layout": "abc", "pid": 7}),
    Raised("Traceback ...\nValueError: ü"),
    Raised(""),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_arrives_as_it_was_given(pair, answer):
    pair[1].send(answer)
    assert pair[0].receive() == answer


def test_messages_that_wait_are_kept_apart_and_in_order(pair):
    for answer in ANSWERS:
        pair[1].send(answer)
    assert [pair[0].receive() for _ in ANSWERS] == ANSWERS


def test_of_a_long_traceback_beginning_and_end_arrive(pair):
    words = "Traceback (most recent call last):\n" + "ü" * 200_000 + "\nValueError: the reason"
    pair[1].send(Raised(words))
    arrived = pair[0].receive().traceback
    assert arrived.startswith("Traceback (most recent call last):\n")
    assert arrived.endswith("\nValueError: the reason")
    assert 10_000 < len(arrived) < len(words)


def test_facts_that_are_too_long_are_not_sent_in_part(pair):
    with pytest.raises(ProtocolError, match="is longer than the 65536 that one may have"):
        pair[1].send(Ready({"computation": "x" * 100_000}))


def test_a_worker_is_told_that_there_is_no_more(pair):
    pair[0].close()
    assert pair[1].receive() is None


def test_a_worker_whose_server_is_gone_is_told_when_it_answers(pair):
    pair[0].close()
    with pytest.raises(BrokenPipeError):
        pair[1].send(Pushed(1, 0, 0.5, 0.5, 0.1))


def test_the_server_sees_the_end_after_the_last_answer(sockets):
    end = ServerEnd(sockets[0])
    WorkerEnd(sockets[1]).send(Pushed(1, 0, 0.5, 0.5, 0.1))
    sockets[1].close()
    assert end.receive().version == 1
    with pytest.raises(EOFError):
        end.receive()


def test_the_server_sees_the_end_of_a_worker_that_leaves_an_order_unread(sockets):
    end = ServerEnd(sockets[0])
    end.send(Order(1, 0, Lease(0, 0, 1)))
    sockets[1].close()
    assert select.select([end], [], [], 0.0)[0] == [end]
    with pytest.raises((EOFError, OSError)):
        end.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        end.send(Order(2, 0, Lease(0, 1, 2)))


@pytest.mark.parametrize("message", [b"p123", b"q", b"?" * 100])
def test_bytes_that_are_no_answer_are_refused(sockets, message):
    sockets[1].send(message)
    with pytest.raises(ProtocolError, match="is no answer of a worker"):
        ServerEnd(sockets[0]).receive()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"7", b"[1]", b"[" * 60_000])
def test_facts_that_are_none_are_refused(body):
    with pytest.raises(ProtocolError, match=r"no JSON|no dict of facts"):
        answer_of(b"r" + body)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"7", b'["w"]', b'["w", 7]', b"[7, {}]", b"{}", b"[" * 60_000])
def test_bytes_that_are_no_request_are_refused_and_what_came_with_them_is_closed(sockets, body):
    reading, writing = os.pipe()
    socket.send_fds(sockets[0], [body], [writing])
    os.close(writing)
    with pytest.raises(ProtocolError, match=r"no JSON|no request"):
        Wire(sockets[1]).receive()
    assert select.select([reading], [], [], 0.0)[0], "somebody may still write"
    os.close(reading)


@pytest.mark.parametrize("message", [b"judge", b"\0" * 40, b"\0" * 40 + b"\4"])
def test_bytes_that_are_no_order_are_refused(sockets, message):
    sockets[0].send(message)
    with pytest.raises(ProtocolError, match="is no order of a server"):
        WorkerEnd(sockets[1]).receive()
