"""Shards with slots of their own, reached over connections only: the same bits, and nothing half applied."""

import math
import threading

import pytest
import torch
from sharded import Slot, alike

import tardigrad
from tardigrad.engines.joined.office import office_of
from tardigrad.engines.joined.remote import ShardHost, remote_shards
from tardigrad.errors import ShardLost
from tardigrad.records import Push, Rejected
from tardigrad.server import ParameterServer
from tardigrad.shards.server import ShardedServer
from tardigrad.testing.walks import gradient, initial_weights
from tardigrad.transports.credentials import Credentials, new_secret
from tardigrad.transports.meeting import dial
from tardigrad.transports.parts import WorkerParts

SIZE = 502


class Stage:
    """A server, one with two hosts in this process, and slots of two workers for each."""

    def __init__(self, consistency):
        self.before = set(threading.enumerate())
        self.credentials = Credentials(new_secret(), trusted=True)
        self.hosts = [ShardHost("127.0.0.1:0", self.credentials) for _ in range(2)]
        self.threads = [threading.Thread(target=host.serve) for host in self.hosts]
        for thread in self.threads:
            thread.start()
        rule, weights = tardigrad.rule("dc-asgd-a", momentum=0.9), initial_weights(torch.float32)
        settings = {"lr": 0.05, "workers": 2, "consistency": consistency}
        opening = remote_shards([host.address for host in self.hosts], self.credentials)
        self.whole = ParameterServer(weights, rule, **settings)
        self.sharded = ShardedServer(weights, rule, shards=3, opening=opening, **settings)
        self.servers = (self.whole, self.sharded)
        self.office = office_of(self.sharded, "127.0.0.1:0", self.credentials, lambda number: None)
        self.slots = [{worker: (Slot(SIZE), Slot(SIZE)) for worker in range(2)} for _ in self.servers]
        self.theirs = {}
        for server, own in zip(self.servers, self.slots, strict=True):
            for worker, (down, up) in own.items():
                server.keep_in(worker, down, up)

    def joins(self, worker):
        """This worker brings and fetches its parts itself, with slots on a machine of its own."""
        life = f"life {worker}"
        parts = self.office.parts_of(worker, life)
        down, up = Slot(SIZE), Slot(SIZE)
        memory = (slot.flat.numpy().data.cast("B") for slot in (down, up))
        mine = WorkerParts(*memory, self.office.elsewhere, life, self.credentials)
        mine.connect("127.0.0.1:1")
        self.theirs[worker] = (down, up, parts, mine, [0, 0])

    def pull(self, worker):
        """What the worker finds in its slot."""
        for server in self.servers:
            server.pull(worker, copy=False)
        if worker not in self.theirs:
            return self.slots[1][worker][0].flat
        down, _, parts, mine, numbers = self.theirs[worker]
        numbers[0] += 1
        parts.ship(numbers[0])
        for place in parts.mine(4 * SIZE):  # as the bridge itself does
            cut = slice(place.start // 4, place.stop // 4)
            down.flat[cut] = self.slots[1][worker][0].flat[cut]
        assert mine.arrived(numbers[0])
        return down.flat

    def push(self, worker, flat, **keywords):
        """Results of both servers for one gradient, which lies where the worker has it."""
        self.slots[0][worker][1].flat.copy_(flat)
        own = self.slots[1][worker][1].flat
        if worker in self.theirs:
            _, up, parts, mine, numbers = self.theirs[worker]
            up.flat.copy_(flat)
            numbers[1] += 1
            mine.ship(numbers[1])
            own.fill_(-7.0)  # what other shards hold does not lie here
            for place in parts.mine(4 * SIZE):
                cut = slice(place.start // 4, place.stop // 4)
                own[cut] = up.flat[cut]
            assert parts.arrived(numbers[1])
        else:
            own.copy_(flat)
        pushes = (Push(worker, slots[worker][1].flat, **keywords) for slots in self.slots)
        return [server.receive(push, lasting=True) for server, push in zip(self.servers, pushes, strict=True)]

    def close(self):
        for *_, parts, mine, _ in self.theirs.values():
            mine.close()
            parts.close()
        self.office.close()
        self.sharded.close()
        for thread in self.threads:
            thread.join()
        assert set(threading.enumerate()) == self.before


@pytest.fixture
def make():
    made = []

    def making(consistency="asynchronous"):
        made.append(Stage(consistency))
        return made[-1]

    yield making
    for stage in made:
        stage.close()


@pytest.mark.parametrize("consistency", ["asynchronous", "synchronous"])
def test_workers_here_and_elsewhere_see_what_one_server_hands_out(make, consistency):
    stage = make(consistency)
    stage.joins(1)
    for number in range(8):
        for worker in stage.whole.ready():
            assert torch.equal(stage.pull(worker), stage.slots[0][worker][0].flat)
        worker = number % 2
        alike(*map(str, stage.push(worker, stage.whole.layout.pack(gradient(stage.whole.weights(), number)))))
        alike(*(server.state_dict(under_way=True) for server in stage.servers))


def test_a_push_that_waits_counts_though_its_worker_has_gone_and_come_again(make):
    stage = make("synchronous")
    stage.joins(1)
    for worker in range(2):
        stage.pull(worker)
    stage.push(1, torch.full((SIZE,), 0.25))
    for server, own in zip(stage.servers, stage.slots, strict=True):
        server.leave(1)
        server.join(1)
        own[1] = (Slot(SIZE), Slot(SIZE))
        server.keep_in(1, *own[1])
    stage.push(0, torch.full((SIZE,), 0.5))
    for server in stage.servers:
        server.settle()
    assert stage.whole.version == 1
    alike(*(server.state_dict(under_way=True) for server in stage.servers))


def test_a_gradient_that_is_not_finite_far_away_is_refused(make):
    stage = make()
    stage.joins(1)
    stage.pull(1)
    flat = torch.ones(SIZE)
    flat[-1] = math.nan
    one, other = stage.push(1, flat, norm=math.nan)
    assert isinstance(other, Rejected)
    assert str(one) == str(other)
    assert torch.equal(stage.whole.flat, stage.sharded.flat)


def test_a_host_that_ends_is_a_lost_shard(make):
    stage = make()
    stage.pull(0)
    stage.sharded.links[2]._post.close()
    with pytest.raises(ShardLost, match="shard 2"):
        stage.push(0, torch.ones(SIZE))


def test_a_host_does_not_talk_to_strangers():
    host = ShardHost("127.0.0.1:0", Credentials(new_secret(), trusted=True))
    serving = threading.Thread(target=host.serve, kwargs={"patience": 0.0})
    channel = dial(host.address, host._listener._credentials, timeout=30.0)
    channel.send("another word")
    with pytest.raises((EOFError, OSError)):
        channel.receive()
    channel.close()
    serving.start()
    serving.join()


def test_where_one_host_is_not_there_all_are_told_that_they_are_not_needed():
    credentials, ended = Credentials(new_secret(), trusted=True), []
    host = ShardHost("127.0.0.1:0", credentials)
    serving = threading.Thread(target=host.serve)
    serving.start()
    opening = remote_shards([host.address, "127.0.0.1:1"], credentials, ended=lambda: ended.append(True))
    with pytest.raises(ShardLost, match=r"shard 2.*127\.0\.0\.1:1"):
        ShardedServer(initial_weights(torch.float32), tardigrad.rule("asgd"), lr=0.1, shards=3, opening=opening)
    serving.join()
    assert ended == [True, True]
