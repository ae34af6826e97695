"""Clipping: the whole gradient's length is bounded, fresh or late; short gradients pass untouched."""

import pytest
import torch

import tardigrad
from tardigrad.testing.walks import fresh_events, random_events, walk


def test_the_norm_is_of_all_tensors_together():
    weights = [torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    server = tardigrad.ParameterServer(weights, tardigrad.rule("clipping", max_norm=3.5), lr=1.0)
    gradient = [torch.tensor([2.0, 3.0], dtype=torch.float64), torch.tensor(6.0, dtype=torch.float64)]  # norm 7
    server.push(0, gradient)
    assert [w.tolist() for w in server.weights()] == [[-1.0, -1.5], -3.0]


def test_sgd_with_torchs_clipping_is_the_same_but_for_its_millionth():
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.randn(5, 3, generator=draw, dtype=torch.float64), torch.randn(4, generator=draw).double()]
    server = tardigrad.ParameterServer(parameters, tardigrad.rule("clipping(max_norm=4)", momentum=0.9), lr=0.1)
    theirs = [p.clone().requires_grad_() for p in parameters]
    optimizer = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    norms = []
    for _ in range(50):
        gradients = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
        server.push(0, gradients)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(theirs, 4.0).item())
        optimizer.step()
    assert min(norms) < 4.0 < max(norms)
    for ours, other in zip(server.weights(), theirs, strict=True):
        torch.testing.assert_close(ours, other.detach(), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_below_the_bound_pass_bit_for_bit(dtype):
    mine = walk(tardigrad.rule("clipping", max_norm=1e9), random_events(60), dtype=dtype, lr=0.02)
    plain = walk(tardigrad.rule("asgd"), random_events(60), dtype=dtype, lr=0.02)
    assert torch.equal(mine.weights, plain.weights)


def test_fresh_gradients_are_clipped_too_and_the_baseline_says_so():
    mine = walk(tardigrad.rule("clipping", max_norm=0.5), fresh_events(10), dtype=torch.float64, lr=0.02)
    plain = walk(tardigrad.rule("asgd"), fresh_events(10), dtype=torch.float64, lr=0.02)
    assert not torch.equal(mine.weights, plain.weights)
    assert tardigrad.rule("clipping", max_norm=2).compensation.baseline == "clipping(max_norm=2.0)"


def test_the_norm_does_not_overflow_where_squares_would():
    server = tardigrad.ParameterServer([torch.zeros(2)], tardigrad.rule("clipping"), lr=1.0)
    server.push(0, [torch.tensor([3e30, 4e30])])
    assert server.weights()[0].tolist() == pytest.approx([-0.6, -0.8], rel=1e-6)


def test_a_gradient_of_zero_stays_zero():
    server = tardigrad.ParameterServer([torch.ones(2)], tardigrad.rule("clipping"), lr=1.0)
    server.push(0, [torch.zeros(2)])
    assert server.weights()[0].tolist() == [1.0, 1.0]
