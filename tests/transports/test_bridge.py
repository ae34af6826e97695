"""Bridges: what is said on one side is said on the other, in order and once, whatever happens to the line between."""

import errno
import re
import select
import threading
from time import monotonic

import pytest
from lines import channels, closed, counted, cut_channels
from sides import SOON, Both, exchange, layout_of, mended, order
from torch import nn

from tardigrad.errors import ProtocolError
from tardigrad.testing.leftovers import held_now, left_since
from tardigrad.transports import stream
from tardigrad.transports.slots import Pushed, Raised, Ready, ServerEnd, WorkerEnd

MODELS = {
    "no buffers": lambda: nn.Linear(3, 5),
    "buffers": lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)),
    "large": lambda: nn.Linear(1000, 700),
}


@pytest.mark.parametrize("model", MODELS)
def test_orders_gradients_and_what_lies_in_the_slots_cross(make, model):
    both = make(layout_of(MODELS[model]()))
    for number in range(3):
        exchange(both, number)
    assert (both.server.bridge.received, both.worker.bridge.received) == (3, 3)


def test_other_answers_cross_and_ship_nothing(make):
    both = make()
    both.worker.slots["up"].flat.fill_(1.0)
    for answer in (Ready({"layout": "abc"}), Raised("Traceback: ü")):
        WorkerEnd(both.worker.mine).send(answer)
        assert ServerEnd(both.server.mine).receive() == answer
    assert not both.server.slots["up"].flat.any()


def test_control_words_keep_their_place_among_messages(make):
    both = make()
    heard = []
    both.server.bridge._told = lambda *words: heard.append((words, both.server.bridge.received))
    both.worker.bridge.tell("drain")
    WorkerEnd(both.worker.mine).send(Ready({}))
    ServerEnd(both.server.mine).receive()
    both.worker.bridge.tell("signal", {"number": 9})
    WorkerEnd(both.worker.mine).send(Ready({}))
    ServerEnd(both.server.mine).receive()
    assert [words for words, _ in heard] == [("drain", {}), ("signal", {"number": 9})]
    assert [number for _, number in heard] == [1, 3]


def test_what_is_told_before_there_is_a_line_waits_for_it(make):
    both = make()
    for side in both.sides:
        side.bridge.detach()
    both.server.bridge.tell("first")
    both.connect(channels())
    assert both.worker.told.get(timeout=SOON) == ("first", {})


# -- ends --------------------------------------------------------------------------------------------------------


def test_the_end_of_a_worker_is_an_end_for_the_server_and_its_last_words_come_before(make):
    both = make(more={"ended": lambda: {"code": -9}})
    WorkerEnd(both.worker.mine).send(Raised("why"))
    both.worker.mine.close()
    server = ServerEnd(both.server.mine)
    assert server.receive() == Raised("why")
    with pytest.raises(EOFError):
        server.receive()
    assert both.server.told.get(timeout=SOON) == ("ended", {"code": -9})


def test_the_end_of_a_server_is_an_end_for_the_worker(make):
    both = make()
    ServerEnd(both.server.mine).send(order(1))
    both.server.mine.close()
    worker = WorkerEnd(both.worker.mine)
    assert worker.receive() == order(1)
    assert worker.receive() is None
    assert both.worker.told.empty()


def test_control_words_go_on_after_a_worker_has_ended(make):
    both = make()
    both.worker.mine.close()
    assert both.server.told.get(timeout=SOON) == ("ended", {})
    both.server.bridge.tell("over")
    assert both.worker.told.get(timeout=SOON) == ("over", {})


def test_a_killed_peer_is_an_end_and_the_local_end_stays_open(make):
    both = make()
    line = channels()
    both.server.bridge.attach(line[0])
    line[1].close()
    assert both.server.lost.get(timeout=SOON) == "ended"
    both.server.mine.send(b"still open")


def test_a_peer_that_stalls_is_told_apart_from_one_that_ended(make):
    both = make()
    line = channels(patience=0.02)
    both.server.bridge.attach(line[0])  # nobody beats at the other end
    assert both.server.lost.get(timeout=SOON) == "stalled"
    with pytest.raises(OSError, match="nothing came"):
        line[1].receive()  # silence there too, not an end
    line[1].close()


def test_a_cable_that_is_cut_on_purpose_is_a_stall(make):
    both = make()
    both.server.bridge.cut()
    assert both.server.lost.get(timeout=SOON) == "stalled"
    both.server.bridge.cut()  # once more does no harm
    both.connect(channels())
    exchange(both, 1)


def test_a_line_given_up_for_another_is_not_lost(make):
    both = make()
    exchange(both, 1)
    both.connect(channels())
    exchange(both, 2)
    assert both.server.lost.empty()


