"""The same code on CUDA: skipped, visibly, where there is none."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

import tardigrad
from tardigrad.arithmetic import Arithmetic
from tardigrad.data.augmentation import crop_and_flip, normalise
from tardigrad.data.cifar import DEVIATION, MEAN
from tardigrad.engines.base import Observer
from tardigrad.errors import Stopped
from tardigrad.models.resnet import small_resnet
from tardigrad.records import Lease, Snapshot
from tardigrad.tasks.base import ERROR, Split, Task
from tardigrad.worker import Worker

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


def pictures(model=small_resnet, loss=nn.functional.cross_entropy):
    """Noise that is prepared and augmented as CIFAR-10 is: 40 images."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(40) % 10)
    prepare = partial(normalise, mean=MEAN["cifar10"], deviation=DEVIATION["cifar10"])
    return Task("noise", model, loss, split, split, metric=ERROR, prepare=prepare, augment=crop_and_flip)


def pushes(task, arithmetic):
    """What a worker on CUDA pushes for leases one after the other, with weights and buffers that change, copied."""
    worker, made = Worker(task.to("cuda"), seed=5, arithmetic=arithmetic), []
    flat, buffers = worker.layout.pack(worker.weights), {name: b.clone() for name, b in worker.buffers.items()}
    for start, stop in ((0, 8), (8, 16), (16, 21), (21, 29)):
        push = worker.compute(0, Snapshot(0, [], Lease(0, start, stop), flat, buffers))
        buffers = {name: buffer.clone() for name, buffer in push.buffers.items()}
        made.append((push.loss, push.norm, push.gradient.clone(), buffers))
        flat = flat - 0.01 * push.gradient
    return made, worker.computation


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replayed_gradient_is_the_eager_one(precision, memory_format):
    replayed, how = pushes(pictures(), Arithmetic("cuda", precision, memory_format))
    eager, plainly = pushes(pictures(), Arithmetic("cuda", precision, memory_format, cuda_graph=False))
    assert (how, plainly) == ("replayed", "eager")
    for mine, other in zip(replayed, eager, strict=True):
        assert mine[:2] == pytest.approx(other[:2], rel=1e-4)
        torch.testing.assert_close(mine[2], other[2], rtol=1e-3, atol=1e-5)
        for name in mine[3]:
            torch.testing.assert_close(mine[3][name], other[3][name], rtol=1e-4, atol=1e-5)
    counts = [buffers["norm.num_batches_tracked"].item() for *_, buffers in replayed]
    assert counts == [1, 2, 3, 4]  # warm-ups and captures left nothing behind


def test_a_gradient_on_cuda_is_that_of_the_cpu():
    on_cuda, _ = pushes(pictures(), Arithmetic("cuda"))
    worker = Worker(pictures(), seed=5)
    flat = worker.layout.pack(worker.weights)
    push = worker.compute(0, Snapshot(0, [], Lease(0, 0, 8), flat, {}))
    assert on_cuda[0][0] == pytest.approx(push.loss, rel=1e-4)
    difference = torch.linalg.vector_norm(on_cuda[0][2].cpu() - push.gradient).item()
    assert difference < 1e-3 * push.norm  # TF32 would be off by more


def test_dropout_stays_eager_and_is_drawn_as_without_graphs():
    def with_dropout():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 64), nn.Dropout(0.5), nn.Linear(64, 10))

    ours, how = pushes(pictures(with_dropout), Arithmetic("cuda"))
    theirs, _ = pushes(pictures(with_dropout), Arithmetic("cuda", cuda_graph=False))
    assert how == "eager: the model draws random numbers."
    assert all(torch.equal(a[2], b[2]) for a, b in zip(ours, theirs, strict=True))


def test_a_loss_for_which_the_cpu_waits_stays_eager():
    def waiting(outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss if loss.item() < 1e9 else 0.0 * loss

    ours, how = pushes(pictures(loss=waiting), Arithmetic("cuda"))
    theirs, _ = pushes(pictures(loss=waiting), Arithmetic("cuda", cuda_graph=False))
    assert how.startswith("eager: the CPU waits for the GPU")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a[2], b[2], rtol=1e-3, atol=1e-5)
    assert pushes(pictures(), Arithmetic("cuda"))[1] == "replayed"  # nothing was broken by it


SETTINGS = {
    "rule": "dc-asgd-a",
    "workers": 4,
    "epochs": 2,
    "batch_size": 7,
    "lr": 0.02,
    "memory_format": "channels_last",
}


def weights_of(directory):
    return (directory / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16"}, {"cuda_graph": False}], ids=str)
def test_the_same_seed_gives_the_same_bits_on_cuda(settings, tmp_path):
    for name in ("one", "two"):
        run = tardigrad.train(pictures(), device="cuda", directory=tmp_path / name, **SETTINGS, **settings)
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")
    assert run.summary["status"] == "finished"


def test_a_stopped_run_on_cuda_goes_on_to_the_same_bits(tmp_path):
    tardigrad.train(pictures(), device="cuda", directory=tmp_path / "whole", **SETTINGS)
    asked = iter(range(10**6))
    with pytest.raises(Stopped):
        tardigrad.train(
            pictures(), device="cuda", directory=tmp_path / "stopped", stop=lambda: next(asked) == 4, **SETTINGS
        )
    tardigrad.train(pictures(), device="cuda", directory=tmp_path / "stopped", **SETTINGS)
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")


def test_a_graphed_run_ends_near_the_same_run_on_the_cpu(tmp_path):
    ours = tardigrad.train(pictures(), device="cuda", directory=tmp_path / "cuda", **SETTINGS)
    theirs = tardigrad.train(pictures(), directory=tmp_path / "cpu", **SETTINGS)
    for a, b in zip(ours.weights(), theirs.weights(), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0.05, atol=0.01)


class Waits(Observer):
    """Counts how often the CPU waits for the GPU, from one commit to another."""

    def __init__(self, first, last):
        self.first, self.last, self.counted = first, last, 0
        self.caught = warnings.catch_warnings(record=True)

    def committed(self, time, commit):
        if commit.version == self.first:
            self.found = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif commit.version == self.last:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            self.counted = sum("called a synchronizing" in str(each.message) for each in self.found)


@pytest.mark.parametrize("rule", ["asgd", "dc-asgd-a", "dc-asgd", "clipping", "its-length", "sign-random"])
def test_the_cpu_waits_for_the_gpu_once_a_push(rule, tmp_path):
    waits, settings = Waits(8, 18), SETTINGS | {"rule": rule, "epochs": 4, "batch_size": 8}
    tardigrad.train(
        pictures(), device="cuda", directory=tmp_path / "run", observers=[waits], evaluate_every=1e9, measure_every=0,
        **settings,
    )  # fmt: skip
    assert 0 < waits.counted <= 10


def test_a_commit_on_cuda_is_one_piece():
    weights = [torch.randn(300, 300, device="cuda")]
    server = tardigrad.ParameterServer(weights, tardigrad.rule("dc-asgd-a"), lr=0.1)
    assert len(server._path._views["element"]) == 1


@pytest.mark.timeout(280)
def test_real_workers_share_a_gpu_and_their_run_replays_bit_for_bit(tmp_path):
    from tardigrad.replaying import replay

    run = tardigrad.train(
        "digits", engine="local", workers=2, epochs=1, rule="dc-asgd-a", device="cuda", directory=tmp_path
    )
    assert run.summary["samples"] == 1257
    assert all(weights.device.type == "cpu" for weights in run.weights())
    assert replay(tmp_path).equal
