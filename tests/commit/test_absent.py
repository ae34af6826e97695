"""Tensors without a gradient are passed over, as torch.optim passes over parameters whose grad is None."""

import itertools

import pytest
import torch

import tardigrad
from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import Part
from tardigrad.commit.choice import ChosenPath
from tardigrad.commit.exact import ExactPath
from tardigrad.commit.groups import ParameterGroup
from tardigrad.commit.pieces import Piece
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.adam import AdamW
from tardigrad.optimizers.sgd import SGD
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.scopes import PER_WORKER, SHARED

SHAPES = [(37, 11), (13,), (), (5, 7), (3,)]
ALL = range(len(SHAPES))
ABSENT = [(), (1,), (1, 4), (), (0, 1), (4,), (2, 3), (1,), ()]  # tensor 1 has its first gradient late


def tensors(seed, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]


LAYOUT = FlatLayout.of(tensors(0))


def gradient(seed, absent, layout=LAYOUT):
    """Flat, and zero where it is absent."""
    made = tensors(seed, layout.dtype)
    return layout.pack([torch.zeros_like(g) if k in absent else g for k, g in enumerate(made)])


def facts(version, staleness=0, **keywords):
    return Facts(staleness, 0.05, version, 3, version, 4, **keywords)


def commit(path, weights, version, absent, *, staleness=0, seed=None, **keywords):
    """One contribution of a worker whose backup differs from the weights; returns that backup."""
    layout = path.layout
    backup = weights + 0.1 * layout.pack(tensors(900 + version, layout.dtype)) * (staleness > 0)
    g = gradient(version + 1 if seed is None else seed, absent, layout)
    path.apply(weights, [Part(version % 2, g, backup, facts(version, staleness))], absent=absent, **keywords)
    return backup


def held(path):
    """Every tensor of state by name."""
    state = path.state_dict()
    groups = {"optimizer": state["optimizer"], "shared": state["shared"], **state["workers"]}
    return {(group, name): tensor for group, named in groups.items() for name, tensor in named.items()}


OPTIMIZERS = {
    "sgd": (SGD(momentum=0.9, dampening=0.5, weight_decay=0.1), torch.optim.SGD),
    "nesterov": (SGD(momentum=0.9, nesterov=True), torch.optim.SGD),
    "adamw": (AdamW(weight_decay=0.1, amsgrad=True, beta2=0.9), torch.optim.AdamW),
}


def keywords_for_torch(optimizer):
    if isinstance(optimizer, SGD):
        names = ("momentum", "dampening", "nesterov", "weight_decay")
        return {name: getattr(optimizer, name) for name in names}
    rest = {name: getattr(optimizer, name) for name in ("eps", "weight_decay", "amsgrad")}
    return {"betas": (optimizer.beta1, optimizer.beta2), **rest}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [(), (ParameterGroup(2), ParameterGroup(3))], ids=["one group", "two groups"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_what_torchs_optimizer_does_to_parameters_without_a_gradient(name, groups, dtype):
    optimizer, kind = OPTIMIZERS[name]
    layout = FlatLayout.of(tensors(0, dtype))
    path = ExactPath(Rule(tardigrad.rule("dc-asgd").compensation, optimizer), layout, groups=groups)
    weights = layout.pack(tensors(0, dtype))
    parameters = [torch.nn.Parameter(tensor) for tensor in tensors(0, dtype)]
    theirs = kind(parameters, lr=0.05, foreach=False, fused=False, **keywords_for_torch(optimizer))
    for version, absent in enumerate(ABSENT * 2):
        commit(path, weights, version, absent)
        for k, (parameter, g) in enumerate(zip(parameters, tensors(version + 1, dtype), strict=True)):
            parameter.grad = None if k in absent else g
        theirs.step()
        for ours, parameter in zip(layout.views(weights), parameters, strict=True):
            assert torch.equal(ours, parameter.detach()), f"differs after commit {version + 1}"


def test_the_compiled_path_agrees(needs_compiler):
    rule, ends = tardigrad.rule("dc-asgd-a", optimizer="adamw(weight_decay=0.1)"), []
    groups = (ParameterGroup(2), ParameterGroup(3, 0.5))
    for name in COMMIT_PATHS.names():
        path = COMMIT_PATHS.load(name)(rule, LAYOUT, groups=groups)
        weights = LAYOUT.pack(tensors(0))
        for version, absent in enumerate(ABSENT):
            before = weights.clone()
            commit(path, weights, version, absent, staleness=version % 3)
            same = [torch.equal(*pair) for pair in zip(LAYOUT.views(before), LAYOUT.views(weights), strict=True)]
            assert [k for k in ALL if same[k]] == list(absent)
        ends.append(weights)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


class Doubling(tardigrad.Compensation):
    """Any scope; a state of each kind that every contribution changes everywhere."""

    name = "doubling"

    def state_spec(self):
        return {"own": PER_WORKER, "all": SHARED}

    def compensate(self, g, w, backup, state, facts):
        return 2.0 * g + 1.0, {name: tensor + 1.0 for name, tensor in state.items()}


class Counting(tardigrad.optimizers.base.Optimizer):
    """Any scope; moves every weight, and counts."""

    name = "counting"

    def state_spec(self):
        return ("count",)

    def step(self, w, g, state, facts):
        return w - 0.1 * g - 0.01, {"count": state["count"] + 1.0}


SCOPES = ["element", "tensor", "model"]


def scoped(first, second):
    compensation, optimizer = (
        type(kind.__name__, (kind,), {"scope": scope})() for kind, scope in ((Doubling, first), (Counting, second))
    )
    return ExactPath(Rule(compensation, optimizer), LAYOUT, block=16)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(SCOPES, SCOPES)))
