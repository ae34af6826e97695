"""The theorems of the page "Why damping" on random quadratics; and that conditions are sharp where they say so."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tardigrad.errors import InvalidArgument
from tardigrad.optimizers.momentum import Momentum
from tardigrad.theory.stability import (
    damped,
    damping_step,
    growth,
    plain_limit,
    stable_at_every_delay,
    stable_up_to,
)

OPTIMIZERS = [
    {},
    {"momentum": 0.5},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.9},
    {"momentum": 0.6, "nesterov": True},
    {"momentum": 0.9, "nesterov": True},
]


def random_symmetric(generator, n, low, high):
    """Eigenvalues spread evenly in the logarithm from low to high, in a random basis."""
    values = np.exp(generator.uniform(math.log(low), math.log(high), n))
    turn = np.linalg.qr(generator.normal(size=(n, n)))[0]
    return (turn * values) @ turn.T


def within(generator, f, size):
    """A random H that does not commute with F, with -size F < H - F < size F and the bound nearly reached."""
    values, vectors = np.linalg.eigh(f)
    root = (vectors * np.sqrt(values)) @ vectors.T
    turn = np.linalg.qr(generator.normal(size=f.shape))[0]
    sides = generator.choice([-1.0, 1.0], len(f)) * generator.uniform(0.9, 1.0, len(f)) * size
    return f + root @ ((turn * sides) @ turn.T) @ root


def numbers(**values):
    return {name: np.array([[float(value)]]) for name, value in values.items()}


# --- the condition holds, so no delay makes the recursion grow ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("n", "delays"), [(4, (1, 2, 5, 16)), (2, (256,))])
def test_damped_by_the_proved_step_is_stable_at_every_delay(optimizer, n, delays):
    generator = np.random.default_rng(n)
    lr = 0.3
    step = damping_step(lr, **optimizer)
    estimate = random_symmetric(generator, n, 0.1, 1e3)
    hessian = within(generator, damped(estimate, step), 0.99)
    assert np.abs(hessian @ estimate - estimate @ hessian).max() > 1e-3  # they do not commute
    assert stable_at_every_delay(hessian, estimate, lr=lr, step=step, **optimizer)
    assert max(growth(hessian, estimate, lr=lr, delay=delay, step=step, **optimizer) for delay in delays) < 1.0


@pytest.mark.parametrize("seed", range(3))
def test_energy_never_grows(seed):
    """|w_t|^2 + sum of w_{t-k}' B w_{t-k}, k = 1 ... tau, from any start: the second proof, at n = 6 and tau = 256."""
    generator = np.random.default_rng(seed)
    delay, lr = 256, 0.7
    estimate = random_symmetric(generator, 6, 0.1, 1e6)
    f = damped(estimate, lr)
    b, c = lr * f, lr * (within(generator, f, 0.999) - f)
    w = list(generator.normal(size=(delay + 1, 6)))
    for _ in range(3 * delay):
        w.append(w[-1] - b @ w[-1] - c @ w[-1 - delay])
    carried = np.cumsum([0.0, *(v @ b @ v for v in w)])
    energy = [w[t] @ w[t] + carried[t] - carried[t - delay] for t in range(delay, len(w))]
    assert all(later <= now * (1.0 + 1e-12) for now, later in pairwise(energy))
    assert energy[-1] < 0.9 * energy[0]


def test_undamped_condition_holds_without_commuting():
    """0 < H < 2 E, lr H < 2 and lr (2 E - H) < 2 with lr E up to 1.5: past what the damped theorem needs."""
    generator = np.random.default_rng(8)
    found = 0
    for _ in range(40):
        estimate = random_symmetric(generator, 3, 0.3, 1.5)
        hessian = within(generator, estimate, 0.45)
        if stable_at_every_delay(hessian, estimate, lr=1.0):
            found += np.linalg.eigvalsh(estimate)[-1] > 1.1
            assert max(growth(hessian, estimate, lr=1.0, delay=delay) for delay in (1, 2, 3, 9, 30)) < 1.0
    assert found >= 5


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_less_damping_tolerates_a_smaller_error(momentum):
    """Damped by less than the proved step, |H - F| < g F is still enough, with g below 1."""
    generator = np.random.default_rng(2)
    step = 1.0 / (1.0 - momentum)
    tolerance = Momentum(momentum).tolerance(1.0 / step)
    assert 0.1 < tolerance < 0.9
    estimate = random_symmetric(generator, 4, 10.0, 1e6)
    for size, certain in ((0.99 * tolerance, True), (1.15 * tolerance, False)):
        hessian = within(generator, damped(estimate, step), size)
        assert stable_at_every_delay(hessian, estimate, lr=1.0, momentum=momentum, step=step) is certain
        if certain:
            grown = [growth(hessian, estimate, lr=1.0, delay=d, momentum=momentum, step=step) for d in (1, 4, 15, 40)]
            assert max(grown) < 1.0


