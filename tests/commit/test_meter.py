"""The quality meter against hand computation: what is measured, what follows from it, and that nothing is changed."""

import math

import numpy as np
import pytest
import torch

import tardigrad
from tardigrad.commit.meter import FORGETTING, PRIOR, WIDEST, Following
from tardigrad.errors import InvalidArgument

CURVATURE = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


class Quadratic:
    """Two workers on a quadratic of known curvature: worker 1 holds w_0 while worker 0 commits once, then pushes."""

    def __init__(self, rule, curvature=CURVATURE, **settings):
        settings = {"lr": 0.02, "workers": 2, "probe_every": 1} | settings
        self.server = tardigrad.ParameterServer([START], tardigrad.rule(rule), **settings)
        self.curvature = curvature
        self.read = {worker: self.server.pull(worker).weights[0] for worker in (0, 1)}

    def push(self, worker, **keywords):
        """One push and the next pull; with the gradient of now where the server wants it."""
        if self.server.wants_probe(worker):
            keywords["again"] = [self.curvature * self.server.weights()[0]]
        commit = self.server.push(worker, [self.curvature * self.read[worker]], **keywords)
        self.read[worker] = self.server.pull(worker).weights[0]
        return commit

    def probe(self):
        """A commit of worker 0, and the late one of worker 1: what was found of it."""
        self.push(0)
        return self.push(1)


def by_hand(g, now, repaired):
    """Relative error, cosine, raw cosine, compensation cosine and coefficient, by numpy in float64."""
    g, now, repaired = (np.asarray(each) for each in (g, now, repaired))
    y, c = now - g, repaired - g

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    left = repaired - now
    return math.sqrt(left @ left / (y @ y)), cosine(repaired, now), cosine(g, now), cosine(y, c), y @ c / (c @ c)


def numbers(found):
    return (
        found.relative_error,
        found.cosine,
        found.raw_cosine,
        found.compensation_cosine,
        found.coefficient,
    )


def test_what_is_measured_is_what_a_hand_computes():
    walk = Quadratic("dc-asgd-c(lambda0=0.3)", probe_rules=["dc-asgd-c(lambda0=2.0)", "asgd"])
    g = CURVATURE * START
    w = START - 0.02 * g
    own, other, plain = walk.probe().quality
    assert numbers(own) == pytest.approx(by_hand(g, CURVATURE * w, g + 0.3 * g * g * (w - START)))
    assert numbers(other) == pytest.approx(by_hand(g, CURVATURE * w, g + 2.0 * g * g * (w - START)))
    assert [own.name, other.name.partition("(")[0], plain.name] == ["dc-asgd-c", "dc-asgd-c", "asgd"]
    assert (own.staleness, own.strength) == (1, 1.0)
    assert (plain.relative_error, plain.cosine) == (1.0, plain.raw_cosine)
    assert math.isnan(plain.coefficient)
    assert math.isnan(plain.compensation_cosine)


@pytest.mark.parametrize("times", [0.25, 3.0])
def test_where_the_estimate_is_a_multiple_of_the_truth_the_coefficient_is_that_multiple(times):
    """With H = times lambda g^2 element by element, y = times c: least squares leaves nothing."""
    scale = torch.tensor(0.4, dtype=torch.float64)
    curvature = times * 0.5 * scale**2 * torch.ones(4, dtype=torch.float64)
    server = tardigrad.ParameterServer(
        [START], tardigrad.rule("dc-asgd-c(lambda0=0.5)"), lr=0.1, workers=2, probe_every=1
    )
    for worker in (0, 1):
        server.pull(worker)
    server.push(0, [scale * torch.ones(4, dtype=torch.float64)])
    late = scale * torch.ones(4, dtype=torch.float64)
    now = late + curvature * (server.weights()[0] - START)
    (found,) = server.push(1, [late], again=[now]).quality
    assert found.coefficient == pytest.approx(times)
    assert found.compensation_cosine == pytest.approx(1.0)
    assert found.relative_error == pytest.approx(abs(1.0 - 1.0 / times))


def test_a_perfect_gradient_has_no_error():
    walk = Quadratic("asgd")
    walk.push(0)
    (found,) = walk.push(1).quality
    assert found.relative_error == 1.0
    # With mean_square_decay 0 and eps far below, lambda_t g^2 is lambda0 |g|: at |g| = h / lambda0 it is the Hessian.
    h, size = 2.0, torch.tensor([0.5], dtype=torch.float64)
    rule = tardigrad.rule("dc-asgd-a", lambda0=4.0, mean_square_decay=0.0, eps=1e-30)
    server = tardigrad.ParameterServer([torch.zeros(1).double()], rule, lr=0.1, workers=2, probe_every=1)
    for worker in (0, 1):
        server.pull(worker)
    server.push(0, [size])
    (found,) = server.push(1, [size], again=[size + h * server.weights()[0]]).quality
    assert found.relative_error == pytest.approx(0.0, abs=1e-12)
    assert found.coefficient == pytest.approx(1.0)


