"""Servers with and without shards, driven alike; and shards at the far end of messages, without a process."""

import json
from collections import deque

import torch

import tardigrad
from tardigrad.server import ParameterServer
from tardigrad.shards.far import FarLink, Holder
from tardigrad.shards.server import ShardedServer
from tardigrad.testing.walks import initial_weights
from tardigrad.trees import packed, unpacked

WEIGHTS = initial_weights(torch.float32)


class Told:
    """Messages to a holder in this process: JSON and tensors, nothing else, as between two processes."""

    room = 200  # answers that nobody has read; sockets hold some hundreds, and then both ends wait for each other

    def __init__(self):
        self.holder, self._answers = Holder(self), deque()
        self.gone = False

    def send(self, word, content, tensors):
        if self.gone:
            raise ConnectionResetError("gone")
        assert len(self._answers) < self.room
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        word, plain, answered = self.holder._answered(word, json.loads(json.dumps(content)), copies)
        copies = {name: tensor.clone() for name, tensor in answered.items()}
        self._answers.append((word, json.loads(json.dumps(plain)), copies))

    def receive(self):
        if self.gone:
            raise EOFError
        return self._answers.popleft()

    def close(self):
        self.gone = True


class Far(FarLink):
    """A link that shows its post."""

    def __init__(self, plan, weights):
        self.told = Told()
        super().__init__(plan, self.told, weights)
        self.built()

    def keep_in(self, worker, down, up):
        """Nothing there is seen."""

    def carries(self, worker):
        return True


def far(plans, weights):
    """Shards that only messages reach."""
    return [Far(plan, flat) for plan, flat in zip(plans, weights, strict=True)]


class Slot:
    """As a slot in shared memory, without one."""

    def __init__(self, size, dtype=torch.float32):
        self.descriptor, self.flat = -1, torch.zeros(size, dtype=dtype)


def alike(one, other, place="state"):
    """Raise AssertionError unless two trees are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert sorted(map(str, one)) == sorted(map(str, other)), place
        theirs = {str(key): value for key, value in other.items()}
        for key, value in one.items():
            alike(value, theirs[str(key)], f"{place} {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            alike(mine, theirs, f"{place}[{number}]")
    else:
        assert one == other, f"{place}: {one} and {other}"


def written_and_read(state):
    """A state as a checkpoint gives it back: keys are words."""
    tensors = {}
    plain = json.loads(json.dumps(packed(state, "", tensors)))
    return unpacked(plain, {name: tensor.clone() for name, tensor in tensors.items()})


def pair(rule="dc-asgd-a", *, shards=3, opening=far, weights=WEIGHTS, leases=None, **settings):
    """A server, and a sharded one, made with the same arguments."""
    made = tardigrad.rule(rule) if isinstance(rule, str) else rule
    settings = {"lr": 0.05, "workers": 3, **settings}
    whole = ParameterServer(weights, made, leases=leases and leases(), **settings)
    return whole, ShardedServer(
        weights, made, shards=shards, opening=opening, leases=leases and leases(), **settings
    )  # fmt: skip


def require_equal(whole, sharded):
    assert torch.equal(whole.flat, sharded.flat)
    alike(whole.state_dict(under_way=True), sharded.state_dict(under_way=True))


def raising(error):
    raise error
