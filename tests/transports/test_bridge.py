"""Bridges: what is said on one side is said on the other, in order and once, whatever happens to the line between."""

import select
import threading

import pytest
from lines import channels, closed, cut_channels
from sides import Both, exchange, layout_of, order
from torch import nn

from tardigrad.errors import ProtocolError
from tardigrad.testing.leftovers import held_now, left_since
from tardigrad.transports.slots import Pushed, Raised, Ready, ServerEnd, WorkerEnd

MODELS = {
    "no buffers": lambda: nn.Linear(3, 5),
    "buffers": lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)),
    "large": lambda: nn.Linear(1000, 700),
}


@pytest.fixture
def make():
    made = []

    def making(*words, **more):
        made.append(Both(*words, **more))
        return made[-1]

    yield making
    for both in made:
        both.close()


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


def test_what_is_told_before_there_is_a_line_waits_for_it(make):
    both = make()
    for side in both.sides:
        side.bridge.detach()
    assert not both.server.bridge.connected
    both.server.bridge.tell("first")
    both.connect(channels())
    assert both.worker.told.get() == ("first", {})
    assert both.server.bridge.connected


# -- ends --------------------------------------------------------------------------------------------------------


def test_the_end_of_a_worker_is_an_end_for_the_server_and_its_last_words_come_before(make):
    both = make(more={"ended": lambda: {"code": -9}})
    WorkerEnd(both.worker.mine).send(Raised("why"))
    both.worker.mine.close()
    server = ServerEnd(both.server.mine)
    assert server.receive() == Raised("why")
    with pytest.raises(EOFError):
        server.receive()
    assert both.server.told.get() == ("ended", {"code": -9})


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
    assert both.server.told.get() == ("ended", {})
    both.server.bridge.tell("over")
    assert both.worker.told.get() == ("over", {})


def test_a_killed_peer_is_an_end_and_the_local_end_stays_open(make):
    both = make()
    line = channels()
    both.server.bridge.attach(line[0])
    line[1].close()
    assert both.server.lost.get() == "ended"
    both.server.mine.send(b"still open")
    assert not both.server.bridge.connected


def test_a_peer_that_stalls_is_told_apart_from_one_that_ended(make):
    both = make()
    line = channels(patience=0.02)
    both.server.bridge.attach(line[0])  # nobody beats at the other end
    assert both.server.lost.get() == "stalled"
    assert not both.server.bridge.connected
    with pytest.raises(OSError, match="nothing came"):
        line[1].receive()  # silence there too, not an end
    line[1].close()


def test_a_cable_that_is_cut_on_purpose_is_a_stall(make):
    both = make()
    both.server.bridge.cut()
    assert both.server.lost.get() == "stalled"
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
    assert both.worker.told.get() == ("over", {"why": "done"})
    assert both.worker.lost.get() == "ended"
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
    sent = [0, 0]
    both, line = None, channels()
    for number, channel in enumerate(line):
        plain = channel._connection
        sending = plain.send

        def counted(views, number=number, sending=sending):
            sent[number] += sum(map(len, views))
            sending(views)

        plain.send = counted
    both = Both(layout_of(nn.Linear(1, 1)), line=line)
    for number in range(2):
        exchange(both, number)
    both.close()
    return sent


def test_wherever_the_line_is_cut_everything_arrives_in_order_and_once_and_nothing_is_left():
    """Cut after every ninth byte that the one or the other side sends, and gone on from there."""
    before = held_now()
    for by, most in enumerate(size_of_an_exchange()):
        for after in range(0, most + 1, 9):
            both = Both(layout_of(nn.Linear(1, 1)), line=cut_channels(after=after, by=by))
            mending = threading.Thread(target=mend, args=(both,))
            mending.start()
            for number in range(2):
                exchange(both, number)
            both.worker.bridge.tell("last")
            both.server.bridge.tell("last")
            assert [side.told.get() for side in both.sides] == [("last", {})] * 2
            both.server.lost.put("enough")
            mending.join()
            both.close()
    del both
    assert left_since(before) == []


def mend(both):
    """Connect anew, once, when the line is lost."""
    if both.server.lost.get() == "ended":
        assert both.worker.lost.get() == "ended"
        both.connect(channels())


def test_what_is_not_confirmed_is_kept_and_no_more(make):
    both = make()
    for number in range(5):
        exchange(both, number)
    assert len(both.worker.bridge._letters) <= 1
    assert len(both.server.bridge._letters) <= 1


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
    assert both.worker.lost.get() == "ended"
    both.worker.mine.send(b"still open")
    assert not select.select([both.worker.mine], [], [], 0.0)[0]
    closed(other)


# -- delays ------------------------------------------------------------------------------------------------------


def test_what_is_late_comes_later_and_in_order(make):
    both = make()
    both.server.bridge.slow_down(0.02)
    for number in range(3):
        exchange(both, number)
        both.worker.bridge.tell("n", {"number": number})
    both.server.bridge.slow_down(0.0)
    both.worker.bridge.tell("n", {"number": 3})
    assert [both.server.told.get()[1]["number"] for _ in range(4)] == [0, 1, 2, 3]


def test_what_is_very_late_does_not_hold_a_close_up(make):
    both = make()
    both.server.bridge.slow_down(3600.0)
    ServerEnd(both.server.mine).send(order(1))
    WorkerEnd(both.worker.mine).send(Ready({}))


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

    def arrived(self, number):
        self.waited.append(number)
        return True

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
    assert (parts.shipped, parts.waited) == ([1], [1])
    both.worker.bridge.close()
    assert parts.closings == 1
