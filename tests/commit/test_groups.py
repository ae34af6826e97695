"""Parameter groups: learning rates and settings of their own on both paths, in one pass."""

import pytest
import torch

import tardigrad
from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import Part
from tardigrad.commit.groups import ABSENT, ParameterGroup, present, stretches, strongest
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.adam import AdamW
from tardigrad.optimizers.sgd import SGD
from tardigrad.records import Facts
from tardigrad.rules.asgd import ASGD
from tardigrad.rules.base import Rule

SHAPES = [(37, 11), (13,), (5, 7), (3,)]
GROUPS = [ParameterGroup(1), ParameterGroup(2, 0.1, SGD(momentum=0.5)), ParameterGroup(1, 2.0, SGD(weight_decay=0.1))]


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def served(path, commits=6, rule="asgd"):
    made = tardigrad.rule(rule, momentum=0.9, nesterov=True, weight_decay=0.01)
    server = tardigrad.ParameterServer(weights(0), made, lr=0.1, workers=2, commit_path=path, groups=GROUPS)
    for commit in range(commits):
        server.pull(commit % 2)
        server.push(commit % 2, weights(commit + 1))
    return server


def test_one_worker_equals_torchs_optimizer_with_the_same_groups_bit_for_bit():
    parameters = [torch.nn.Parameter(tensor) for tensor in weights(0)]
    rule = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    others = [{"lr": 0.1 * 0.1, "momentum": 0.5}, {"lr": 0.1 * 2.0, "weight_decay": 0.1}]
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    torchs = torch.optim.SGD(
        [
            {"params": parameters[:1], **rule},
            {"params": parameters[1:3], **plain, **others[0]},
            {"params": parameters[3:], **plain, **others[1]},
        ],
        foreach=False,
        fused=False,
    )
    for commit in range(6):
        for parameter, gradient in zip(parameters, weights(commit + 1), strict=True):
            parameter.grad = gradient
        torchs.step()
    for ours, theirs in zip(served("exact").weights(), parameters, strict=True):
        assert torch.equal(ours, theirs.detach())


