"""A state taken under way comes back whole: leases stay with their workers, and pushes wait on."""

import pytest
import torch

import tardigrad
from tardigrad.errors import ProtocolError
from tardigrad.leases import Leases

ONE = torch.ones(2)


def new(consistency, policy):
    leases = Leases(40, 3, epochs=2, workers=4, policy=policy, seed=5)
    return tardigrad.ParameterServer(
        [ONE],
        tardigrad.rule("dc-asgd-a", momentum=0.9),
        lr=0.1,
        workers=4,
        consistency=consistency,
        leases=leases,
        buffers={"mean": torch.zeros(2)},
    )


def under_way(server):
    """A few rounds; then a push waits, one was rejected, a worker has left, and others compute."""
    for _ in range(2):
        snapshots = {worker: server.pull(worker) for worker in server.ready()}
        for worker in snapshots:
            server.push(worker, [ONE * (worker + 1)], loss=0.5, buffers={"mean": ONE * worker})
    snapshots = {worker: server.pull(worker) for worker in server.ready()}
    server.push(0, [ONE], seq=7, loss=0.25)
    server.push(1, [ONE * torch.nan])
    server.leave(2)
    return snapshots


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize("policy", ["dynamic", "static"])
@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(2)", "synchronous", "synchronous(wait_for=3)"])
def test_a_state_under_way_loaded_and_taken_again_is_the_same(consistency, policy):
    server, restored = new(consistency, policy), new(consistency, policy)
    under_way(server)
    state = server.state_dict(under_way=True)
    assert state["leases"]["returned"]
    assert state["leases"]["outstanding"]
    assert bool(state["waiting"]) == consistency.startswith("synchronous")
    assert state["fruitless"] == 1
    restored.load_state_dict(state)
    assert same(restored.state_dict(under_way=True), state)
    assert restored.ready() == server.ready()
    assert restored.bytes_held() == server.bytes_held()


def test_a_worker_holds_what_it_was_handed():
    server, restored = new("asynchronous", "dynamic"), new("asynchronous", "dynamic")
    snapshot = under_way(server)[3]
    restored.load_state_dict(server.state_dict(under_way=True))
    held = restored.outstanding(3, {"mean": ONE})
    assert (held.version, held.lease, held.incarnation) == (snapshot.version, snapshot.lease, snapshot.incarnation)
    assert torch.equal(held.flat, snapshot.flat)
    assert held.buffers == {"mean": ONE}
    commits = [one.push(3, [ONE * 0.3]) for one in (server, restored)]
    assert commits[0] == commits[1]
    assert torch.equal(server.flat, restored.flat)


def test_a_waiting_push_counts_after_a_state():
    server, restored = new("synchronous", "dynamic"), new("synchronous", "dynamic")
    under_way(server)
    with pytest.raises(ProtocolError, match="under_way=True"):
        server.state_dict()
    restored.load_state_dict(server.state_dict(under_way=True))
    ends = []
    for one in (server, restored):
        one.pull(1)
        one.push(1, [ONE * 3.0])
        ends.append(one.push(3, [ONE * 5.0]))
    assert [part.worker for part in ends[0].contributions] == [0, 1, 3]
    assert ends[0] == ends[1]
    assert torch.equal(server.flat, restored.flat)