def test_only_late_gradients_are_probed_and_the_first_from_each_multiple_on():
    walk = Quadratic("dc-asgd-a", probe_every=4)
    probed = []
    for worker in (0, 0, 1, 0, 0, 0, 1, 1, 0, 1):
        commit = walk.push(worker)
        if commit.quality is not None:
            probed.append((commit.version, commit.staleness))
    # Versions 4 and 5 meet fresh gradients, 6 the first late one; then 8 is the next multiple.
    assert probed == [(7, 3), (9, 2)]


def test_a_second_gradient_that_nobody_asked_for_is_passed_over():
    walk = Quadratic("dc-asgd-a", probe_every=50)
    walk.push(0)
    assert walk.push(1, again=[START]).quality is None
    assert Quadratic("dc-asgd-a", probe_every=0).push(0, again=[START]).quality is None


def test_a_barrier_is_never_probed():
    walk = Quadratic("dc-asgd-a", consistency="synchronous", workers=2, probe_rules=["dc-asgd-c"])
    assert not walk.server.wants_probe(0)
    walk.server.push(0, [START])
    assert walk.server.push(1, [START]).quality is None


RULES = ["asgd", "dc-asgd", "dc-lowrank", "its-length(of='dc-asgd-a')", "sign-random(of='dc-asgd-c')"]


@pytest.mark.parametrize("rule", RULES)
def test_probing_changes_no_bit(rule):
    beside = ["dc-asgd-a", "dc-lowrank", "clipping"]
    plain, probed = Quadratic(rule, probe_every=0), Quadratic(rule, probe_every=2, probe_rules=beside)
    found = 0
    for step in range(30):
        worker = (0, 1, 1, 0, 1)[step % 5]
        plain.push(worker)
        found += probed.push(worker).quality is not None
        assert torch.equal(plain.server.flat, probed.server.flat)
    assert found > 5
    mine, theirs = plain.server.state_dict()["path"], probed.server.state_dict()["path"]
    theirs.pop("probes")
    assert str(mine) == str(theirs)


@pytest.mark.parametrize("spec", ["dc-asgd-a(lambda0=1.0)", "dc-lowrank", "sign-random(of='dc-asgd-a')"])
def test_a_rule_beside_is_judged_as_if_it_were_the_runs_own(spec):
    """At the same weights: the learning rate is zero but for one commit, so that both walks are one."""
    own, beside = Quadratic(spec), Quadratic("asgd", probe_rules=[spec])
    for walk in (own, beside):
        walk.server._lr = 0.0
        for worker in (0, 1, 0, 0, 1):
            walk.push(worker)
        walk.server._lr = 0.1
        walk.push(0)
        walk.server._lr = 0.0
    first, second = own.push(1).quality[0], beside.push(1).quality[1]
    if spec == "dc-lowrank":  # the step of own and of beside is the plain one: fresh gradients are not compensated
        assert first.coefficient == second.coefficient
    assert numbers(first) == numbers(second)


def test_state_goes_on_where_it_was():
    rule, beside = "dc-asgd-a(lambda0='auto')", ["dc-asgd-a", "dc-lowrank", "dc-asgd-c(lambda0='auto')"]
    whole = Quadratic(rule, probe_every=7, probe_rules=beside)
    for step in range(13):
        whole.push((0, 1, 1, 0, 1)[step % 5])
    half = Quadratic(rule, probe_every=7, probe_rules=beside)
    half.server.load_state_dict(whole.server.state_dict())
    half.read = dict(whole.read)
    for step in range(13, 30):
        worker = (0, 1, 1, 0, 1)[step % 5]
        assert repr(whole.push(worker).quality) == repr(half.push(worker).quality)
    assert torch.equal(whole.server.flat, half.server.flat)


def test_a_state_of_before_there_were_probes_is_taken():
    plain = Quadratic("dc-asgd-a", probe_every=0)
    plain.probe()
    probed = Quadratic("dc-asgd-a", probe_rules=["dc-lowrank"])
    probed.server.load_state_dict(plain.server.state_dict())
    assert torch.equal(plain.server.flat, probed.server.flat)


def test_rules_beside_count_in_what_is_held():
    plain = Quadratic("asgd", probe_every=0).server
    probed = Quadratic("asgd", probe_rules=["dc-asgd-a"])
    before = probed.server.bytes_held()["state"]
    probed.probe()
    assert (plain.bytes_held()["state"], before) == (0, 0)
    assert probed.server.bytes_held()["state"] == 2 * START.numel() * 8  # a mean square of each worker


def test_what_names_no_rule_is_refused():
    with pytest.raises(InvalidArgument, match="Did you mean 'dc-asgd'"):
        Quadratic("asgd", probe_rules=["dc-asd"])