def test_in_every_scope_weights_and_state_of_the_absent_stay_and_the_others_move(first, second):
    path, weights = scoped(first, second), LAYOUT.pack(tensors(0))
    commit(path, weights, 0, ())
    commit(path, weights, 1, ())
    before, state = weights.clone(), held(path)
    plain, other = weights.clone(), scoped(first, second)
    other.load_state_dict(path.state_dict())
    commit(path, weights, 2, (1, 3))
    commit(other, plain, 2, (), seed=3)
    for k, (was, now, all_moved) in enumerate(zip(*map(LAYOUT.views, (before, weights, plain)), strict=True)):
        assert torch.equal(now, was if k in (1, 3) else all_moved)
        assert not torch.equal(now, was) or k in (1, 3)
    for (group, name), tensor in held(path).items():
        views = zip(LAYOUT.views(tensor), LAYOUT.views(state[group, name]), strict=True)
        moved = [not torch.equal(now, was) for now, was in views]
        assert moved == [k not in (1, 3) and group != 1 for k in ALL], f"{group} {name}"


@pytest.mark.parametrize("rule", ["dc-asgd-a", "dc-lowrank", "its-length(of='dc-lowrank')", "clipping(max_norm=0.5)"])
def test_late_contributions_of_every_kind_of_rule_leave_the_absent_alone(rule):
    path = ExactPath(tardigrad.rule(rule, optimizer="adamw"), LAYOUT)
    weights = LAYOUT.pack(tensors(0))
    for version in range(3):
        commit(path, weights, version, (), staleness=1)
    before, state = weights.clone(), held(path)
    commit(path, weights, 3, (0, 4), staleness=1, measure=True)
    for mine, was in [(weights, before), *((tensor, state[key]) for key, tensor in held(path).items())]:
        for k in (0, 4):
            assert torch.equal(LAYOUT.views(mine)[k], LAYOUT.views(was)[k])
    assert not torch.equal(LAYOUT.views(weights)[1], LAYOUT.views(before)[1])


@pytest.mark.parametrize("name", ["exact", "compiled"])
def test_mirrors_hold_all_weights(name, needs_compiler):
    """A mirror is what a worker reads next; what was absent from its own push, others may have moved."""
    path, weights = COMMIT_PATHS.load(name)(tardigrad.rule("asgd"), LAYOUT), LAYOUT.pack(tensors(0))
    mirror = torch.zeros_like(weights)
    commit(path, weights, 0, (0, 2, 4), mirrors=[mirror])
    assert torch.equal(mirror, weights)


@pytest.mark.parametrize("name", ["exact", "compiled"])
def test_several_contributions_pass_over_what_is_absent_from_all(name, needs_compiler):
    path = COMMIT_PATHS.load(name)(tardigrad.rule("dc-asgd-a", optimizer="adamw"), LAYOUT)
    weights = LAYOUT.pack(tensors(0))
    before = weights.clone()
    parts = [Part(k, gradient(k + 1, (1, 1 + k)), before.clone(), facts(0), 0.5) for k in (1, 2)]
    path.apply(weights, parts, absent=(1,))
    same = [torch.equal(*pair) for pair in zip(LAYOUT.views(before), LAYOUT.views(weights), strict=True)]
    assert same == [k == 1 for k in ALL]


