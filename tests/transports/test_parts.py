"""Parts of slots on connections of their own: a message is handed on when all parts of its number are there."""

import itertools
import queue
import select
import threading
from time import sleep

import pytest
import torch
from lines import closed

from tardigrad.engines.joined.office import Office
from tardigrad.records import Lease
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.connections import Stalled
from tardigrad.transports.credentials import Credentials, new_secret
from tardigrad.transports.meeting import Listener, dial
from tardigrad.transports.parts import Desk, Elsewhere, Tally, WorkerParts
from tardigrad.transports.slots import Order, Pushed, ServerEnd, Slot, SlotLayout, WorkerEnd, ends

ELEMENTS, CUTS = 1000, (0, 256, 640, 1000)
LAYOUT = SlotLayout(torch.float32, ELEMENTS, (("mean", torch.float32, (3,), 4032),), 4096)
SOON = 30.0


class Queued:
    """One end of messages between two threads."""

    def __init__(self, inbox, outbox):
        self._inbox, self._outbox = inbox, outbox

    def send(self, word, content, tensors):
        self._outbox.put((word, dict(content), {}))

    def receive(self):
        message = self._inbox.get()
        if message is None:
            raise EOFError
        return message

    def close(self):
        self._inbox.put(None)
        self._outbox.put(None)


class Shard:
    """A desk in this process whose range lies in the server's own slots, as that of a process of its machine does."""

    def __init__(self, credentials, slots, start, stop):
        one, other = queue.Queue(), queue.Queue()
        self.post, theirs = Queued(one, other), Queued(other, one)
        views = tuple(slots[name].flat.numpy().data.cast("B")[start:stop] for name in ("down", "up"))
        self.desk = Desk(lambda worker: views, theirs)
        self.listener = Listener("127.0.0.1:0", credentials, met=self.desk.met)
        self.elsewhere = Elsewhere(":" + self.listener.address.rpartition(":")[2], start, stop)
        self._hearing = threading.Thread(target=self.desk.serve)
        self._hearing.start()

    def close(self):
        self.listener.close()
        self.desk.close()
        self._hearing.join()


class Stage:
    """A server's side with three shards, a worker's side, and a line between them."""

    def __init__(self):
        self.credentials = Credentials(new_secret(), trusted=True)
        self.slots = {name: Slot.make(LAYOUT, name) for name in ("down", "up", "their down", "their up")}
        places = [(4 * start, 4 * stop) for start, stop in itertools.pairwise(CUTS[1:])]
        self.shards = [Shard(self.credentials, self.slots, *place) for place in places]
        self.office = Office([shard.post for shard in self.shards], [shard.elsewhere for shard in self.shards])
        self.lines = queue.Queue()
        self.listener = Listener("127.0.0.1:0", self.credentials, met=self.lines.put)
        self.lost = queue.Queue()
        self.server_parts = self.office.parts_of(3, "life")
        mine, theirs = ends()
        self.server_end = ServerEnd(mine)
        self.server = self.bridge(theirs, "server", "down", "up", self.server_parts)
        self.server_parts.lost = self.server.cut
        memory = (self.slots[name].flat.numpy().data.cast("B") for name in ("their down", "their up"))
        elsewhere = [shard.elsewhere for shard in self.shards]
        self.worker_parts = WorkerParts(*memory, elsewhere, "life", self.credentials)
        theirs, mine = ends()
        self.worker_end = WorkerEnd(mine)
        self.worker = self.bridge(theirs, "worker", "their down", "their up", self.worker_parts)
        self.ends = [self.server_end, mine]

    def bridge(self, end, side, down, up, parts):
        slots = {"down": self.slots[down], "up": self.slots[up]}
        owner = {"told": lambda *words: None, "lost": lambda how, why: self.lost.put(how)}
        return Bridge(end, side=side, **slots, speaks="task", **owner, parts=parts)

    def connect(self):
        """As an agent and a server do: at first, and again when a line was lost."""
        received = {side: side.detach() for side in (self.server, self.worker)}
        channel = dial(self.listener.address, self.credentials, timeout=SOON)
        self.worker_parts.connect(channel.peer)
        self.server.attach(self.lines.get(timeout=SOON), received=received[self.worker])
        self.worker.attach(channel, received=received[self.server])

    def order(self, number):
        self.slots["down"].flat.fill_(number + 0.5)
        self.slots["down"].buffers["mean"].fill_(number)
        self.server_end.send(Order(number, 0, Lease(0, 0, 8)))

    def push(self, number):
        self.slots["their up"].flat.fill_(-number - 0.5)
        self.slots["their up"].buffers["mean"].fill_(-number)
        self.worker_end.send(Pushed(number, 0, 0.25, 1.0, 3.5))

    def require_alike(self, mine, theirs):
        one, other = self.slots[mine], self.slots[theirs]
        assert torch.equal(one.flat, other.flat)
        assert torch.equal(one.buffers["mean"], other.buffers["mean"])

    def close(self):
        self.worker.close()
        self.server.close()
        self.office.close()
        closed(self.listener, *self.shards, *self.ends, *self.slots.values())


@pytest.fixture
def stage():
    before = set(threading.enumerate())
    made = Stage()
    yield made
    made.close()
    assert set(threading.enumerate()) == before


def exchange(stage, number):
    stage.order(number)
    assert stage.worker_end.receive().version == number
    stage.require_alike("down", "their down")
    stage.push(number)
    assert stage.server_end.receive().version == number
    stage.require_alike("up", "their up")


