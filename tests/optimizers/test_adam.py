"""One worker is torch.optim.Adam and AdamW, bit for bit; the compiled path agrees; compensation before the moments."""

import pytest
import torch
from torch.optim import Adam, AdamW

import tardigrad
from tardigrad.commit.base import Part
from tardigrad.commit.compiled import CompiledPath
from tardigrad.commit.exact import ExactPath
from tardigrad.layout import FlatLayout
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.optimizers.momentum import Momentum
from tardigrad.records import Facts
from tardigrad.schedules import Step, Warmup
from tardigrad.specs import format_spec

SHAPES = [(3, 5), (7,), (), (1,), (129, 33), (16, 1, 3, 3)]
KEYWORDS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.0, "beta1": 0.0, "beta2": 0.0},
    {"beta1": 0.3, "beta2": 0.95, "eps": 1e-3},
    {"amsgrad": True, "weight_decay": 0.05, "beta2": 0.9},
]
TORCHS = {"adam": Adam, "adamw": AdamW}


def tensors(dtype, seed):
    """Tensors of odd sizes; the last, a convolution's, is channels_last."""
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]
    conv = torch.randn((4, 3, 3, 3), generator=draw, dtype=torch.float64).to(dtype)
    return [*made, conv.to(memory_format=torch.channels_last)]


def torchs(name, weights, *, beta1=0.9, beta2=0.999, **keywords):
    """torch's optimizer on parameters of its own, in its plain form."""
    parameters = [torch.nn.Parameter(w.clone(memory_format=torch.preserve_format)) for w in weights]
    return parameters, TORCHS[name](parameters, lr=0.01, betas=(beta1, beta2), foreach=False, fused=False, **keywords)


def equal(ours, theirs):
    return all(torch.equal(a, b.detach()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["asgd", "dc-asgd"])
@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
def test_one_worker_is_torchs_optimizer_bit_for_bit_over_a_schedule(name, rule, keywords, dtype):
    schedule = Warmup(1.0, Step((2.0, 3.0), 0.3), 0.1)
    weights = tensors(dtype, 0)
    server = tardigrad.ParameterServer(
        weights,
        tardigrad.rule(rule, optimizer=format_spec(name, keywords)),
        lr=lambda samples: 0.01 * schedule.factor(samples / 40),
    )
    parameters, optimizer = torchs(name, weights, **keywords)
    for step in range(20):
        # the third tensors' gradients are tiny: there the root of the second moment is near eps
        gradients = [g * (1e-6 if g.dim() == 0 else 1.0) for g in tensors(dtype, step + 1)]
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter.grad = g.clone(memory_format=torch.preserve_format)
        optimizer.param_groups[0]["lr"] = 0.01 * schedule.factor(step * 8 / 40)
        optimizer.step()
        server.pull(0)
        assert server.push(0, gradients, samples=8).staleness == 0
        assert equal(server.weights(), parameters), f"differs at step {step}"


def test_the_defaults_are_torchs():
    ours = {name: OPTIMIZERS.build(name) for name in TORCHS}
    for name, kind in TORCHS.items():
        theirs = kind([torch.nn.Parameter(torch.ones(1))]).defaults
        mine = ours[name]
        assert (mine.beta1, mine.beta2) == theirs["betas"]
        assert (mine.eps, mine.weight_decay, mine.amsgrad) == (theirs["eps"], theirs["weight_decay"], theirs["amsgrad"])
    assert ours["adam"] != OPTIMIZERS.build("adamw(weight_decay=0.0)")


@pytest.mark.parametrize("amsgrad", [False, True])
def test_two_moments_are_kept_and_with_amsgrad_the_largest_second(amsgrad):
    rule = tardigrad.rule("asgd", optimizer=f"adamw(amsgrad={amsgrad})")
    server = tardigrad.ParameterServer([torch.zeros(32)], rule, lr=0.1, workers=4)
    assert server.bytes_held()["state"] == (2 + amsgrad) * 32 * 4


def test_compensation_comes_before_the_moments_and_decay_after():
    rule = tardigrad.rule("dc-asgd-c", lambda0=1.0, optimizer="adamw(beta1=0.5, beta2=0.75, weight_decay=0.1)")
    server = tardigrad.ParameterServer([torch.full((1,), 4.0).double()], rule, lr=0.5, workers=2)
    server.push(0, [torch.ones(1).double()])
    w = 4.0 * (1 - 0.5 * 0.1) - 0.5
    assert server.weights()[0].item() == pytest.approx(w, abs=1e-7)
    server.push(1, [torch.full((1,), 2.0).double()])  # read at 4
    g = 2.0 + 2.0 * 2.0 * (w - 4.0)
    m, v = 0.5 * 0.5 * 1.0 + 0.5 * g, 0.75 * 0.25 * 1.0 + 0.25 * g**2
    expected = w * (1 - 0.5 * 0.1) - 0.5 * (m / (1 - 0.5**2)) / (v / (1 - 0.75**2)) ** 0.5
    assert server.weights()[0].item() == pytest.approx(expected, abs=1e-7)


def test_damping_reckons_with_the_first_moment_as_heavy_ball_that_is_dampened():
    optimizer = OPTIMIZERS.build("adamw(beta1=0.8)")
    for delay in (0, 3, 40):
        assert optimizer.gain(delay) == Momentum(0.8, dampening=0.8).damping_gain(delay)
    assert optimizer.gain(10_000) == pytest.approx(1.8 / 0.2, rel=1e-3)
    assert OPTIMIZERS.build("adamw(beta1=0.0)").gain(40) == 1.0


@pytest.mark.parametrize("step", [0, 1, 2, 1000, 10**6])
def test_late_and_early_steps_are_as_exact_compiled(step, needs_compiler):
    """A loop of float32 knows 1 - beta2^t as exactly as Python does, at the first step and at the millionth."""
    layout = FlatLayout.of([torch.zeros(1000)])
    rule = tardigrad.rule("asgd", optimizer="adamw(beta2=0.9999)")
    draw, ends = torch.Generator().manual_seed(step), []
    start, gradient, second = (torch.randn(1000, generator=draw) for _ in range(3))
    for kind in (ExactPath, CompiledPath):
        path, weights = kind(rule, layout), start.clone()
        path.state.optimizer["second_moment"].copy_(second.square() * (step > 0))
        path.apply(weights, [Part(0, gradient, weights.clone(), Facts(0, 0.1, step, 1, step))])
        ends.append(weights)
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("beta1", 1.0),
        ("beta1", -0.1),
        ("beta2", 1.0),
        ("eps", 0.0),
        ("eps", 1e-50),
        ("weight_decay", -1.0),
        ("amsgrad", 1),
    ],
)
def test_a_value_outside_its_range_is_refused(keyword, value):
    with pytest.raises(ValueError, match=rf"adamw: {keyword}={value} is not (a number in|True or False)"):
        OPTIMIZERS.build(f"adamw({keyword}={value})")
