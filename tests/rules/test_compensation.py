"""What compensation does, in numbers small enough to check by hand, and the laws its safeguards promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tardigrad
from tardigrad.records import Facts
from tardigrad.testing.walks import random_events, walk

COMPENSATED = ["dc-asgd", "dc-asgd-a", "dc-asgd-c"]
numbers = st.floats(min_value=-100.0, max_value=100.0)
positive = st.floats(min_value=1e-3, max_value=100.0)


def compensated(rule, g, w, backup, *, staleness=1, lr=0.1):
    """What a rule makes of a gradient of one coordinate, at its first push."""
    part = tardigrad.rule(rule).compensation if isinstance(rule, str) else rule.compensation
    state = {name: torch.zeros(1, dtype=torch.float64) for name in part.state_spec()}
    given_ = [torch.tensor([value], dtype=torch.float64) for value in (g, w, backup)]
    facts = Facts(staleness=staleness, lr=lr, version=staleness, live=2, step=staleness)
    return part.compensate(*given_, state, facts)[0].item()


def test_constant_lambda_by_hand():
    # 2 + 0.5 * 2 * 2 * (1.5 - 1.0)
    assert compensated("dc-asgd-c(lambda0=0.5)", 2.0, 1.5, 1.0) == pytest.approx(3.0, rel=1e-15)


def test_adaptive_lambda_by_hand():
    # mean square 0.05 * 4 = 0.2; lambda_t = 2 / sqrt(0.2 + 0.05) = 4; 2 + 4 * 4 * 0.5
    assert compensated("dc-asgd-a(lambda0=2, eps=0.05)", 2.0, 1.5, 1.0) == pytest.approx(10.0, rel=1e-15)


def test_damping_by_hand():
    # E = 4, lr = 0.25: E / (1 + 1) = 2; 2 + 2 * 0.5
    assert compensated("dc-asgd-c(lambda0=1, damped=True)", 2.0, 1.5, 1.0, lr=0.25) == pytest.approx(3.0, rel=1e-15)


def test_staleness_lr_by_hand():
    assert compensated("staleness-lr", 6.0, 0.0, 0.0, staleness=3) == 2.0
    assert compensated("staleness-lr(power=0.5)", 6.0, 0.0, 0.0, staleness=4) == 3.0
    assert compensated("staleness-lr(power=0)", 6.0, 0.0, 0.0, staleness=4) == 6.0


def test_the_compensation_points_back_towards_the_backup():
    """A weight that has moved on since the pull is pulled back: the sign of the term is the paper's."""
    for rule in COMPENSATED:
        assert compensated(rule, 1.0, 0.9, 1.0) < 1.0 < compensated(rule, 1.0, 1.1, 1.0)
        assert compensated(rule, -1.0, 0.9, 1.0) < -1.0 < compensated(rule, -1.0, 1.1, 1.0)


@pytest.mark.parametrize("rule", COMPENSATED)
@pytest.mark.parametrize("clip", [0.01, 1.0, 3.0])
@given(g=numbers, w=numbers, backup=numbers)
def test_a_clipped_compensation_is_at_most_so_many_times_its_gradient(rule, clip, g, w, backup):
    made = tardigrad.rule(rule, clip_compensation=clip)
    assert abs(compensated(made, g, w, backup) - g) <= clip * abs(g) * (1 + 1e-12)


@pytest.mark.parametrize("rule", COMPENSATED)
@given(g=numbers, distance=numbers, lr=positive, lambda0=positive)
def test_damping_keeps_lr_times_curvature_below_one(rule, g, distance, lr, lambda0):
    made = tardigrad.rule(rule, damped=True, lambda0=lambda0)
    moved = abs(lr * (compensated(made, g, distance, 0.0, lr=lr) - g))
    assert moved <= abs(distance) * (1 + 1e-9) + 1e-9 * lr * abs(g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", COMPENSATED)
@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}], ids=str)
def test_lambda_zero_is_asgd_bit_for_bit(rule, optimizer, dtype):
    events = random_events(80)
    mine = walk(tardigrad.rule(rule, lambda0=0.0, **optimizer), events, dtype=dtype, lr=0.02)
    plain = walk(tardigrad.rule("asgd", **optimizer), events, dtype=dtype, lr=0.02)
    assert torch.equal(mine.weights, plain.weights)


def test_staleness_lr_with_power_zero_is_asgd_bit_for_bit():
    for dtype in (torch.float32, torch.float64):
        mine = walk(tardigrad.rule("staleness-lr", power=0.0), random_events(80), dtype=dtype, lr=0.02)
        plain = walk(tardigrad.rule("asgd"), random_events(80), dtype=dtype, lr=0.02)
        assert torch.equal(mine.weights, plain.weights)


def test_the_safe_default_is_the_adaptive_rule_damped_with_a_larger_lambda():
    events = random_events(80)
    default = walk(tardigrad.rule("dc-asgd"), events, dtype=torch.float32, lr=0.02)
    spelt = walk(tardigrad.rule("dc-asgd-a", lambda0=8.0, damped=True), events, dtype=torch.float32, lr=0.02)
    assert torch.equal(default.weights, spelt.weights)


def test_the_mean_square_advances_at_staleness_zero():
    """Two fresh pushes, then a late one: lambda_t knows all three gradients."""
    server = tardigrad.ParameterServer(
        [torch.zeros(1, dtype=torch.float64)],
        tardigrad.rule("dc-asgd-a", lambda0=1.0, mean_square_decay=0.5, eps=1e-12),
        lr=1.0,
        workers=2,
    )
    for _ in range(2):
        server.pull(0)
        server.push(0, [torch.ones(1, dtype=torch.float64)])
    server.pull(0)  # at w = -2
    server.push(1, [torch.full((1,), -1.0, dtype=torch.float64)])
    distance = server.weights()[0].item() + 2.0
    server.push(0, [torch.ones(1, dtype=torch.float64)])
    mean_square = 0.5 * (0.5 * (0.5 * 1) + 0.5 * 1) + 0.5 * 1
    assert mean_square == 0.875
    assert distance != 0.0
    moved = distance - 2.0 - server.weights()[0].item()
    assert moved == pytest.approx(1.0 + distance / mean_square**0.5, rel=1e-9)


@pytest.mark.parametrize(("shared", "states"), [(False, 3), (True, 1)])
def test_memory_of_the_mean_square_is_one_model_per_worker_or_one_in_all(shared, states):
    server = tardigrad.ParameterServer([torch.zeros(64)], tardigrad.rule("dc-asgd-a", shared=shared), lr=0.1, workers=3)
    for worker in range(3):
        server.push(worker, [torch.ones(64)])
    assert server.bytes_held()["state"] == states * 64 * 4


def test_no_mean_square_is_kept_where_it_is_the_last_gradient_squared():
    server = tardigrad.ParameterServer([torch.zeros(64)], tardigrad.rule("dc-asgd-a", mean_square_decay=0.0), lr=0.1)
    server.push(0, [torch.ones(64)])
    assert server.bytes_held()["state"] == 0