@pytest.mark.parametrize("rule", ["asgd", "dc-asgd-a", "clipping(max_norm=3.0)"])
def test_the_compiled_path_agrees(rule, needs_compiler):
    for ours, theirs in zip(served("exact", rule=rule).weights(), served("compiled", rule=rule).weights(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_groups_cover_the_buffer_gaps_included():
    layout = FlatLayout.of(weights(0))
    found = stretches(layout, SGD(), GROUPS)
    assert [(each.start, each.stop) for each in found] == [(0, 416), (416, 480), (480, 483)]
    assert found[0].optimizer == SGD()


def test_groups_that_do_not_name_every_tensor_are_refused():
    with pytest.raises(InvalidArgument, match="groups name 2 tensors, there are 4"):
        tardigrad.ParameterServer(weights(0), tardigrad.rule("asgd"), lr=0.1, groups=[ParameterGroup(2)])
    for field, value in (("tensors", 0), ("lr_factor", -1.0)):
        with pytest.raises(InvalidArgument, match=f"{field}={value}"):
            ParameterGroup(**{"tensors": 1, field: value})


RATES = [(0.01, 0.3, 0.07), (0.0, 0.1, 0.2)]


def rated(name, rule="asgd", staleness=0, groups=None):
    """The weights after a commit with each of RATES, whatever the factors of the groups."""
    layout = FlatLayout.of(weights(0))
    groups = groups or [ParameterGroup(1, 9.0), ParameterGroup(2, 0.5, AdamW()), ParameterGroup(1, 3.0)]
    path = COMMIT_PATHS.load(name)(tardigrad.rule(rule, momentum=0.9), layout, groups=groups)
    flat = layout.pack(weights(0))
    for version, rates in enumerate(RATES):
        backup = flat + 0.1 * layout.pack(weights(9)) * (staleness > 0)
        facts = Facts(staleness, rates[0], version, 2, version, 8, rates=rates)
        path.apply(flat, [Part(0, layout.pack(weights(version + 1)), backup, facts)])
    return layout.views(flat)


def test_a_rate_of_its_own_takes_the_place_of_a_groups_factor_to_the_bit():
    parameters = [torch.nn.Parameter(tensor) for tensor in weights(0)]
    plain = {"momentum": 0.9, "foreach": False}
    theirs = [
        torch.optim.SGD(parameters[:1], lr=1.0, **plain),
        torch.optim.AdamW(parameters[1:3], lr=1.0, foreach=False),
        torch.optim.SGD(parameters[3:], lr=1.0, **plain),
    ]
    for version, rates in enumerate(RATES):
        for parameter, g in zip(parameters, weights(version + 1), strict=True):
            parameter.grad = g
        for optimizer, rate in zip(theirs, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    for ours, parameter in zip(rated("exact"), parameters, strict=True):
        assert torch.equal(ours, parameter.detach())


@pytest.mark.parametrize("rule", ["asgd", "dc-asgd"])
def test_both_paths_take_rates(rule, needs_compiler):
    for ours, theirs in zip(rated("exact", rule, 2), rated("compiled", rule, 2), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_damping_reckons_with_a_groups_own_rate_and_optimizer():
    """A group of one rate and optimizer is damped as a server of that rate and optimizer would damp it."""
    alone = rated("exact", "dc-asgd", 2, [ParameterGroup(1), ParameterGroup(2), ParameterGroup(1)])
    among = rated("exact", "dc-asgd", 2)
    assert torch.equal(among[0], alone[0])
    assert torch.equal(among[3], alone[3])
    layout = FlatLayout.of(weights(0))
    cut = stretches(layout, SGD(momentum=0.9), [ParameterGroup(1), ParameterGroup(2, 1.0, AdamW()), ParameterGroup(1)])
    told = [each.told(Facts(5, 0.1, 9, 2, 9, rates=(0.1, 0.2, 0.3))) for each in cut]
    assert [facts.lr for facts in told] == [0.1, 0.2, 0.3]
    assert [facts.rates for facts in told] == [()] * 3
    assert [facts.gain for facts in told] == [SGD(momentum=0.9).gain(5), AdamW().gain(5), SGD(momentum=0.9).gain(5)]


@pytest.mark.parametrize("rule", ["dc-lowrank", "its-length(of='dc-lowrank')"])
def test_what_sees_all_weights_at_once_is_damped_for_the_group_that_needs_it_most(rule):
    layout = FlatLayout.of(weights(0))
    cut = stretches(layout, SGD(momentum=0.9), [ParameterGroup(1), ParameterGroup(2, 1.0, SGD()), ParameterGroup(1)])
    facts = strongest(cut, Facts(5, 0.1, 9, 2, 9, rates=(0.1, 0.3, 0.2)))
    assert (facts.lr, facts.gain, facts.step) == (0.2, SGD(momentum=0.9).gain(5), 9)
    ends = rated("exact", rule, 2)
    assert all(torch.isfinite(end).all() for end in ends)
    assert not torch.equal(ends[3], rated("exact", "asgd", 2)[3])


def test_what_sees_all_weights_is_told_the_strongest_group_and_each_group_steps_by_its_own():
    told = []

    class Noting(ASGD):
        scope = "model"

        def compensate(self, g, w, backup, state, facts):
            told.append((facts.lr, facts.gain))
            return g, {}

    layout, ends = FlatLayout.of(weights(0)), []
    groups = [ParameterGroup(1), ParameterGroup(2, optimizer=AdamW()), ParameterGroup(1, optimizer=SGD(momentum=0.9))]
    for compensation in (Noting(), ASGD()):
        path, flat = (
            COMMIT_PATHS.load("exact")(Rule(compensation, SGD()), layout, groups=groups),
            layout.pack(weights(0)),
        )
        path.apply(
            flat, [Part(0, layout.pack(weights(1)), flat.clone(), Facts(5, 0.1, 9, 2, 9, rates=(0.1, 0.3, 0.2)))]
        )
        ends.append(flat)
    assert torch.equal(*ends)
    assert told == [(0.2, SGD(momentum=0.9).gain(5))]


def test_stretches_leave_out_what_is_absent_and_are_cut_where_steps_were_missed():
    layout = FlatLayout.of(weights(0))
    cut = present(layout, stretches(layout, SGD(), [ParameterGroup(3), ParameterGroup(1)]), (0, 2, 2, 2))
    assert [(each.first, each.last, each.start, each.stop) for each in cut] == [
        (0, 1, 0, 416), (1, 3, 416, 480), (3, 4, 480, 483),
    ]  # fmt: skip
    assert [(each.number, each.missed) for each in cut] == [(0, 0), (0, 2), (1, 2)]
    assert [each.told(Facts(0, 0.1, 9, 1, 9)).step for each in cut] == [9, 7, 7]
    assert [each.first for each in present(layout, cut[:1], (ABSENT, 0, 0, 0))] == []


def test_an_optimizer_that_sees_all_weights_at_once_has_one_group():
    whole = type("Whole", (SGD,), {"scope": "model"})()
    rule = Rule(tardigrad.rule("asgd").compensation, whole)
    with pytest.raises(InvalidArgument, match="scope 'model' sees all weights at once"):
        COMMIT_PATHS.load("exact")(rule, FlatLayout.of(weights(0)), groups=GROUPS)
