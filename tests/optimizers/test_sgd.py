"""One worker is torch.optim.SGD, bit for bit."""

import pytest
import torch

import tardigrad
from tardigrad.schedules import Step, Warmup

SHAPES = [(3, 5), (7,), (), (1,), (129, 33), (16, 1, 3, 3)]
KEYWORDS = [
    {},
    {"weight_decay": 0.01},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "weight_decay": 1e-4},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
]


def tensors(dtype, seed):
    """Parameters of odd sizes; the last, a convolution's, is channels_last."""
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]
    conv = torch.randn((4, 3, 3, 3), generator=draw, dtype=torch.float64).to(dtype)
    return [*made, conv.to(memory_format=torch.channels_last)]


def torch_sgd(weights, **keywords):
    """torch's optimizer on parameters of its own, in its plain form."""
    parameters = [torch.nn.Parameter(w.clone(memory_format=torch.preserve_format)) for w in weights]
    return parameters, torch.optim.SGD(parameters, lr=0.1, foreach=False, fused=False, **keywords)


def equal(ours, theirs):
    return all(torch.equal(a, b.detach()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["asgd", "dc-asgd-a", "dc-asgd-c", "dc-asgd", "staleness-lr"])
@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
def test_one_worker_is_torch_sgd_bit_for_bit_over_a_schedule(name, keywords, dtype):
    epoch, batch = 40, 8
    schedule = Warmup(1.0, Step((2.0, 3.0), 0.3), 0.1)
    weights = tensors(dtype, 0)
    server = tardigrad.ParameterServer(
        weights, tardigrad.rule(name, **keywords), lr=lambda samples: 0.1 * schedule.factor(samples / epoch)
    )
    parameters, optimizer = torch_sgd(weights, **keywords)
    for step in range(4 * epoch // batch):
        gradients = [g + 0.1 * w for g, w in zip(tensors(dtype, step + 1), server.pull(0).weights, strict=True)]
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter.grad = g.clone(memory_format=torch.preserve_format)
        optimizer.param_groups[0]["lr"] = 0.1 * schedule.factor(step * batch / epoch)
        optimizer.step()
        commit = server.push(0, gradients, samples=batch)
        assert (commit.staleness, commit.lr) == (0, optimizer.param_groups[0]["lr"])
        assert equal(server.weights(), parameters), f"differs at step {step}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_trained_through_the_server_is_the_model_trained_alone(dtype):
    """Real gradients of a convolution in channels_last, with 1 worker."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 8, 3)
    model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 5)).to(dtype)
    model = model.to(memory_format=torch.channels_last)
    inputs = torch.randn(20, 4, 3, 6, 6, dtype=dtype).unbind()
    rule = tardigrad.rule("dc-asgd-a", momentum=0.9, nesterov=True, weight_decay=1e-3)
    server = tardigrad.ParameterServer(list(model.parameters()), rule, lr=0.05)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=False, fused=False
    )
    for x in inputs:
        for parameter, pulled in zip(model.parameters(), server.pull(0).weights, strict=True):
            assert torch.equal(parameter.detach(), pulled)
            assert parameter.stride() == pulled.stride()
        optimizer.zero_grad()
        model(x.to(memory_format=torch.channels_last)).square().mean().backward()
        server.push(0, [parameter.grad for parameter in model.parameters()])
        optimizer.step()


def test_the_first_velocity_is_undampened_as_in_torch():
    server = tardigrad.ParameterServer([torch.zeros(1)], tardigrad.rule("asgd", momentum=0.5, dampening=0.5), lr=1.0)
    for expected in (-1.0, -2.0, -3.0):  # v = 1; 0.5 * 1 + 0.5 * 1; ...
        server.push(0, [torch.ones(1)])
        assert server.weights()[0].item() == expected


def test_weight_decay_acts_on_the_servers_current_weights_not_the_backup():
    server = tardigrad.ParameterServer(
        [torch.full((1,), 8.0)], tardigrad.rule("asgd", weight_decay=0.5), lr=1.0, workers=2
    )
    server.push(0, [torch.zeros(1)])
    server.push(1, [torch.zeros(1)])  # read at 8, applied at 4
    assert server.weights()[0].item() == 2.0


@pytest.mark.parametrize(("momentum", "states"), [(0.0, 0), (0.9, 1)])
def test_a_velocity_is_kept_only_where_there_is_momentum(momentum, states):
    server = tardigrad.ParameterServer([torch.zeros(32)], tardigrad.rule("asgd", momentum=momentum), lr=0.1, workers=4)
    assert server.bytes_held()["state"] == states * 32 * 4