def test_what_was_missed_goes_on_with_the_state():
    path, weights = ExactPath(tardigrad.rule("asgd", optimizer="adamw"), LAYOUT), LAYOUT.pack(tensors(0))
    assert "missed" not in path.state_dict()
    for version, absent in enumerate(ABSENT):
        commit(path, weights, version, absent)
    restored, other = ExactPath(tardigrad.rule("asgd", optimizer="adamw"), LAYOUT), weights.clone()
    restored.load_state_dict(path.state_dict())
    for each, flat in ((path, weights), (restored, other)):
        commit(each, flat, 20, (3,))
    assert torch.equal(weights, other)
    assert path.state_dict()["missed"].tolist() == [1, 4, 1, 2, 2]


def test_where_nothing_has_a_gradient_nothing_changes():
    path, weights = ExactPath(tardigrad.rule("asgd", optimizer="adamw"), LAYOUT), LAYOUT.pack(tensors(0))
    before = weights.clone()
    commit(path, weights, 0, tuple(ALL))
    assert torch.equal(weights, before)
    assert path.state_dict()["missed"].tolist() == [1] * len(SHAPES)


@pytest.mark.parametrize("rule", ["dc-asgd-a", "dc-lowrank"])
def test_rules_beside_pass_over_the_absent_too(rule):
    """Their state is what it would be if they were the run's own; a second gradient there plays no part."""
    path = ChosenPath(
        "exact", tardigrad.rule(rule), LAYOUT, threads=1, groups=(), leases=None, probe_every=2,
        probe_rules=["dc-asgd-a"],
    )  # fmt: skip
    alone = ExactPath(tardigrad.rule("dc-asgd-a"), LAYOUT)
    weights = LAYOUT.pack(tensors(0))
    for version, absent in enumerate([(), (1,), (1, 4)]):
        backup, now = weights + 0.1 * gradient(50, ()), gradient(60, absent)
        part = Part(0, gradient(version + 1, absent), backup, facts(version, 1), again=now)
        alone.apply(weights.clone(), [part], absent=absent)
        _, quality = path.apply(weights, [part], measure=False, mirrors=[], absent=absent)
    state = path.state_dict()["probes"]["beside"][0]["state"]["workers"][0]["mean_square"]
    assert torch.equal(state, held(alone)[0, "mean_square"])
    assert [each.name for each in quality] == [rule, tardigrad.rule("dc-asgd-a").spec]
    assert all(0.0 < each.relative_error < 10.0 for each in quality)


def test_an_optimizer_that_sees_all_weights_is_given_zeros_for_the_absent():
    """What was compensated there in the commit before is gone, whatever the compensation sees at once."""
    seen = []

    class Noting(Counting):
        scope = "model"

        def step(self, w, g, state, facts):
            seen.append(g.clone())
            return super().step(w, g, state, facts)

    for scope in SCOPES:
        path = ExactPath(Rule(type("Any", (Doubling,), {"scope": scope})(), Noting()), LAYOUT)
        weights = LAYOUT.pack(tensors(0))
        commit(path, weights, 0, ())
        commit(path, weights, 1, (1, 3))
        zeros = [not view.any() for view in LAYOUT.views(seen[-1])]
        assert zeros == [k in (1, 3) for k in ALL], scope


def test_a_tensor_named_twice_has_missed_one_commit():
    path, weights = ExactPath(tardigrad.rule("asgd"), LAYOUT), LAYOUT.pack(tensors(0))
    commit(path, weights, 0, (3, 3))
    assert path.state_dict()["missed"].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("absent", [(5,), (-1,), (0, 99)])
def test_a_number_that_is_no_tensors_is_refused_and_nothing_changes(absent):
    path, weights = ExactPath(tardigrad.rule("asgd"), LAYOUT), LAYOUT.pack(tensors(0))
    before = weights.clone()
    with pytest.raises(InvalidArgument, match=r"is no tensor's number; there are 5"):
        path.apply(weights, [Part(0, gradient(1, ()), before, facts(0))], absent=absent)
    assert torch.equal(weights, before)


def test_a_piece_of_everything_writes_but_what_is_kept():
    piece = Piece(0, 6, 0, kept=(slice(0, 2), slice(4, 5)))
    flat = torch.zeros(6)
    piece.write(flat, torch.ones(6))
    assert flat.tolist() == [1, 1, 0, 0, 1, 0]
    assert piece.without_absent(torch.full((6,), 3.0)).tolist() == [3, 3, 0, 0, 3, 0]
