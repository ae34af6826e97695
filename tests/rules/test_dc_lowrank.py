"""dc-lowrank: E (I + s E)^-1 (w - backup), E = kappa S^T S with the last gradients in S; from a cold start, through
joins and leaves, with momentum."""

import math

import numpy as np
import pytest
import torch

import tardigrad
from tardigrad.rules.dc_lowrank import DCLowRank, solved
from tardigrad.testing.walks import random_events, walk

SIZE, LR = 12, 0.3


def gradients(count, *, scale=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(SIZE, generator=draw, dtype=torch.float64) for _ in range(count)]


def serve(rule, pushed, *, workers=3, lr=LR, samples=16):
    """Workers in turn, so that staleness is workers - 1 from the second round on; the weights after each commit."""
    server = tardigrad.ParameterServer([torch.zeros(SIZE, dtype=torch.float64)], rule, lr=lr, workers=workers)
    for worker in range(workers):
        server.pull(worker)
    seen = []
    for number, gradient in enumerate(pushed):
        server.push(number % workers, [gradient], samples=samples)
        seen.append(server.weights()[0].numpy())
        server.pull(number % workers)
    return seen


def dense(pushed, *, kappa_of, window, damped=True, workers=3, lr=LR, gain=1.0, momentum=0.0):
    """The same by the definition, with the P x P matrix."""
    w, velocity, seen = np.zeros(SIZE), np.zeros(SIZE), []
    backups = [np.zeros(SIZE) for _ in range(workers)]
    for number, gradient in enumerate(pushed):
        rows = np.array([g.numpy() for g in pushed[max(0, number + 1 - window) : number + 1]])
        estimate = kappa_of(len(rows)) * rows.T @ rows
        if damped:
            estimate = estimate @ np.linalg.inv(np.eye(SIZE) + lr * gain * estimate)
        worker = number % workers
        fresh = np.array_equal(w, backups[worker])
        step = gradient.numpy() + (0.0 if fresh else estimate @ (w - backups[worker]))
        velocity = step if number == 0 else momentum * velocity + step
        w = w - lr * velocity
        seen.append(w)
        backups[worker] = w
    return seen


@pytest.mark.parametrize("damped", [True, False])
@pytest.mark.parametrize("window", [1, 4, 7, 100])
def test_it_is_the_dense_formula(window, damped):
    pushed = gradients(25, scale=0.3)
    rule = tardigrad.rule("dc-lowrank", kappa=0.8, window=window, damped=damped)
    expected = dense(pushed, kappa_of=lambda r: 0.8, window=window, damped=damped)
    for mine, theirs in zip(serve(rule, pushed), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-9)


def test_kappa_follows_from_the_samples_and_from_what_the_window_holds():
    pushed = gradients(20, scale=0.3)
    mine = serve(tardigrad.rule("dc-lowrank", window=8, scale=2.0), pushed, samples=64)
    theirs = dense(pushed, kappa_of=lambda r: 2.0 * 0.3 * math.sqrt(64 / r) * 2.0**0.25, window=8)
    np.testing.assert_allclose(mine[-1], theirs[-1], rtol=1e-5, atol=1e-9)


def test_behind_momentum_the_damping_sees_the_optimizers_gain():
    pushed = gradients(20, scale=0.1)
    rule = tardigrad.rule("dc-lowrank", kappa=0.5, window=6, momentum=0.5)
    gain = rule.optimizer.gain(3)
    assert gain > 1.0
    mine = serve(rule, pushed)
    theirs = dense(pushed, kappa_of=lambda r: 0.5, window=6, gain=gain, momentum=0.5)
    np.testing.assert_allclose(mine[-1], theirs[-1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e3, 1e8])
def test_no_size_of_gradients_breaks_the_solution(scale):
    """Damped, a compensation cannot carry the weights further than back to the backup, whatever the gradients."""
    for dtype in (torch.float32, torch.float64):
        rows = scale * torch.randn(40, 10, generator=torch.Generator().manual_seed(1), dtype=dtype)  # rank 10 of 40
        d = torch.randn(10, generator=torch.Generator().manual_seed(2), dtype=dtype)
        gram, products = (rows @ rows.T).double(), (rows @ d).double()
        c = rows.double().T @ solved(gram, products, kappa=1.0, step=0.1, eps=torch.finfo(dtype).eps)
        assert torch.isfinite(c).all()
        assert 0.1 * c.norm() <= (1.0 + 1e-4) * d.norm()


def test_a_huge_gradient_at_the_start_does_not_diverge_where_the_undamped_rule_does():
    pushed = [g * (1e4 if number < 3 else 1.0) for number, g in enumerate(gradients(40, scale=0.1))]
    # the gradient of a quadratic would fight back; here all that could grow is the compensation itself
    longest = max(np.abs(w).max() for w in serve(tardigrad.rule("dc-lowrank", kappa=1.0), pushed))
    assert longest < 10 * 1e4
    assert not np.isfinite(serve_until_broken(tardigrad.rule("dc-lowrank", kappa=1.0, damped=False), pushed))