def test_all_parts_of_weights_and_gradients_are_there_when_their_message_is(stage):
    stage.connect()
    for number in range(1, 6):
        exchange(stage, number)


def test_the_bridge_itself_carries_the_first_range_and_the_buffers_only(stage):
    assert stage.server_parts.mine(4096) == stage.worker_parts.mine(4096) == [slice(0, 1024), slice(4000, 4096)]


def awaited(stage):
    """The server's bridge has a push of which one part is missing: how that is shipped, and its number."""
    kept, line = queue.Queue(), stage.worker_parts._lines[1]
    line.ship, ship = kept.put, line.ship
    tally = stage.server_parts._tally
    other_came, note = threading.Event(), tally.note
    tally.note = lambda key, number: (note(key, number), other_came.set())
    stage.push(2)
    number = kept.get(timeout=SOON)
    assert other_came.wait(SOON)
    while not tally._changed._waiters:  # until the bridge's thread waits for the rest
        sleep(0)
    return ship, number


def test_a_push_of_which_a_part_is_missing_is_never_handed_on(stage):
    stage.connect()
    exchange(stage, 1)
    stage.order(2)
    stage.worker_end.receive()
    ship, number = awaited(stage)
    assert not select.select([stage.server_end], [], [], 0.0)[0]
    assert stage.server.received == 1
    ship(number)
    assert stage.server_end.receive().version == 2
    stage.require_alike("up", "their up")


def test_a_worker_that_dies_between_its_parts_leaves_the_server_as_if_it_had_not_pushed(stage):
    stage.connect()
    exchange(stage, 1)
    stage.order(2)
    stage.worker_end.receive()
    awaited(stage)
    stage.worker.close()
    assert stage.lost.get(timeout=SOON) in ("ended", "stalled")
    stage.server.close()
    with pytest.raises((EOFError, OSError)):
        stage.server_end.receive()
    assert stage.server.received == 1


@pytest.mark.parametrize("give_up", ["cut", "detach"])
def test_nobody_awaits_parts_of_a_line_that_is_given_up(stage, give_up):
    """So one worker's cable never holds up the thread that serves them all."""
    stage.connect()
    exchange(stage, 1)
    stage.order(2)
    stage.worker_end.receive()
    stage.server._route.channel.pause = 3600.0  # it is woken, and does not look by chance
    ship, number = awaited(stage)
    receiving = stage.server._route.receiving
    giving_up = threading.Thread(target=getattr(stage.server, give_up), daemon=True)
    giving_up.start()
    giving_up.join(SOON / 4)
    receiving.join(SOON / 4)
    held = giving_up.is_alive() or receiving.is_alive()
    ship(number)
    receiving.join()
    assert not held
    assert stage.server.received == 1


def test_a_line_on_which_parts_are_awaited_is_kept_alive(stage):
    stage.connect()
    exchange(stage, 1)
    stage.order(2)
    stage.worker_end.receive()
    beats, channel = threading.Semaphore(0), stage.server._route.channel
    channel.pause = 0.001
    channel._connection.beat = lambda frame: beats.release()
    ship, number = awaited(stage)
    for _ in range(3):
        assert beats.acquire(timeout=SOON)
    ship(number)
    assert stage.server_end.receive().version == 2


def test_after_a_line_is_lost_everything_goes_on_once_it_is_connected_again(stage):
    stage.connect()
    exchange(stage, 1)
    stage.worker_parts._lines[0]._channel.close()  # one part's line only: the server gives the others up too
    assert stage.lost.get(timeout=SOON)
    stage.order(2)  # what is said meanwhile arrives later
    stage.connect()
    assert stage.worker_end.receive().version == 2
    stage.require_alike("down", "their down")
    stage.push(2)
    assert stage.server_end.receive().version == 2
    stage.require_alike("up", "their up")
    exchange(stage, 3)


def test_whoever_names_no_life_that_the_server_told_of_is_left(stage, monkeypatch):
    monkeypatch.setattr("tardigrad.transports.parts._EXPECTING", 0.0)
    channel = dial(stage.shards[0].listener.address, stage.credentials, timeout=SOON)
    channel.send("parts", {"life": "another"})
    with pytest.raises((EOFError, OSError)):
        channel.receive()
    channel.close()


def test_a_tally_waits_for_all_and_gives_up_where_a_missing_one_is_lost():
    tally = Tally([0, 1])
    tally.note(0, 7)
    tally.lose(1)
    with pytest.raises(Stalled, match="shard 1"):
        tally.wait(7)
    tally.note(1, 8)
    assert tally.wait(7)  # all there: that the line is lost by now matters no more
    tally.lose(1, lost=False)
    with pytest.raises(ZeroDivisionError):
        tally.wait(9, lambda: 1 // 0)
    tally.close()
    assert not tally.wait(9)


@pytest.mark.parametrize(
    ("address", "peer", "dialled"),
    [
        (":7071", "10.0.0.2:7070", "10.0.0.2:7071"),
        ("10.0.0.9:5", "10.0.0.2:7070", "10.0.0.9:5"),
        (":7", "[::1]:9", "[::1]:7"),
    ],
)
def test_a_shard_without_a_host_is_where_the_server_is(address, peer, dialled):
    assert Elsewhere(address, 0, 4).reached_by(peer) == dialled
