"""Synchronous rounds and ssp on a server: large-batch SGD, late pushes, workers that leave or find no samples."""

import itertools

import pytest
import torch
from torch import nn

import tardigrad
from tardigrad.errors import ProtocolError
from tardigrad.leases import Leases
from tardigrad.records import Commit, Held, Rejected
from tardigrad.testing.walks import gradient, initial_weights

ONE = torch.ones(1)


def a_server(weights=None, rule="asgd", *, consistency="synchronous", lr=1.0, workers=3, **keywords):
    weights = [torch.zeros(1)] if weights is None else weights
    made = tardigrad.rule(rule) if isinstance(rule, str) else rule
    return tardigrad.ParameterServer(weights, made, lr=lr, workers=workers, consistency=consistency, **keywords)


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def gradients_at(model, weights, inputs, targets):
    """The mean gradient over a batch, at these weights."""
    names = [name for name, _ in model.named_parameters()]
    pulled = {name: w.requires_grad_() for name, w in zip(names, weights, strict=True)}
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, pulled, inputs), targets)
    return torch.autograd.grad(loss, list(pulled.values()))


def batches(rounds, sizes):
    """One batch per worker and round, each of its worker's size."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(rounds):
        yield [
            (torch.randn(n, 6, generator=draw, dtype=torch.float64), torch.randint(0, 4, (n,), generator=draw))
            for n in sizes
        ]


@pytest.mark.parametrize("sizes", [(5, 5, 5), (5, 2, 9)], ids=["even", "uneven"])
@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}], ids=str)
def test_synchronous_equals_large_batch_sgd_weighted_by_samples(sizes, optimizer):
    model, reference = a_model(), a_model()
    server = a_server(list(model.parameters()), tardigrad.rule("dc-asgd-a", **optimizer), lr=0.2)
    sgd = torch.optim.SGD(reference.parameters(), lr=0.2, **optimizer)
    for round_ in batches(20, sizes):
        snapshots = [server.pull(worker) for worker in range(3)]
        for worker, (inputs, targets) in enumerate(round_):
            g = gradients_at(model, snapshots[worker].weights, inputs, targets)
            result = server.push(worker, g, samples=len(inputs))
        assert isinstance(result, Commit)
        sgd.zero_grad()
        whole = [torch.cat(part) for part in zip(*round_, strict=True)]
        nn.functional.cross_entropy(reference(whole[0]), whole[1]).backward()
        sgd.step()
        for ours, theirs in zip(server.weights(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-13)
    assert server.version == 20
    assert server.samples_applied == 20 * sum(sizes)


def play_rounds(server, rounds=12):
    """Everyone pulls, then everyone pushes, in rounds."""
    for number in range(rounds):
        read = [server.pull(worker).weights for worker in range(3)]
        for worker in range(3):
            server.push(worker, gradient(read[worker], 3 * number + worker))
    return server.weights()


def assert_close(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


def test_ssp_of_zero_with_asgd_is_ssgd_at_so_many_times_the_rate():
    one_by_one = a_server(initial_weights(torch.float64), consistency="ssp(0)", lr=0.02)
    at_once = a_server(initial_weights(torch.float64), lr=3 * 0.02)
    assert_close(play_rounds(one_by_one), play_rounds(at_once))
    assert (one_by_one.version, at_once.version) == (36, 12)


def test_ssp_of_zero_with_constant_compensation_is_dc_ssgd_in_arrival_order():
    """Supplement H, (110) and (111): w~(j+1) = w~(j) - (lr^ / M) (g + lambda g g (w~(j) - w_t))."""
    server = a_server(initial_weights(torch.float64), "dc-asgd-c(lambda0=0.7)", consistency="ssp(0)", lr=0.02)
    w = initial_weights(torch.float64)
    for number in range(12):
        unfolded = [tensor.clone() for tensor in w]
        for worker in range(3):
            for tensor, start, g in zip(unfolded, w, gradient(w, 3 * number + worker), strict=True):
                tensor -= 0.06 / 3 * (g + 0.7 * g * g * (tensor - start))
        w = unfolded
    assert_close(play_rounds(server), w)


def test_linear_scaling_is_the_rate_times_the_contributions():
    scaled = a_server(initial_weights(torch.float64), consistency="synchronous(lr_scaling='linear')", lr=0.02)
    assert_close(play_rounds(scaled), play_rounds(a_server(initial_weights(torch.float64), lr=0.06)))
    scaled.leave(2)
    scaled.push(0, gradient(scaled.pull(0).weights, 0))
    assert scaled.push(1, gradient(scaled.pull(1).weights, 0)).lr == pytest.approx(0.04)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_arrival_changes_no_bit(order):
    def end(order):
        server = a_server(initial_weights(torch.float32), "dc-asgd-a(shared=True)", lr=0.1)
        for number in range(4):
            read = {worker: server.pull(worker).weights for worker in order}
            for worker in order:
                last = server.push(worker, gradient(read[worker], 3 * number + worker), samples=worker + 1)
            assert [part.worker for part in last.contributions] == [0, 1, 2]
        return server.flat

    assert torch.equal(end(order), end((0, 1, 2)))


def test_a_push_is_held_until_its_round_is_complete():
    server = a_server()
    for worker in range(3):
        server.pull(worker)
    for worker in (1, 0):
        held = server.push(worker, [ONE])
        assert held == Held(version=0, worker=worker, staleness=0)
        assert held.accepted
    assert server.ready() == []
    commit = server.push(2, [ONE])
    assert (commit.version, commit.worker, commit.staleness) == (1, 2, 0)
    assert server.ready() == [0, 1, 2]
    assert server.weights()[0].item() == -1.0


def test_a_held_push_keeps_its_own_gradient():
    server = a_server(workers=2)
    pushed = torch.ones(1)
    for worker in range(2):
        server.pull(worker)
    server.push(0, pushed)
    pushed.fill_(100.0)
    server.push(1, torch.ones(1))
    assert server.weights()[0].item() == -1.0


def test_a_second_push_in_a_round_is_refused_and_changes_nothing():
    server = a_server(workers=2)
    for worker in range(2):
        server.pull(worker)
    server.push(0, [ONE], seq=0)
    for call in (lambda: server.push(0, [5 * ONE], seq=1), lambda: server.pull(0)):
        with pytest.raises(ProtocolError, match=r"worker 0 (has already pushed in this round|must wait)"):
            call()
    assert server.push(0, [5 * ONE], seq=0).reason == "duplicate"
    assert server.push(1, [ONE]).version == 1
    assert server.weights()[0].item() == -1.0
    server.pull(0)
    assert server.push(0, [ONE], seq=1).accepted


def test_late_pushes_are_dropped_and_their_leases_returned():
    leases = Leases(12, 2, epochs=1, workers=3)
    server = a_server(consistency="synchronous(wait_for=2)", leases=leases)
    held = [server.pull(worker).lease for worker in range(3)]
    server.push(2, [ONE])
    assert server.push(0, [ONE]).version == 1
    late = server.push(1, [100 * ONE])
    assert late == Rejected(1, 1, 1, "late", held[1], lost=False)
    assert server.weights()[0].item() == -1.0
    assert server.pull(0).lease == held[1], "what was dropped is computed next"
    assert server.pull(1).version == 1
    assert leases.applied == 4


def test_pulling_again_makes_a_late_worker_timely():
    server = a_server(consistency="synchronous(wait_for=2)")
    for worker in range(3):
        server.pull(worker)
    server.push(0, [ONE])
    server.push(1, [ONE])
    server.pull(2)
    assert server.push(2, [ONE]).accepted


def test_the_round_of_a_worker_that_left_is_settled():
    server = a_server()
    for worker in range(3):
        server.pull(worker)
    server.push(0, [ONE])
    server.push(2, [3 * ONE])
    assert server.settle() is None
    server.leave(1)
    commit = server.settle()
    assert [part.worker for part in commit.contributions] == [0, 2]
    assert server.weights()[0].item() == -2.0
    assert server.settle() is None
    assert server.ready() == [0, 2]


def test_the_push_of_a_worker_that_left_still_counts():
    server = a_server(workers=2)
    for worker in range(2):
        server.pull(worker)
    server.push(0, [3 * ONE])
    server.leave(0)
    assert [part.worker for part in server.push(1, [ONE]).contributions] == [0, 1]
    assert server.weights()[0].item() == -2.0
    assert server.live == [1]


def test_a_worker_that_returns_while_its_old_push_waits_waits_with_it():
    server = a_server(workers=2)
    for worker in range(2):
        server.pull(worker)
    server.push(0, [3 * ONE])
    server.leave(0)
    assert server.join(0) == 1
    assert server.ready() == []
    with pytest.raises(ProtocolError):
        server.push(0, [ONE])
    commit = server.push(1, [ONE])
    assert [(part.worker, part.incarnation) for part in commit.contributions] == [(0, 0), (1, 0)]
    assert server.pull(0).version == 1


def run_one_at_a_time(server, pick):
    """Whoever may read does, one after the other, asked anew each time; then the one that ``pick`` says pushes."""
    computing = []
    for _ in range(1000):
        ready = server.ready()
        if ready:
            if server.pull(ready[0]).lease is not None:
                computing.append(ready[0])
        elif computing:
            result = server.push(computing.pop(pick(len(computing))), [ONE])
            if not isinstance(result, Commit):
                server.settle()
        else:
            return


@pytest.mark.parametrize("pick", [lambda n: 0, lambda n: n - 1, lambda n: n // 2], ids=["first", "last", "middle"])
@pytest.mark.parametrize("sizes", [2, [1, 4, 3]], ids=["even", "uneven"])
@pytest.mark.parametrize("policy", ["dynamic", "static"])
@pytest.mark.parametrize("samples", [1, 2, 10, 23])
@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(0)", "ssp(2)", "synchronous", "synchronous(wait_for=2)"])
def test_workers_for_whom_no_samples_are_left_keep_nobody_waiting(consistency, samples, policy, sizes, pick):
    leases = Leases(samples, sizes, epochs=3, workers=3, policy=policy)
    run_one_at_a_time(a_server(consistency=consistency, leases=leases), pick)
    assert (leases.applied, leases.finished_epochs) == (3 * samples, 3)


@pytest.mark.parametrize("consistency", ["ssp(0)", "synchronous"])
def test_a_worker_that_joins_when_all_is_handed_out_keeps_nobody_waiting(consistency):
    leases = Leases(4, 1, epochs=1, workers=2)
    server = a_server(consistency=consistency, workers=2, leases=leases)
    for _ in range(2):
        for worker in (0, 1):
            server.pull(worker)
        server.push(0, [ONE])
        if leases.available(0) is False:
            server.join(7)
        assert server.push(1, [ONE]).accepted
    assert leases.finished_epochs == 1


def test_a_parked_worker_takes_part_again_when_samples_come_back():
    leases = Leases(2, 1, epochs=1, workers=3)
    server = a_server(leases=leases)
    held = {worker: server.pull(worker).lease for worker in range(3)}
    assert held[2] is None
    assert server.ready() == []
    server.leave(0)
    assert server.ready() == [2]
    assert server.pull(2).lease == held[0]
    server.push(1, [ONE])
    assert server.push(2, [ONE]).version == 1
    assert leases.finished_epochs == 1