def serve_until_broken(rule, pushed):
    try:
        return np.abs(serve(rule, pushed)[-1]).max() if np.abs(serve(rule, pushed)[-1]).max() < 1e20 else math.inf
    except tardigrad.TardigradError:
        return math.inf


def joined(server, worker):
    server.join(worker)
    server.pull(worker)


def test_the_window_grows_with_workers_that_join_and_counts_fewer_when_they_leave():
    weights = [torch.zeros(SIZE, dtype=torch.float64)]
    rule = tardigrad.rule("dc-lowrank")
    server = tardigrad.ParameterServer(weights, rule, lr=0.01, workers=1)
    window = server.commits.path.state.window
    pushed = gradients(400, scale=0.1)
    server.pull(0)
    for gradient in pushed[:150]:
        server.push(0, [gradient])
    assert window.size == 128
    for worker in range(1, 20):
        joined(server, worker)
    server.push(0, [pushed[150]])
    assert window.size == 129  # what was overwritten before it grew is gone
    for gradient in pushed[151:300]:
        server.push(0, [gradient])
    assert window.size == 160  # 8 for each of 20; what was held when it grew was kept: 128 + 150 came, 160 stay
    rows = torch.stack(pushed[140:300])
    assert torch.allclose(sorted_spectrum(window.gram), sorted_spectrum(rows @ rows.T), rtol=1e-9)
    for worker in range(1, 20):
        server.leave(worker)
    server.push(0, [pushed[300]])
    assert window.size == 128
    rows = torch.stack(pushed[173:301])
    assert torch.allclose(sorted_spectrum(window.gram), sorted_spectrum(rows @ rows.T), rtol=1e-9, atol=1e-12)
    d = torch.arange(SIZE, dtype=torch.float64)
    assert torch.allclose(window.against(d).sort().values, torch.cat([rows @ d, d.new_zeros(32)]).sort().values)


def sorted_spectrum(gram):
    return torch.linalg.eigvalsh(gram)[-SIZE:]


def test_a_state_of_a_grown_window_is_restored_into_a_server_that_never_grew():
    rule, pushed = tardigrad.rule("dc-lowrank", scale=3.0), gradients(60, scale=0.1)
    server = tardigrad.ParameterServer([torch.zeros(SIZE, dtype=torch.float64)], rule, lr=0.05, workers=17)
    for number, gradient in enumerate(pushed[:40]):
        server.push(number % 17, [gradient])
        server.pull(number % 17)
    state = server.state_dict()
    again = tardigrad.ParameterServer([torch.zeros(SIZE, dtype=torch.float64)], rule, lr=0.05, workers=17)
    again.load_state_dict(state)
    for number, gradient in enumerate(pushed[40:]):
        for each in (server, again):
            each.push(number % 17, [gradient])
        assert torch.equal(server.flat, again.flat)


def test_in_bfloat16_it_stays_near_and_takes_half_the_memory():
    ends = {}
    for kept in ("as the weights", "bfloat16"):
        end = walk(tardigrad.rule("dc-lowrank", kept=kept), random_events(80), dtype=torch.float32, lr=0.02)
        ends[kept] = end
    near, far = (ends[kept].weights for kept in ends)
    assert not torch.equal(near, far)
    torch.testing.assert_close(near, far, rtol=0.0, atol=5e-3)
    sizes = [end.state["window"]["rows"].numel() * end.state["window"]["rows"].element_size() for end in ends.values()]
    assert sizes[0] == 2 * sizes[1]


def test_a_rule_with_a_window_must_see_the_whole_model():
    class Narrow(DCLowRank):
        scope = "element"

    rule = tardigrad.Rule(Narrow(), tardigrad.rule("asgd").optimizer)
    with pytest.raises(ValueError, match="sees all weights at once: scope = 'model'"):
        tardigrad.ParameterServer([torch.zeros(3)], rule, lr=0.1)


def test_synchronous_rounds_are_plain_and_remember_every_gradient():
    rules = tardigrad.rule("dc-lowrank", window=9), tardigrad.rule("asgd")
    servers = [
        tardigrad.ParameterServer([torch.zeros(SIZE)], rule, lr=0.1, workers=3, consistency="synchronous")
        for rule in rules
    ]
    for server in servers:
        for turn in range(2):
            for worker in range(3):
                server.pull(worker)
            for worker in range(3):
                server.push(worker, [torch.full((SIZE,), 1.0 + worker + turn)])
    assert torch.equal(servers[0].flat, servers[1].flat)
    assert servers[0].commits.path.state.window.size == 6
