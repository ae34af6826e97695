"""Backups: each worker's own last pull, kept once per version however many workers read it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tardigrad
from tardigrad.backups import Backups
from tardigrad.errors import ProtocolError

MODEL = 256 * 4  # bytes


def a_server(workers, rule="dc-asgd-c", **keywords):
    return tardigrad.ParameterServer([torch.ones(256)], tardigrad.rule(rule), lr=0.1, workers=workers, **keywords)


def backup_copies(server):
    return server.bytes_held()["backups"] / MODEL


def test_workers_that_read_the_same_version_share_one_copy():
    server = a_server(16, consistency="synchronous")
    for _ in range(3):
        for worker in range(16):
            server.pull(worker)
        assert backup_copies(server) <= 2  # one, and the one it replaces, kept for the next round
        for worker in range(16):
            server.push(worker, [torch.ones(256)])


def test_at_most_one_copy_per_worker_is_ever_made():
    server = a_server(4)
    for turn in range(40):
        worker = turn * 7 % 4
        server.push(worker, [torch.ones(256)])
        server.pull(worker)
    assert backup_copies(server) == 4


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40))
def test_a_gradient_is_compensated_against_the_pushers_own_last_pull(events):
    """With lambda 1 and gradient 1 a push subtracts lr (1 + w - backup), whichever workers came between."""
    w0 = torch.zeros(1, dtype=torch.float64)
    server = tardigrad.ParameterServer([w0], tardigrad.rule("dc-asgd-c", lambda0=1.0), lr=0.25, workers=4)
    held, w = dict.fromkeys(range(4), 0.0), 0.0
    for push, worker in events:
        if push:
            server.push(worker, [torch.ones(1, dtype=torch.float64)])
            w -= 0.25 * (1.0 + (w - held[worker]))
        else:
            assert server.pull(worker).weights[0].item() == pytest.approx(w, abs=1e-12)
            held[worker] = w
        assert server.weights()[0].item() == pytest.approx(w, abs=1e-12)


def test_a_worker_that_joins_late_begins_with_a_pull():
    """By then w_0 has left the server's memory; whatever such a worker pushed would have been computed on nothing."""
    server = a_server(2)
    for worker in (0, 1, 0, 1):
        server.push(worker, [torch.ones(256)])
        server.pull(worker)
    server.join(5)
    with pytest.raises(ProtocolError, match="worker 5 joined after version 0 and has not pulled; pull first"):
        server.push(5, [torch.ones(256)])
    assert server.version == 4
    assert server.pull(5).version == 4
    assert server.push(5, [torch.ones(256)]).staleness == 0
    server.leave(5)
    server.join(5)
    assert server.pull(5).version == 5


def test_a_worker_that_leaves_and_returns_before_the_first_commit_still_starts_at_w_0():
    server = a_server(1)
    server.leave(0)
    server.join(0)
    assert server.push(0, [torch.ones(256)]).staleness == 0


def test_memory_of_a_worker_that_left_is_used_again():
    server = a_server(3)
    for _ in range(5):
        for worker in (0, 1, 2):
            server.push(worker, [torch.ones(256)])
            server.pull(worker)
        server.leave(2)
        server.join(2)
        server.pull(2)
    assert backup_copies(server) <= 4


def test_a_worker_that_left_gives_its_copy_back():
    server = a_server(3)
    for worker in (0, 1, 2):
        server.push(worker, [torch.ones(256)])
        server.pull(worker)
    assert backup_copies(server) == 3
    server.leave(2)
    assert backup_copies(server) == 2


@pytest.mark.parametrize(("rule", "copies"), [("asgd", 0), ("staleness-lr", 0), ("dc-asgd-c", 3), ("dc-asgd", 3)])
def test_a_backup_that_no_rule_reads_is_not_kept_for_who_has_weights_of_its_own(rule, copies):
    server, most = a_server(3, rule), 0
    for turn in range(20):
        worker = turn * 7 % 3
        assert server.push(worker, [torch.ones(256)]).accepted
        assert torch.equal(server.pull(worker).weights[0], server.weights()[0])
        assert server.read_version(worker) == server.version
        most = max(most, backup_copies(server))
    assert most == copies


def test_who_computes_on_the_servers_memory_gets_a_copy_of_that_version_under_every_rule():
    """Weights are overwritten in place: the copy is what a simulated worker computes on, later."""
    server = a_server(3, "asgd")
    read = {worker: server.pull(worker, copy=False).flat for worker in range(3)}
    assert backup_copies(server) == 1
    first = read[0].clone()
    server.push(0, [torch.ones(256)])
    read[0] = server.pull(0, copy=False).flat
    assert backup_copies(server) == 2
    assert torch.equal(read[1], first)
    assert torch.equal(read[0], server.flat)


def test_versions_without_copies_survive_a_state():
    server, other = a_server(2, "asgd"), a_server(2, "asgd")
    server.push(0, [torch.ones(256)])
    server.pull(0)
    other.load_state_dict(server.state_dict())
    assert [other.read_version(worker) for worker in range(2)] == [1, 0]
    assert other.push(1, [torch.ones(256)]).staleness == 1
    assert backup_copies(other) == 0


def test_a_place_takes_the_place_of_a_copy():
    """As with real workers: what was kept before they had slots is given back."""
    for rule in ("asgd", "dc-asgd-c"):
        server = a_server(2, rule)
        places = [torch.zeros(256) for _ in range(2)]
        for worker, place in enumerate(places):
            server.backups.keep_in(worker, place)
        assert backup_copies(server) == 2, "the places, and nothing beside them"
        for worker, place in enumerate(places):
            assert server.pull(worker, copy=False).flat is place
            assert torch.equal(place, server.flat)


def test_a_snapshot_that_is_not_copied_is_the_backup_itself():
    server = a_server(1)
    borrowed = server.pull(0, copy=False)
    assert borrowed.weights == []
    assert torch.equal(borrowed.flat, server.flat)
    server.push(0, [torch.ones(256)])
    assert torch.equal(borrowed.flat, torch.ones(256)), "a backup does not move with the weights"


def test_a_place_that_holds_what_is_read_next_is_nobodys_backup_yet():
    """Two workers read version 5; the place of one is written for version 6 before it pulls: 5 is the other's."""
    backups, w5, w6 = Backups(), torch.full((3,), 5.0), torch.full((3,), 6.0)
    places = {worker: torch.zeros(3) for worker in (0, 1)}
    for worker, place in places.items():
        backups.keep_in(worker, place)
        backups.take(worker, 5, w5)
    places[1].copy_(w6)
    backups.wrote(1, 6)
    restored = Backups()
    restored.load_state_dict(backups.state_dict(), like=w5)
    assert torch.equal(restored.of(0), w5)
    assert torch.equal(restored.of(1), w5)  # the other's copy is of the version it read too
    backups.take(1, 6, w6)
    restored.load_state_dict(backups.state_dict(), like=w5)
    assert torch.equal(restored.of(0), w5)
    assert torch.equal(restored.of(1), w6)
