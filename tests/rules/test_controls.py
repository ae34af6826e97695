"""Controls: what each keeps of the rule it wraps and what it spoils; what may be wrapped."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tardigrad
from tardigrad.errors import InvalidArgument, UnknownName
from tardigrad.records import Facts
from tardigrad.scopes import SHARED
from tardigrad.testing import RULE_LAWS, check_rule
from tardigrad.testing.walks import random_events, walk

CONTROLS = ["sign-flipped", "sign-random", "its-length", "its-direction"]
vectors = st.lists(st.floats(min_value=-10.0, max_value=10.0), min_size=3, max_size=3)


def made_of(spec, g, w, backup, *, staleness=1, version=1, dtype=torch.float64):
    """What a rule makes of a gradient, at its first push."""
    part = tardigrad.rule(spec).compensation
    given_ = [torch.as_tensor(values, dtype=dtype) for values in (g, w, backup)]
    state = {name: torch.zeros_like(given_[0]) for name in part.state_spec()}
    facts = Facts(staleness=staleness, lr=0.1, version=version, live=2, step=version)
    return repaired(part, given_, state, facts)


def repaired(part, given_, state, facts):
    """What a compensation makes of a gradient that is a single piece, its read passes done first."""
    for read_pass in range(part.read_passes):
        facts = replace(facts, read_pass=read_pass)
        sums = {name: total.item() for name, total in part.measure(*given_, state, facts).items()}
        facts = replace(facts, measured={**facts.measured, **part.conclude(sums, facts)})
    return part.compensate(*given_, state, facts)[0]


def test_by_hand():
    # g' = g + g g (w - backup) = (3 - 9/3, 4 + 16/4) = (0, 8), of length 8; g is of length 5
    given_ = ([3.0, 4.0], [-1 / 3, 0.25], [0.0, 0.0])
    of = "of='dc-asgd-c(lambda0=1)'"
    assert made_of("dc-asgd-c(lambda0=1)", *given_).tolist() == [0.0, 8.0]
    assert made_of(f"sign-flipped({of})", *given_).tolist() == [6.0, 0.0]
    assert made_of(f"its-length({of})", *given_).tolist() == pytest.approx([3.0 * 8 / 5, 4.0 * 8 / 5], rel=1e-15)
    assert made_of(f"its-direction({of})", *given_).tolist() == [0.0, 5.0]
    random = [made_of(f"sign-random({of})", *given_, version=version).tolist() for version in range(1, 40)]
    assert {tuple(values) for values in random} == {(0.0, 8.0), (6.0, 8.0), (0.0, 0.0), (6.0, 0.0)}


@pytest.mark.parametrize("of", ["dc-asgd", "dc-asgd-a", "dc-asgd-c(lambda0=2)"])
@given(g=vectors, w=vectors)
def test_lengths_and_directions(of, g, w):
    plain, rule = torch.tensor(g, dtype=torch.float64), made_of(of, g, w, [0.0] * 3)
    length, direction = (made_of(f"{name}(of='{of}')", g, w, [0.0] * 3) for name in ("its-length", "its-direction"))
    if plain.norm() < 1e-6 or rule.norm() < 1e-6:
        return
    assert length.norm().item() == pytest.approx(rule.norm().item(), rel=1e-12)
    assert direction.norm().item() == pytest.approx(plain.norm().item(), rel=1e-12)
    for ours, theirs in ((length, plain), (direction, rule)):
        cosine = torch.dot(ours, theirs) / ours.norm() / theirs.norm()
        assert cosine.item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("g", [[0.0, 0.0], [1.0, 1.0]])
def test_a_gradient_of_zero_or_one_compensated_to_zero_divides_nothing_by_zero(name, g):
    """With g = (1, 1) the compensation, 1 * 1 * (w - backup) = -1, takes all of it away."""
    result = made_of(f"{name}(of='dc-asgd-c(lambda0=1)')", g, [-1.0, -1.0], [0.0, 0.0])
    assert torch.isfinite(result).all()
    if name in ("its-length", "its-direction"):
        assert result.tolist() == [0.0, 0.0]


def test_lengths_do_not_overflow_where_squares_would():
    given_ = ([1e30, 1e30], [0.0, 0.0], [0.0, 0.0])
    for name in ("its-length", "its-direction"):
        result = made_of(f"{name}(of='staleness-lr')", *given_, staleness=2, dtype=torch.float32)
        assert result.tolist() == pytest.approx([0.5e30 if name == "its-length" else 1e30] * 2, rel=1e-6)


@pytest.mark.parametrize("name", CONTROLS)
def test_of_a_rule_that_adds_nothing_all_are_asgd_bit_for_bit(name):
    for dtype in (torch.float32, torch.float64):
        mine = walk(tardigrad.rule(f"{name}(of='dc-asgd-a(lambda0=0)')"), random_events(60), dtype=dtype, lr=0.02)
        plain = walk(tardigrad.rule("asgd"), random_events(60), dtype=dtype, lr=0.02)
        assert torch.equal(mine.weights, plain.weights)


@pytest.mark.parametrize("of", ["dc-asgd-a", "dc-asgd-a(shared=True)", "dc-asgd-a(mean_square_decay=0)"])
@pytest.mark.parametrize("name", CONTROLS)
def test_the_state_is_the_wrapped_rules(name, of):
    """With a learning rate of 0 both meet the same gradients: the states then agree bit for bit."""
    mine, theirs = (
        walk(tardigrad.rule(spec), random_events(60), dtype=torch.float32, lr=0.0).state
        for spec in (f"{name}(of='{of}')", of)
    )
    assert torch.equal(torch.cat(list(tensors(mine))), torch.cat(list(tensors(theirs))))


def tensors(state):
    for value in state.values():
        yield from tensors(value) if isinstance(value, dict) else (value,)
    yield torch.zeros(0)


@pytest.mark.parametrize("name", CONTROLS)
def test_backups_are_kept_where_the_wrapped_rule_reads_them(name):
    assert tardigrad.rule(name).compensation.reads_backup is True
    assert tardigrad.rule(name, of="staleness-lr").compensation.reads_backup is False


# Of 20 000 fair coins, 4 standard errors.
COUNT, FAIR = 20_000, 4 * math.sqrt(0.25 / 20_000)


def kept(version, *, seed=0, dtype=torch.float64):
    """Where sign-random leaves the compensation's sign: g = 1, g' = 2."""
    ones = torch.ones(COUNT, dtype=dtype)
    result = made_of(f"sign-random(of='dc-asgd-c(lambda0=1)', seed={seed})", ones, ones, 0 * ones, version=version)
    assert set(result.tolist()) == {0.0, 2.0}
    return result == 2.0


def test_signs_are_fair_anew_at_each_commit_and_repeatable():
    first, second = kept(1), kept(2)
    assert abs(first.double().mean().item() - 0.5) < FAIR
    assert abs((first == second).double().mean().item() - 0.5) < FAIR
    assert abs((first == kept(1, seed=1)).double().mean().item() - 0.5) < FAIR
    assert abs((first[1:] == first[:-1]).double().mean().item() - 0.5) < FAIR
    assert torch.equal(first, kept(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", [*CONTROLS, "clipping"])
def test_on_cuda_a_commit_is_the_cpus(name):
    """The signs are the same bits on every device; the rest agrees to rounding."""
    stream = torch.Generator().manual_seed(0)
    g, w, backup = (torch.randn(1003, generator=stream) for _ in range(3))
    part = tardigrad.rule(name).compensation
    facts = Facts(staleness=3, lr=0.1, version=5, live=2, step=5)
    both = []
    for device in ("cpu", "cuda"):
        moved = [tensor.to(device) for tensor in (g, w, backup)]
        state = {word: torch.zeros_like(moved[0]) for word in part.state_spec()}
        both.append(repaired(part, moved, state, facts))
        assert both[-1].device == moved[0].device
    torch.testing.assert_close(both[1].cpu(), both[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONTROLS)
def test_the_spec_names_every_keyword_of_the_wrapped_rule_and_round_trips(name):
    rule = tardigrad.rule(f"{name}(of='dc-asgd-a(lambda0=4)')")
    whole = (
        "dc-asgd-a(lambda0=4.0, mean_square_decay=0.95, eps=1e-07, clip_compensation=None, damped=False, shared=False)"
    )
    assert rule.spec.startswith(f"{name}(of='{whole}'")
    again = tardigrad.rule(rule.spec)
    assert again == rule
    assert again.spec == rule.spec
    assert tardigrad.rule(f"{name}('dc-asgd-a(lambda0=4)')") == rule
    assert tardigrad.rule(name, of="dc-asgd-a", momentum=0.9) != tardigrad.rule(name, of="dc-asgd-c", momentum=0.9)


def test_what_cannot_be_wrapped_is_refused_with_a_sentence():
    for of, why in (("asgd", "it adds nothing"), ("sign-random", "is a control itself"), ("clipping", "not late")):
        with pytest.raises(InvalidArgument, match=rf"its-length: of='{of}' is not to be wrapped: .*{why}"):
            tardigrad.rule("its-length", of=of)
    with pytest.raises(UnknownName, match=r"unknown rule 'dc-asgd-b'\. Did you mean"):
        tardigrad.rule("its-length", of="dc-asgd-b")
    with pytest.raises(InvalidArgument, match="rule 'dc-asgd-a' has no keyword 'lamda0'"):
        tardigrad.rule("its-length(of='dc-asgd-a(lamda0=4)')")


@dataclass(frozen=True, slots=True)
class ByTensor(tardigrad.Compensation):
    """A rule that works in the shape of each tensor: rows that moved far count half."""

    name = "by-tensor"
    scope = "tensor"
    reads_backup = True

    def compensate(self, g, w, backup, state, facts):
        if facts.staleness == 0:
            return g, {}
        moved = (w - backup).abs()
        return g * torch.where(moved > moved.mean(), 0.5, 1.0), {}


@dataclass(frozen=True, slots=True)
class ByModel(tardigrad.Compensation):
    """A rule that asks for a number over the whole vector, and keeps one state."""

    name = "by-model"
    reads_backup = True
    read_passes = 1

    def state_spec(self):
        return {"last": SHARED}

    def measure(self, g, w, backup, state, facts):
        return {"square": (w - backup).double().square().sum()}

    def conclude(self, sums, facts):
        return {"distance": sums["square"] ** 0.5}

    def compensate(self, g, w, backup, state, facts):
        if facts.staleness == 0:
            return g, {"last": g.clone()}
        return g / (1.0 + facts.measured["distance"]), {"last": g.clone()}


@pytest.fixture
def strangers():
    tardigrad.register_rule("by-tensor", ByTensor)
    tardigrad.register_rule("by-model", ByModel)


@pytest.mark.usefixtures("strangers")
def test_strangers_rules_of_every_scope():
    """What the wrapped rule measures over the whole vector reaches it; one that works on tensors is handed tensors."""
    far, compiled = "converges at every staleness", "compiled equals exact"  # what takes long: once for each kind
    quick = [law for law in RULE_LAWS if law not in (far, compiled)]
    for name in CONTROLS:
        check_rule(f"{name}(of='by-model')", lr=0.02, laws=quick)
        check_rule(f"{name}(of='by-tensor')", lr=0.02, laws=quick)
    check_rule("its-length(of='by-model')", lr=0.02, laws=[far, compiled])
    check_rule("sign-random(of='by-model')", lr=0.02, laws=[compiled])
    check_rule("its-direction(of='by-tensor')", lr=0.02, laws=[far])
