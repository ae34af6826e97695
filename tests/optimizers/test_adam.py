"""One worker is torch.optim.Adam and AdamW, bit for bit; the compiled path agrees; compensation before the moments."""

import math

import pytest
import torch
from torch.optim import Adam, AdamW

import tardigrad
from tardigrad.commit.base import Part
from tardigrad.commit.choice import ChosenPath
from tardigrad.commit.compiled import CompiledPath
from tardigrad.commit.exact import ExactPath
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.optimizers.momentum import Momentum
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.rules.dc_asgd import DCASGD
from tardigrad.rules.dc_lowrank import DCLowRank
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


def test_no_gradients_whatever_move_a_weight_by_more_than_the_bound():
    """lr (1 - beta1) / sqrt((1 - beta2)(1 - beta1^2 / beta2)); gradients that grow by beta2 / beta1 come near it."""
    optimizer, bound = OPTIMIZERS.build("adamw(weight_decay=0.0)"), 0.1 / math.sqrt(0.001 * (1 - 0.81 / 0.999))
    draw = torch.Generator().manual_seed(0)
    steps = 300
    growing = (0.999 / 0.9) ** torch.arange(steps, dtype=torch.float64)
    wild = torch.randn(steps, 40, generator=draw, dtype=torch.float64).pow(7)
    gradients = torch.cat([growing[:, None] * 1e-9, wild], dim=1)
    w = torch.zeros(41, dtype=torch.float64)
    state = {"first_moment": w, "second_moment": w}
    longest = torch.zeros(41, dtype=torch.float64)
    for step, g in enumerate(gradients):
        after, state = optimizer.step(w, g, state, Facts(0, 1.0, step, 1, step))
        longest, w = torch.maximum(longest, (after - w).abs()), after
    assert longest.max() <= bound
    assert 0.5 * bound < longest[0]
    assert bound == pytest.approx(7.27, abs=0.01)


def late_commit(path, layout, *, staleness=3):
    """One late commit after a few steps, and what it found: start, backup, gradient, moments before, weights after."""
    draw = torch.Generator().manual_seed(7)
    flat = [torch.randn(layout.size, generator=draw, dtype=torch.float64).to(layout.dtype) for _ in range(4)]
    start, backup, gradient, second = flat
    path.state.optimizer["second_moment"].copy_(second.square() * 1e-4)
    weights = start.clone()
    path.apply(weights, [Part(0, gradient, backup, Facts(staleness, 0.05, 10, 3, 10, 16))])
    return start, backup, gradient, second.square() * 1e-4, weights


@pytest.mark.parametrize("amsgrad", [False, True])
def test_dc_lowrank_is_damped_by_how_far_adam_stretches_a_step_along_the_gradient(amsgrad):
    """E = kappa g g^T of a window of one gradient: c = E d / (1 + s kappa |g|^2), s with g P g / g g in it."""
    rule = tardigrad.rule("dc-lowrank", kappa=0.5, optimizer=f"adamw(weight_decay=0.0, amsgrad={amsgrad})")
    layout = FlatLayout.of([torch.zeros(50, dtype=torch.float64)])
    path = ExactPath(rule, layout)
    if amsgrad:
        path.state.optimizer["largest_second_moment"].fill_(0.01)
    start, backup, g, second, after = late_commit(path, layout)
    largest = torch.full_like(second, 0.01) if amsgrad else second
    p = 1.0 / ((largest / (1 - 0.999**10)).sqrt() + 1e-8)
    s = 0.05 * rule.optimizer.gain(3) * float((g * p) @ g / (g @ g))
    repaired = g + 0.5 * g * (g @ (start - backup)) / (1.0 + s * 0.5 * float(g @ g))
    m, v = 0.1 * repaired, 0.999 * second + 0.001 * repaired**2
    v = torch.maximum(largest, v) if amsgrad else v
    expected = start - 0.05 * m / (1 - 0.9**11) / ((v / (1 - 0.999**11)).sqrt() + 1e-8)
    torch.testing.assert_close(after, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw(amsgrad=True)"])
def test_before_the_first_step_a_damped_compensation_does_nothing(optimizer):
    """A weight's second moment is not known yet: the step may be as long as lr / eps."""
    ends = []
    for rule in ("dc-lowrank", "asgd"):
        layout = FlatLayout.of([torch.zeros(50)])
        path, weights = ExactPath(tardigrad.rule(rule, optimizer=optimizer), layout), torch.ones(50)
        g = torch.linspace(-1.0, 1.0, 50)
        path.apply(weights, [Part(0, g, torch.zeros(50), Facts(3, 0.05, 10, 3, 0))])
        ends.append(weights)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_a_rule_that_sees_all_weights_is_given_every_groups_preconditioner():
    seen = []

    class Noting(DCLowRank):
        def compensate(self, g, w, backup, state, facts):
            seen.append(facts.preconditioner)
            return super().compensate(g, w, backup, state, facts)

    layout = FlatLayout.of([torch.zeros(16), torch.zeros(16), torch.zeros(16)])
    groups = [ParameterGroup(1, optimizer=OPTIMIZERS.build("sgd")), ParameterGroup(2)]
    path = ExactPath(Rule(Noting(), OPTIMIZERS.build("adamw")), layout, groups=groups)
    *_, second, _ = late_commit(path, layout)
    assert seen[0][:16].tolist() == [1.0] * 16
    torch.testing.assert_close(seen[0][16:], 1.0 / ((second[16:] / (1 - 0.999**10)).sqrt() + 1e-8))


@pytest.mark.parametrize("rule", ["dc-asgd", "dc-lowrank", "its-direction(of='dc-lowrank')"])
def test_a_rule_beside_is_judged_behind_the_same_adam(rule):
    """Beside itself it finds to the digit what the run's finds, and no state of an optimizer is kept twice."""
    layout = FlatLayout.of([torch.zeros(40)])
    path = ChosenPath(
        "exact", tardigrad.rule(rule, optimizer="adamw"), layout, threads=1, groups=(), leases=None, probe_every=1,
        probe_rules=[rule],
    )  # fmt: skip
    draw = torch.Generator().manual_seed(3)
    weights = torch.randn(40, generator=draw)
    for version in range(4):
        g, now, step = (torch.randn(40, generator=draw) for _ in range(3))
        part = Part(0, g, weights + 0.3 * step, Facts(2, 0.05, version, 3, version, 16), again=now)
        _, quality = path.apply(weights, [part], measure=False, mirrors=[])
        assert version == 0 or quality[0].relative_error == quality[1].relative_error
    assert path.state_dict()["probes"]["beside"][0]["state"]["optimizer"] == {}


@pytest.mark.parametrize(
    ("rule", "reads"),
    [
        ("dc-lowrank", True),
        ("its-length(of='dc-lowrank')", True),
        ("dc-lowrank(damped=False)", False),
        ("sign-flipped(of='dc-lowrank(damped=False)')", False),
        ("dc-asgd", False),
    ],
)
def test_a_preconditioner_is_made_for_rules_that_damp_with_it(rule, reads):
    assert tardigrad.rule(rule).compensation.reads_preconditioner is reads


def test_an_elementwise_rule_is_not_given_a_preconditioner():
    """Both paths would have to; and what it would do to dc-asgd was measured, see the page on optimizers."""
    kind = type("Reading", (DCASGD,), {"reads_preconditioner": True})
    with pytest.raises(InvalidArgument, match="a rule that reads_preconditioner sees all weights at once"):
        ExactPath(Rule(kind(), OPTIMIZERS.build("adamw")), FlatLayout.of([torch.zeros(3)]))


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