# -- what follows ----------------------------------------------------------------------------------------------


def test_the_factor_is_the_minimum_of_what_it_says():
    following, seen = Following(), [(0.8, 0.5), (1.5, 0.25), (-0.2, 0.1), (2.0, 1.0)]
    for fit, square in seen:
        following.learn(fit, square)
    ages = np.arange(len(seen))[::-1]
    weight = FORGETTING**ages
    fits, squares = np.array(seen).T
    mean = (weight @ squares) / weight.sum()
    prior = PRIOR * FORGETTING ** len(seen) * mean
    assert following.factor == pytest.approx((prior + weight @ fits) / (prior + weight @ squares))

    def loss(f):
        return weight @ (1.0 - 2.0 * f * fits + f**2 * squares) + prior * (f - 1.0) ** 2

    assert loss(following.factor) < min(loss(following.factor + 1e-3), loss(following.factor - 1e-3))


@pytest.mark.parametrize(("fit", "limit"), [(1e9, WIDEST), (-1e9, 1.0 / WIDEST)])
def test_the_factor_stays_within_its_bounds(fit, limit):
    following = Following()
    following.learn(fit, 1.0)
    assert following.factor == limit


@pytest.mark.parametrize(("fit", "square"), [(math.nan, 1.0), (1.0, math.inf), (0.0, 0.0)])
def test_a_probe_that_says_nothing_changes_nothing(fit, square):
    following = Following()
    following.learn(0.5, 1.0)
    before = following.state_dict()
    following.learn(fit, square)
    assert following.state_dict() == before


@pytest.mark.parametrize("truth", [0.3, 5.0])
@pytest.mark.parametrize("control", ["{}", 'sign-flipped(of="{}")'])
def test_auto_finds_the_strength_that_is_right(truth, control):
    """Curvature truth * 0.04 g^2: so many times the registered lambda0; a control is as strong as what it spoils."""
    rule = control.format("dc-asgd-c(lambda0='auto')")
    server = tardigrad.ParameterServer([START], tardigrad.rule(rule), lr=0.01, workers=2, probe_every=1)
    g = torch.full((4,), 0.9, dtype=torch.float64)
    strengths = []
    for _ in range(60):
        read = [server.pull(worker).weights[0] for worker in (0, 1)]
        server.push(0, [g])
        moved = server.weights()[0] - read[1]
        before = server.weights()[0]
        (found,) = server.push(1, [g], again=[g + truth * 0.04 * g * g * moved]).quality
        strengths.append(found.strength)
        sign = -1.0 if "flipped" in rule else 1.0  # the commit is made with the factor that was judged
        made = before - 0.01 * (g + sign * found.strength * 0.04 * g * g * moved)
        assert torch.allclose(server.weights()[0], made, rtol=1e-12)
    assert strengths[0] == 1.0
    assert strengths[-1] == pytest.approx(truth, rel=0.02)


def test_auto_is_the_registered_strength_times_the_factor():
    facts = tardigrad.records.Facts(staleness=2, lr=0.1, version=5, live=2, step=5, strength=3.0)
    g, w, backup = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    for name, default in (("dc-asgd-c", 0.04), ("dc-asgd-a", 2.0), ("dc-asgd", 8.0)):
        state = {"mean_square": torch.ones_like(g)}
        auto, chosen = (tardigrad.rule(name, lambda0=value).compensation for value in ("auto", 3.0 * default))
        assert (auto.follows_probes, chosen.follows_probes) == (True, False)
        results = [each.compensate(g, w, backup, state, facts)[0] for each in (auto, chosen)]
        assert torch.allclose(*results, rtol=1e-14, atol=0.0)
        assert not torch.equal(results[0], g)
        assert tardigrad.rule(auto_spec := tardigrad.rule(name, lambda0="auto").spec).spec == auto_spec


@pytest.mark.parametrize("rule", ["dc-asgd(lambda0='auto', clip_compensation=0.5)"])
def test_the_factor_reaches_the_compiled_path(rule, needs_compiler):
    from tardigrad.commit.base import Part
    from tardigrad.commit.compiled import CompiledPath
    from tardigrad.commit.exact import ExactPath
    from tardigrad.layout import FlatLayout

    g, w, backup = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)).unbind()
    layout, made = FlatLayout.of([w]), tardigrad.rule(rule)
    ends = {}
    for path in (ExactPath(made, layout), CompiledPath(made, layout)):
        for strength in (1.0, 0.1):
            facts = tardigrad.records.Facts(staleness=2, lr=0.1, version=5, live=2, step=5, strength=strength)
            weights = w.clone()
            path.apply(weights, [Part(0, g, backup, facts)])
            ends[path.name, strength] = weights
    for strength in (1.0, 0.1):
        assert torch.allclose(ends["exact", strength], ends["compiled", strength], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(ends["exact", 1.0], ends["exact", 0.1], rtol=1e-3)
