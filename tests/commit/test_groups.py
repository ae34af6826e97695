"""Parameter groups: learning rates and settings of their own on both paths, in one pass."""

import pytest
import torch

import tardigrad
from tardigrad.commit.groups import ParameterGroup, stretches
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.sgd import SGD

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