def test_what_was_told_before_closing_still_goes_out(make):
    both = make()
    both.server.bridge.tell("over", {"why": "done"})
    both.server.bridge.close()
    assert both.worker.told.get(timeout=SOON) == ("over", {"why": "done"})
    assert both.worker.lost.get(timeout=SOON) == "ended"
    both.server.bridge.tell("too late")


def test_a_bridge_may_be_closed_by_what_it_tells(make):
    both = make()
    done = threading.Event()
    both.worker.bridge._told = lambda *_: (both.worker.bridge.close(), done.set())
    both.server.bridge.tell("over")
    assert done.wait(10)


# -- cuts --------------------------------------------------------------------------------------------------------


def size_of_an_exchange():
    """Bytes that each side sends for two exchanges."""
    line = channels()
    sent = [counted(channel) for channel in line]
    both = Both(layout_of(nn.Linear(1, 1)), line=line)
    for number in range(2):
        exchange(both, number)
    both.close()
    return [count() for count in sent]


def test_wherever_the_line_is_cut_everything_arrives_in_order_and_once_and_nothing_is_left():
    """Cut after every ninth byte that the one or the other side sends, and gone on from there."""
    before = held_now()
    for by, most in enumerate(size_of_an_exchange()):
        for after in range(0, most + 1, 9):
            both = Both(layout_of(nn.Linear(1, 1)), line=cut_channels(after=after, by=by))
            with mended(both):
                for number in range(2):
                    exchange(both, number)
                both.worker.bridge.tell("last")
                both.server.bridge.tell("last")
                assert [side.told.get(timeout=SOON) for side in both.sides] == [("last", {})] * 2
            both.close()
    del both
    assert left_since(before) == []


def test_what_is_not_confirmed_is_kept_and_no_more(make):
    both = make()
    for number in range(5):
        exchange(both, number)
    assert all(len(side.bridge._letters._kept) <= 1 for side in both.sides)


@pytest.mark.parametrize("received", [0, 2, 99, -1])
def test_a_count_that_cannot_be_is_refused(make, received):
    both = make()
    for number in range(5):
        exchange(both, number)
    line = channels()
    with pytest.raises(ProtocolError, match=f"received {received} of 5"):
        both.server.bridge.attach(line[0], received=received)
    closed(*line)


GOOD = {"number": 1, "got": 0, "said": {}, "ships": ""}
HOSTILE = [
    ("relay", {}),
    ("relay", GOOD),
    ("relay", {**GOOD, "number": 2}),
    ("relay", {**GOOD, "number": 0}),
    ("relay", {**GOOD, "got": 1}),
    ("relay", {**GOOD, "got": None}),
    ("relay", {**GOOD, "said": 7}),
    ("tell", GOOD),
    ("shout", GOOD),
    ("furnish", {**GOOD, "said": {"bytes": 0}}),
    ("furnish", {**GOOD, "said": {"bytes": 10**30}}),
    ("furnish", {**GOOD, "said": {"bytes": "x"}}),
]


@pytest.mark.parametrize(("word", "content"), HOSTILE)
def test_a_message_that_is_none_ends_the_line_and_nothing_else(make, word, content):
    both = make()
    mine, other = channels()
    both.worker.bridge.attach(mine)
    other.send(word, content)
    assert both.worker.lost.get(timeout=SOON) == "ended"
    assert re.search(f"message|letter|{word!r} is no word", both.worker.why)
    both.worker.mine.send(b"still open")
    assert not select.select([both.worker.mine], [], [], 0.0)[0]
    closed(other)


def test_a_message_that_was_there_whole_when_its_line_was_given_up_comes_with_its_slot(make, monkeypatch):
    """Never with the one of before: what the channel would put nowhere is not looked at, and sent again."""
    both = make(layout_of(nn.Linear(3, 5)))
    exchange(both, 1)
    header = stream._header

    def cutting(body, peer):
        monkeypatch.setattr(stream, "_header", header)
        both.server.bridge.cut()
        return header(body, peer)

    monkeypatch.setattr(stream, "_header", cutting)
    both.worker.slots["up"].flat.fill_(7.0)
    WorkerEnd(both.worker.mine).send(Pushed(2, 0, 0.0, 0.0, 0.0))
    assert both.server.lost.get(timeout=SOON) == "stalled"
    assert both.server.bridge.received == 1
    both.connect(channels())
    assert ServerEnd(both.server.mine).receive().version == 2
    assert bool((both.server.slots["up"].flat == 7.0).all())


def out_of_descriptors(*_):
    raise OSError(errno.EMFILE, "Too many open files")