# --- beyond the condition, some delay does ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_one_mode_beyond_the_condition_grows_at_some_delay(optimizer):
    """Sharp where H and E commute: h - f just inside and just outside, on either side, damped enough or not."""
    loop = Momentum(**optimizer)
    for b in (0.7 / loop.excess(), min(4.0 / loop.excess(), 0.9)):
        for side in (-1.0, 1.0):
            for size, stable in ((0.97, True), (1.08, False)):
                f = b / loop.gain
                h = f * (1.0 + side * size * loop.tolerance(b))
                case = numbers(hessian=h, estimate=f) | {"lr": 1.0} | optimizer
                grown = [growth(delay=delay, **case) for delay in (1, 2, 3, 5, 9, 16, 25, 40, 60, 100)]
                assert stable_at_every_delay(**case) is stable
                assert (max(grown) < 1.0) is stable, (b, side, size)


def test_undamped_too_large_an_estimate_diverges_and_damped_never():
    generator = np.random.default_rng(4)
    hessian = random_symmetric(generator, 3, 0.4, 0.8)
    assert growth(hessian, hessian, lr=1.0, delay=32) < 1.0
    assert growth(hessian, 3.0 * hessian, lr=1.0, delay=32) > 1.2
    for factor in (1.5, 3.0, 100.0, 1e4, 1e6):
        assert stable_at_every_delay(hessian, factor * hessian, lr=1.0, step=1.0)
        assert growth(hessian, factor * hessian, lr=1.0, delay=32, step=1.0) < 1.0


def test_damping_by_the_guessed_step_is_not_enough():
    """Momentum 0.9, delay 32, lr h = 0.002: plain descent converges, damped by lr / (1 - mu) it diverges."""
    large = numbers(hessian=0.002, estimate=1e3) | {"lr": 1.0, "delay": 32, "momentum": 0.9}
    assert growth(**(large | numbers(estimate=0.0))) < 1.0
    assert growth(step=1.0 / (1.0 - 0.9), **large) > 1.02
    assert growth(step=damping_step(1.0, momentum=0.9), **large) < 1.0
    assert growth(step=damping_step(1.0, momentum=0.9, delay=32), **large) < 1.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("delay", [3, 9, 40])
def test_a_bound_on_the_delay_allows_a_smaller_step_and_no_smaller_one(optimizer, delay):
    step = damping_step(1.0, delay=delay, **optimizer)
    assert step <= damping_step(1.0, **optimizer)
    hessian = 1e-3 * min(1.0, 1.0 / step)
    for estimate in (hessian, 10.0 * hessian, 1.0, 1e3, 1e6):
        case = numbers(hessian=hessian, estimate=estimate) | {"lr": 1.0} | optimizer
        assert growth(delay=delay, step=step, **case) < 1.0
    if optimizer:
        assert growth(delay=delay, step=0.97 * step, **case) > 1.0


# --- singular estimates, bounded delays ---


