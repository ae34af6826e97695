"""The same code on CUDA: skipped, visibly, where there is none."""

import pytest
import torch

import tardigrad

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_a_run_on_cuda_ends_where_the_same_run_on_the_cpu_ends(tmp_path):
    settings = {"rule": "dc-asgd", "workers": 4, "epochs": 3, "seed": 0}
    ours = tardigrad.train("quadratic", device="cuda", directory=tmp_path / "cuda", **settings)
    theirs = tardigrad.train("quadratic", device="cpu", directory=tmp_path / "cpu", **settings)
    for a, b in zip(ours.weights(), theirs.weights(), strict=True):
        assert a.device.type == "cuda"
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-5)
    assert [e.version for e in ours.evaluations] == [e.version for e in theirs.evaluations]


def test_one_worker_on_cuda_is_plain_sgd_on_cuda():
    weights = [torch.randn(33, 7, device="cuda"), torch.randn(5, device="cuda")]
    server = tardigrad.ParameterServer(weights, tardigrad.rule("dc-asgd-a", momentum=0.9), lr=0.1)
    parameters = [w.clone().requires_grad_() for w in weights]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=False, fused=False)
    for _ in range(20):
        server.pull(0)
        gradients = [torch.randn_like(w) for w in weights]
        server.push(0, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(server.weights(), parameters, strict=True))