def test_what_cannot_be_handed_on_is_not_counted_and_ends_the_line_with_its_reason(make, monkeypatch):
    both = make()
    with monkeypatch.context() as failing:
        failing.setattr(both.server.bridge._speech, "say", out_of_descriptors)
        WorkerEnd(both.worker.mine).send(Ready({}))
        assert both.server.lost.get(timeout=SOON) == "ended"
    assert "Too many open files" in both.server.why
    assert both.server.bridge.received == 0
    both.connect(channels())  # as nobody does; it is here still
    assert ServerEnd(both.server.mine).receive() == Ready({})


def test_what_nobody_foresaw_ends_the_line_too_and_its_owner_hears_of_it(make, monkeypatch):
    both = make()
    monkeypatch.setattr(both.server.bridge, "_told", lambda *_: 1 // 0)
    both.worker.bridge.tell("drain")
    assert both.server.lost.get(timeout=SOON) == "ended"
    assert both.server.why == "integer division or modulo by zero"


def test_what_is_too_long_to_travel_ends_the_line_with_its_reason(make, monkeypatch):
    monkeypatch.setattr(stream, "MOST_HEADER", 1000)
    both = make()
    both.worker.bridge.tell("note", {"words": "x" * 1000})
    assert both.worker.lost.get(timeout=SOON) == "ended"
    assert re.search(r"'tell' has 10\d\d bytes of content; at most 1000 travel", both.worker.why)


# -- delays ------------------------------------------------------------------------------------------------------


def test_what_is_late_comes_later_and_in_order(make):
    both = make()
    both.server.bridge.slow_down(0.02)
    for number in range(3):
        begun = monotonic()
        exchange(both, number)
        assert monotonic() - begun >= 0.02
        both.worker.bridge.tell("n", {"number": number})
    both.server.bridge.slow_down(0.0)
    both.worker.bridge.tell("n", {"number": 3})
    assert [both.server.told.get()[1]["number"] for _ in range(4)] == [0, 1, 2, 3]


def test_what_is_very_late_does_not_hold_a_close_up(make):
    both = make()
    both.server.bridge.slow_down(3600.0)
    ServerEnd(both.server.mine).send(order(1))
    both.worker.bridge.tell("drain")
    both.worker.bridge.close()
    assert both.server.lost.get(timeout=SOON) == "ended"
    assert both.server.bridge.received == 1
    assert both.server.told.empty()
    assert both.worker.mine.recv(100) == b""


def test_what_cannot_be_handed_on_late_ends_the_life(make, monkeypatch):
    both = make()
    both.server.bridge.slow_down(0.001)
    monkeypatch.setattr(both.server.bridge._speech, "say", out_of_descriptors)
    WorkerEnd(both.worker.mine).send(Ready({}))
    assert both.server.mine.recv(100) == b""
    assert both.server.lost.get(timeout=SOON) == "ended"
    assert "Too many open files" in both.server.why


# -- gradients that are looked at, and parts that travel elsewhere -------------------------------------------------


def test_a_message_may_be_thrown_away_where_it_is_said(make):
    both = make(more={"heard": lambda message: not message.startswith(b"r")})
    WorkerEnd(both.worker.mine).send(Ready({}))
    WorkerEnd(both.worker.mine).send(Raised("why"))
    assert ServerEnd(both.server.mine).receive() == Raised("why")


class Middle:
    """Ships the first 64 bytes of a slot; the rest lies there when it is waited for."""

    def __init__(self):
        self.shipped, self.waited, self.closings = [], [], 0

    def mine(self, size):
        return [slice(0, 64)]

    def ship(self, number):
        self.shipped.append(number)

    def arrived(self, number, meanwhile, every):
        self.waited.append((number, every))
        meanwhile()
        return True

    def wake(self):
        pass

    def close(self):
        self.closings += 1


def test_parts_of_a_slot_may_travel_elsewhere(make):
    parts = Middle()
    both = make(layout_of(nn.Linear(32, 1)), more={"parts": parts})
    both.worker.slots["up"].flat.fill_(1.0)
    WorkerEnd(both.worker.mine).send(Pushed(1, 0, 0.0, 0.0, 0.0))
    ServerEnd(both.server.mine).receive()
    assert both.server.slots["up"].flat.tolist() == [1.0] * 16 + [0.0] * (len(both.server.slots["up"].flat) - 16)
    ServerEnd(both.server.mine).send(order(1))
    WorkerEnd(both.worker.mine).receive()
    assert (parts.shipped, parts.waited) == ([1], [(1, 5.0)])
    both.worker.bridge.close()
    assert parts.closings == 1