@pytest.mark.parametrize("delay", [1, 2, 8, 64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_low_rank_estimate_with_a_remainder_outside_its_span(delay, momentum):
    generator = np.random.default_rng(delay)
    step = damping_step(1.0, momentum=momentum, delay=delay)
    rows = generator.normal(size=(2, 3)) * 10.0
    f = damped(rows.T @ rows, step)
    q = plain_limit(delay, momentum=momentum)
    slope = 0.0 if momentum else (2 - (delay + 1) * q * q) / ((2 * delay + 1) * q)
    hessian = within(generator, (1.0 + slope) * f + q * np.eye(3), 1.0)  # anything in 0 < H < 2 (...), then shrunk
    upper = (1.0 + slope) * f + q * np.eye(3)
    largest = np.linalg.eigvals(np.linalg.solve(upper, hessian)).real.max()
    for share, certain in ((0.98, True), (1.02, False)):
        inside = share / largest * hessian
        up_to = stable_up_to(inside, rows.T @ rows, lr=1.0, delay=delay, momentum=momentum, step=step)
        assert up_to is certain
        assert not stable_at_every_delay(inside, rows.T @ rows, lr=1.0, momentum=momentum, step=step)
        if certain:
            for shorter in {0, 1, delay // 2, delay}:
                grown = growth(inside, rows.T @ rows, lr=1.0, delay=shorter, momentum=momentum, step=step)
                assert grown < 1.0


@pytest.mark.parametrize(
    ("hessian", "estimate", "step", "delay", "certain"),
    [
        ([0.3, 0.01], [9.0, 0.0], 1.0, 8, True),
        ([0.3, -0.01], [9.0, 0.0], 1.0, 8, False),  # downhill for ever
        ([0.3, 0.01], [9.0, 0.0], None, 8, False),  # not damped
        ([1.9, 0.1], [9.0, 0.0], None, 0, True),  # nothing is late, so nothing is compensated
        ([2.1, 0.1], [9.0, 0.0], None, 0, False),
    ],
)
def test_what_else_a_bounded_delay_needs(hessian, estimate, step, delay, certain):
    case = {"lr": 1.0, "delay": delay, "step": step}
    assert stable_up_to(np.diag(hessian), np.diag(estimate), **case) is certain
    assert (growth(np.diag(hessian), np.diag(estimate), **case) < 1.0) is certain


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if "dampening" not in o], ids=str)
@pytest.mark.parametrize("delay", [0, 1, 2, 7, 64])
def test_plain_limit_is_where_plain_descent_turns(optimizer, delay):
    limit = plain_limit(delay, **optimizer)
    for share, stable in ((0.995, True), (1.005, False)):
        case = numbers(hessian=share * limit, estimate=0.0) | {"lr": 1.0, "delay": delay} | optimizer
        assert (growth(**case) < 1.0) is stable
    if not optimizer:
        assert limit == pytest.approx(2.0 * math.sin(math.pi / (2 * (2 * delay + 1))))


# --- delays that vary ---


def test_varying_delays_without_momentum_where_the_matrices_commute():
    """No delay of 0 ... 256, in any order, makes the largest weight in memory larger."""
    generator = np.random.default_rng(5)
    estimate = np.exp(generator.uniform(math.log(0.1), math.log(1e4), 5))
    f = estimate / (1.0 + estimate)
    hessian = f * (1.0 + generator.choice([-0.99, 0.99], 5))
    w = list(generator.normal(size=(257, 5)))
    bound = np.abs(w).max(axis=0)
    for delay in generator.integers(0, 257, 2000):
        w.append(w[-1] - hessian * w[-1 - delay] - f * (w[-1] - w[-1 - delay]))
        assert (np.abs(w[-1]) <= bound).all()
    assert np.abs(w[-257:]).max() < 0.99 * bound.max()


@pytest.mark.parametrize("nesterov", [False, True])
def test_varying_delays_with_momentum_need_a_larger_step(nesterov):
    """Impulse response of one sign: damped by lr / (1 - sqrt(mu))^2, Nesterov lr ((1 + mu) / (1 - mu))^2."""
    mu, generator = 0.5, np.random.default_rng(6)
    step = ((1.0 + mu) / (1.0 - mu)) ** 2 if nesterov else 1.0 / (1.0 - math.sqrt(mu)) ** 2
    assert step > damping_step(1.0, momentum=mu, nesterov=nesterov)
    f = 1.0 / step
    for h in (0.02 * f, 1.98 * f):
        w, v = [1.0] * 34, 0.0
        for delay in generator.integers(0, 33, 20_000):
            g = h * w[-1 - delay] + f * (w[-1] - w[-1 - delay])
            v = mu * v + g
            w.append(w[-1] - (g + mu * v if nesterov else v))
        assert max(map(abs, w[-33:])) < 1e-2


def test_varying_delays_can_diverge_where_the_matrices_do_not_commute():
    """Each of the delays is harmless when it is constant; taken in turn they are not."""
    b = np.diag([0.5, 1.0])
    reflection = 0.99 * np.array([[math.cos(4.0), math.sin(4.0)], [math.sin(4.0), -math.cos(4.0)]])
    c = np.sqrt(b) @ reflection @ np.sqrt(b)
    assert stable_at_every_delay(b + c, b, lr=1.0)
    for delays, diverges in (([6, 4, 1, 1, 6], True), ([6], False), ([4], False), ([1], False)):
        w = [np.ones(2)] * 7
        for t in range(4000):
            w.append(w[-1] - b @ w[-1] - c @ w[-1 - delays[t % len(delays)]])
        assert np.abs(w[-7:]).max() > 50.0 if diverges else np.abs(w[-7:]).max() < 0.9


# --- the functions themselves ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("delay", [0, 3])
def test_growth_is_that_of_torch_under_delayed_gradients(optimizer, delay):
    """H and E do not commute; the growth is read from weights that torch.optim.SGD has moved."""
    hessian, estimate = torch.tensor([[0.5, 0.3], [0.3, 0.9]]).double(), torch.tensor([[2.0, 0.1], [0.1, 0.3]]).double()
    lr, step = 0.2 * (1.0 - optimizer.get("momentum", 0.0)), 0.4
    f = torch.from_numpy(damped(estimate.numpy(), step))
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=lr, **optimizer)
    memory, sizes = [w.detach().clone()] * (delay + 1), []
    for _ in range(600):
        w.grad = hessian @ memory[0] + f @ (memory[-1] - memory[0])
        sgd.step()
        memory = [*memory[1:], w.detach().clone()]
        sizes.append(torch.stack([v.norm() for v in memory]).max().log().item())
    measured = math.exp((np.mean(sizes[-200:]) - np.mean(sizes[-400:-200])) / 200)
    assert growth(hessian, estimate, lr=lr, delay=delay, step=step, **optimizer) == pytest.approx(measured, abs=2e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_damping_step_is_the_largest_excess_on_the_circle(optimizer):
    z = np.exp(1j * np.linspace(1e-4, math.pi, 100_000))
    mu = optimizer.get("momentum", 0.0)
    numerator = 1.0 + mu - mu / z if optimizer.get("nesterov") else 1.0
    transfer = numerator / ((z - 1.0) * (1.0 - mu / z))
    gain = 1.0 - optimizer.get("dampening", 0.0)
    assert damping_step(0.3, **optimizer) == pytest.approx(0.3 * gain * (-2.0 * transfer.real).max(), rel=1e-4)


def test_damping_steps():
    assert damping_step(0.25) == 0.25
    assert damping_step(0.25, delay=100) == 0.25
    assert damping_step(0.25, dampening=0.5) == 0.25  # torch ignores dampening without momentum
    assert damping_step(1.0, momentum=0.9) == pytest.approx(190.0)
    assert damping_step(1.0, momentum=0.9, dampening=0.9) == pytest.approx(19.0)
    assert damping_step(1.0, momentum=0.9, nesterov=True) == pytest.approx(172.0)
    steps = [damping_step(1.0, momentum=0.9, delay=delay) for delay in (0, 2, 4, 8, 16, 64, 1024)]
    assert steps == sorted(steps)
    assert steps[0] == pytest.approx(1.0)
    assert damping_step(1.0, momentum=0.9, delay=10**6) == pytest.approx(190.0, rel=1e-3)


def test_damped_with_a_preconditioner_is_what_each_form_says():
    generator = np.random.default_rng(7)
    rows, p, kappa, d = generator.normal(size=(2, 4)), np.array([0.1, 1.0, 4.0, 30.0]), 0.5, 0.7
    inner = np.linalg.inv(np.eye(2) / kappa + d * rows @ np.diag(p) @ rows.T)
    estimate = kappa * rows.T @ rows
    f = damped(estimate, d, preconditioner=p)
    assert f == pytest.approx(rows.T @ inner @ rows)
    assert f == pytest.approx(estimate @ np.linalg.inv(np.eye(4) + d * np.diag(p) @ estimate))
    assert damped(np.diag(p), d, preconditioner=p) == pytest.approx(np.diag(p / (1.0 + d * p * p)))
    assert damped(estimate, d) == pytest.approx(damped(estimate, d, preconditioner=np.ones(4)))


def test_preconditioned_steps_are_stable_under_the_same_condition():
    """w -= s P (H w_old + F (w - w_old)) with 0 < H < 2 F, run as it is; without P in the damping it diverges."""
    generator = np.random.default_rng(9)
    p, delay = np.array([0.05, 1.0, 20.0]), 24
    estimate = random_symmetric(generator, 3, 1.0, 100.0)
    h = within(generator, damped(estimate, 1.0, preconditioner=p), 0.9)

    def size(f, hessian, commits):
        w = list(generator.normal(size=(delay + 1, 3)))
        for _ in range(commits):
            w.append(w[-1] - p * (hessian @ w[-1 - delay] + f @ (w[-1] - w[-1 - delay])))
        return np.abs(w[-delay:]).max()

    assert size(damped(estimate, 1.0, preconditioner=p), h, 2000) < 1e-2
    assert size(damped(estimate, 1.0), within(generator, damped(estimate, 1.0), 0.1), 50) > 1e6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: damping_step(-1.0), "lr"),
        (lambda: damping_step(1.0, momentum=1.0), "momentum"),
        (lambda: damping_step(1.0, nesterov=True), "nesterov"),
        (lambda: damping_step(1.0, momentum=0.5, delay=-1), "delay"),
        (lambda: growth(np.eye(2), np.eye(3), lr=1.0, delay=1), "shape"),
        (lambda: growth(np.array([[1.0, 2.0], [0.0, 1.0]]), np.eye(2), lr=1.0, delay=1), "symmetric"),
        (lambda: growth(np.eye(2), np.eye(2) * np.nan, lr=1.0, delay=1), "finite"),
        (lambda: damped(-np.eye(2), 1.0), "below 0"),
        (lambda: damped(np.eye(2), 1.0, preconditioner=[1.0, 0.0]), "diagonal"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(InvalidArgument, match=words):
        call()
