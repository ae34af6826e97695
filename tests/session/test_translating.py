"""A torch.optim object becomes groups of specs, in its own order, or is refused with a sentence."""

import numpy as np
import pytest
import torch
from torch import nn

import tardigrad
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import SessionError
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.optimizers.adam import Adam, AdamW
from tardigrad.optimizers.sgd import SGD
from tardigrad.session.translating import stepped_groups, translate


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def names_of(model):
    return {id(parameter): name for name, parameter in model.named_parameters()}


def refused(optimizer, named=None):
    with pytest.raises(SessionError) as error:
        translate(optimizer, named or {})
    return str(error.value)


ONE = [nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (torch.optim.SGD(ONE, lr=0.1), SGD()),
        (
            torch.optim.SGD(ONE, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
            SGD(momentum=0.9, nesterov=True, weight_decay=5e-4),
        ),
        (torch.optim.SGD(ONE, lr=0.1, momentum=0.5, dampening=0.25), SGD(momentum=0.5, dampening=0.25)),
        (torch.optim.Adam(ONE, betas=(0.8, 0.99), eps=1e-6), Adam(beta1=0.8, beta2=0.99, eps=1e-6)),
        (torch.optim.Adam(ONE, weight_decay=0.1), Adam(weight_decay=0.1)),
        (torch.optim.Adam(ONE, weight_decay=0.1, decoupled_weight_decay=True), AdamW(weight_decay=0.1)),
        (torch.optim.AdamW(ONE), AdamW()),
        (torch.optim.AdamW(ONE, amsgrad=True, weight_decay=np.float64(0.25)), AdamW(amsgrad=True, weight_decay=0.25)),
        (torch.optim.AdamW(ONE, foreach=True), AdamW()),
        (torch.optim.AdamW(ONE, fused=True), AdamW()),
    ],
    ids=str,
)
def test_an_optimizer_is_the_servers_of_the_same_settings(made, expected):
    _, (group,) = translate(made, {})
    assert OPTIMIZERS.build(group.optimizer) == expected
    assert (group.tensors, group.lr) == (1, made.param_groups[0]["lr"])
    assert "lr" not in group.optimizer


def test_groups_keep_their_order_and_settings_and_what_is_frozen_stays_behind():
    model = a_model()
    first, second = model[0], model[2]
    other = nn.Parameter(torch.ones(1), requires_grad=False)
    first.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [second.weight], "lr": 0.01, "weight_decay": 0.0},
            {"params": [other], "lr": 7.0},  # all of it is frozen
            {"params": [second.bias, first.weight, first.bias]},
        ],
        lr=0.002,
    )
    named, groups = translate(optimizer, names_of(model))
    assert [name for name, _ in named] == ["2.weight", "2.bias", "0.bias"]
    assert all(parameter is dict(model.named_parameters())[name] for name, parameter in named)
    assert [(group.tensors, group.lr) for group in groups] == [(1, 0.01), (2, 0.002)]
    assert [OPTIMIZERS.build(group.optimizer).weight_decay for group in groups] == [0.0, 0.01]
    assert [number for number, _ in stepped_groups(optimizer)] == [0, 2]
    assert [group for _, group in stepped_groups(optimizer)][1] is optimizer.param_groups[2]


def test_a_server_of_the_translated_groups_steps_as_the_optimizer_does():
    model = a_model()
    settings = [{"params": model[0].parameters(), "weight_decay": 0.1}, {"params": model[2].parameters(), "lr": 0.03}]
    optimizer = torch.optim.AdamW(settings, lr=0.01, foreach=False)
    named, groups = translate(optimizer, names_of(model))
    given = [ParameterGroup(each.tensors, optimizer=OPTIMIZERS.build(each.optimizer)) for each in groups]
    rates = tuple(group.lr for group in groups)
    server = tardigrad.ParameterServer(
        [parameter.detach() for _, parameter in named],
        tardigrad.rule("dc-asgd"),
        lr=lambda samples: rates,
        groups=given,
    )
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        server.pull(0)
        server.push(0, [parameter.grad for _, parameter in named])
        optimizer.step()
    for ours, (_, theirs) in zip(server.weights(), named, strict=True):
        assert torch.equal(ours, theirs.detach())


def test_names_are_those_of_the_users_own_model():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(6)]
    given = ["_orig_mod.a", "module.b", "layers._orig_mod.0.c", "_orig_mod.module.d", "inner.module.e"]
    named, _ = translate(
        torch.optim.SGD(parameters, lr=0.1), {id(p): name for p, name in zip(parameters, given, strict=False)}
    )
    assert [name for name, _ in named] == ["a", "b", "layers.0.c", "d", "inner.module.e", "group0.5"]


def test_no_two_parameters_have_one_name():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(4)]
    given = ["module.a", "_orig_mod.a", "_orig_mod.a", "_orig_mod.a"]
    named, _ = translate(
        torch.optim.SGD(parameters, lr=0.1), {id(p): name for p, name in zip(parameters, given, strict=True)}
    )
    assert [name for name, _ in named] == ["a", "_orig_mod.a", "_orig_mod.a.2", "_orig_mod.a.3"]
    assert [parameter for _, parameter in named] == parameters


def test_a_parameter_the_model_does_not_know_is_called_by_its_place():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:]}]
    named, _ = translate(torch.optim.SGD(groups, lr=0.1), {})
    assert [name for name, _ in named] == ["group0.0", "group1.0", "group1.1"]
    named, _ = translate(torch.optim.SGD(a_model().named_parameters(), lr=0.1), {})
    assert [name for name, _ in named] == ["0.weight", "0.bias", "2.weight", "2.bias"]


class Mine(torch.optim.SGD):
    """It may compute anything."""


@pytest.mark.parametrize("kind", [Mine, torch.optim.RMSprop, torch.optim.NAdam], ids=lambda kind: kind.__name__)
def test_any_other_class_is_refused_with_the_list(kind):
    said = refused(kind(ONE, lr=0.1))
    assert f"{kind.__module__}.{kind.__qualname__}" in said
    assert "torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW" in said


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: torch.optim.SGD(ONE, lr=0.1, maximize=True), ("maximize=True", "negate the loss")),
        (lambda: torch.optim.Adam(ONE, differentiable=True), ("differentiable=True",)),
        (lambda: torch.optim.AdamW(ONE, capturable=True), ("capturable=True",)),
        (lambda: torch.optim.AdamW(ONE, lr=torch.tensor(0.1)), ("a tensor for lr", "scheduler")),
        (
            lambda: torch.optim.AdamW(ONE, betas=(torch.tensor(0.9), torch.tensor(0.99)), foreach=False),
            ("a tensor for betas",),
        ),
        (lambda: torch.optim.AdamW(ONE, eps=0.0), ("group 0", "eps=0.0 is not a number in")),
        (lambda: torch.optim.SGD(ONE, lr=0.1, momentum=1.5), ("momentum=1.5 is not a number in [0, 1)",)),
        (lambda: torch.optim.SGD(ONE, lr=float("inf")), ("lr=inf",)),
        (lambda: torch.optim.SGD([nn.Parameter(torch.ones(1), requires_grad=False)], lr=0.1), ("no trainable",)),
    ],
)
def test_what_the_server_cannot_keep_is_refused_with_a_sentence(made, words):
    said = refused(made())
    assert all(word in said for word in words), said


def test_an_optimizer_that_has_made_steps_is_refused():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert "has made steps" in refused(optimizer)


@pytest.mark.filterwarnings("ignore:optimizer contains")
def test_a_parameter_given_twice_is_refused():
    assert "a second time" in refused(torch.optim.SGD(ONE * 2, lr=0.1))
