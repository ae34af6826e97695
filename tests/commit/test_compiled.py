"""The compiled path: the same rule in one pass, made ready before the first commit, and bitwise equal to itself."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch

import tardigrad
from tardigrad.commit import COMMIT_PATHS, compiled
from tardigrad.commit.base import Part
from tardigrad.commit.kernels import Kernels, kernels_of
from tardigrad.errors import CompileError
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.scopes import PER_WORKER

pytestmark = pytest.mark.usefixtures("needs_compiler")

SIZE = 70_001  # no multiple of any vector's length


def numbers(seed, size=SIZE):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).mul_(0.1)


def a_path(name, rule="dc-asgd-a", size=SIZE, threads=1, **keywords):
    layout = FlatLayout.of([torch.zeros(size)])
    return COMMIT_PATHS.load(name)(tardigrad.rule(rule, **keywords), layout, threads=threads)


def played(path, *, mirrored=False, parts=1, commits=4, size=SIZE, staleness=3):
    """The weights, backups and state after some commits."""
    weights, backups = numbers(0, size), [numbers(1 + k, size) for k in range(parts)]
    for commit in range(commits):
        facts = Facts(staleness, 0.1 / (commit + 1), 4 + commit, 3, 4 + commit, 16)
        given = [
            Part(k, numbers(10 * commit + k, size), backups[k], facts, 1.0 / parts if parts > 1 else 0.5)
            for k in range(parts)
        ]
        before = [backup.clone() for backup in backups]
        path.apply(weights, given, mirrors=backups if mirrored else [])
        if mirrored:
            assert all(torch.equal(backup, weights) for backup in backups)
            for backup, value in zip(backups, before, strict=True):
                backup.copy_(value)
    return weights, path.state_dict()


@pytest.mark.parametrize("rule", ["asgd", "dc-asgd-a"])
def test_bits_do_not_depend_on_where_else_the_weights_are_written_nor_on_threads_nor_on_neighbours(rule):
    """A replay in one process has no slots, and its results are compared bit for bit."""
    plain, state = played(a_path("compiled", rule))
    mirrored, other = played(a_path("compiled", rule), mirrored=True)
    assert torch.equal(plain, mirrored)
    threaded, _ = played(a_path("compiled", rule, threads=2))
    assert torch.equal(plain, threaded)
    short, _ = played(a_path("compiled", rule, size=SIZE), size=SIZE)
    assert torch.equal(plain, short)
    for worker, held in state["workers"].items():
        assert all(torch.equal(held[name], other["workers"][worker][name]) for name in held)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rule", ["asgd", "dc-asgd-a", "its-direction(of='dc-asgd-c(lambda0=5.0)')"])
def test_several_contributions_are_the_exact_paths_sum(rule, mirrored, monkeypatch):
    monkeypatch.setitem(compiled._BLOCK, "cpu", 30_000)
    keywords = {"momentum": 0.9, "weight_decay": 0.01}
    exact, _ = played(a_path("exact", rule, **keywords), parts=3, mirrored=mirrored)
    fast, _ = played(a_path("compiled", rule, **keywords), parts=3, mirrored=mirrored)
    torch.testing.assert_close(exact, fast, rtol=1e-6, atol=1e-7)


def test_float64_is_compiled_too():
    """What torch hands to the loop, learning rate and weight, is rounded to float32: within the tolerance."""
    layout = FlatLayout.of([torch.zeros(101, dtype=torch.float64)])
    ends = []
    for name in COMMIT_PATHS.names():
        path = COMMIT_PATHS.load(name)(tardigrad.rule("dc-asgd"), layout)
        weights = numbers(0, 101).double()
        path.apply(weights, [Part(0, numbers(1, 101).double(), numbers(2, 101).double(), Facts(2, 0.1, 5, 3, 5))])
        ends.append(weights)
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_ratio_is_the_exact_paths(parts):
    ratios = []
    for name in COMMIT_PATHS.names():
        path, weights = a_path(name), numbers(0)
        given = [Part(k, numbers(1 + k), numbers(5 + k), Facts(3, 0.1, 5, 3, 5), 1.0 / parts) for k in range(parts)]
        ratios.append(path.apply(weights, given, measure=True))
        assert path.apply(weights, given) is None
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)
    assert ratios[0] > 0.0


def test_after_prepare_nothing_is_compiled_whatever_the_numbers():
    """Every staleness, learning rate, version and size goes through what was compiled before the first commit."""
    path = a_path("compiled", "staleness-lr", momentum=0.9)
    path.prepare(mirrored=True, measure=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        for version, (size, staleness) in enumerate(itertools.product((2, 3, 1000, SIZE), (0, 1, 2, 3, 40))):
            other = a_path("compiled", "staleness-lr", size=size, momentum=0.9)
            weights, backup = numbers(0, size), numbers(1, size)
            facts = Facts(staleness, 0.3 / (version + 1), version, 1 + version % 4, version, 1 + version)
            part = Part(version % 2, numbers(2, size), backup, facts, 0.25)
            other.apply(weights, [part], measure=True, mirrors=[backup])
            other.apply(weights, [part], mirrors=[backup])


def test_after_prepare_a_round_of_any_size_needs_nothing_new():
    path = a_path("compiled", "dc-asgd-c")
    path.prepare(several=True)
    weights, backup = numbers(0), numbers(1)
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (3, 1, 2):
            facts = [Facts(staleness, 0.1, 7, count, 7, 16) for staleness in (0, 4, 1)[:count]]
            path.apply(weights, [Part(k, numbers(2 + k), backup, told, 1.0 / count) for k, told in enumerate(facts)])


def test_no_process_and_no_setting_of_torch_is_left_behind():
    import torch._dynamo.config as tracing

    before = tracing.capture_scalar_outputs, tracing.specialize_float, torch.get_num_threads()
    played(a_path("compiled", threads=2))
    assert (tracing.capture_scalar_outputs, tracing.specialize_float, torch.get_num_threads()) == before
    from torch._inductor.async_compile import AsyncCompile

    assert AsyncCompile.process_pool.cache_info().currsize == 0


class ByTensor(tardigrad.Compensation):
    """A rule that is not elementwise."""

    name = "of-tensors"
    scope = "tensor"

    def compensate(self, g, w, backup, state, facts):
        return g, {}


class Counting(tardigrad.Compensation):
    """A rule whose page torch cannot trace: it looks at a number of a tensor."""

    name = "counting"

    def state_spec(self):
        return {"seen": PER_WORKER}

    def compensate(self, g, w, backup, state, facts):
        return (g if float(g.sum()) > 0.0 else -g), {"seen": state["seen"] + 1.0}


@dataclass(frozen=True)
class Listing(tardigrad.Compensation):
    """A rule with a keyword that cannot be hashed."""

    name = "listing"
    factors: list = field(default_factory=lambda: [1.0, 2.0])

    def compensate(self, g, w, backup, state, facts):
        return g * sum(self.factors), {}


def test_functions_are_shared_by_equal_rules_and_a_list_among_the_keywords_does_no_harm():
    optimizer = tardigrad.rule("asgd").optimizer
    one, other = (tardigrad.rule("dc-asgd-a(lambda0=3.5)").compensation for _ in range(2))
    assert kernels_of(one, optimizer) is kernels_of(other, optimizer)
    assert kernels_of(one, optimizer) is not kernels_of(tardigrad.rule("dc-asgd-a(lambda0=3)").compensation, optimizer)
    assert isinstance(kernels_of(Listing(), optimizer), Kernels)


def test_a_rule_that_is_not_elementwise_is_refused_with_a_sentence():
    rule = tardigrad.rules.base.Rule(ByTensor(), tardigrad.rule("asgd").optimizer)
    with pytest.raises(CompileError, match=r"rule 'of-tensors' has scope 'tensor'.*commit_path='exact'"):
        COMMIT_PATHS.load("compiled")(rule, FlatLayout.of([torch.zeros(3)]))


def test_a_rule_that_cannot_be_traced_is_refused_before_the_first_commit():
    rule = tardigrad.rules.base.Rule(Counting(), tardigrad.rule("asgd").optimizer)
    path = COMMIT_PATHS.load("compiled")(rule, FlatLayout.of([torch.zeros(3)]))
    with pytest.raises(CompileError, match=r"counting could not be compiled: .*commit_path='exact'"):
        path.prepare()
