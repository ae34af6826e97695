"""A gradient that is replayed is the eager one, bit for bit; what cannot be replayed stays eager and says why."""

import contextlib
import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tardigrad
from tape import Capture
from tardigrad.arithmetic import Arithmetic
from tardigrad.errors import InvalidArgument
from tardigrad.gradients import NotReplayable, cuda_graph
from tardigrad.models.resnet import small_resnet
from tardigrad.records import Lease, Snapshot
from tardigrad.tasks.base import ERROR, Split, Task
from tardigrad.worker import Worker


def pictures(model=small_resnet, *, count=24, size=16, loss=nn.functional.cross_entropy, augment=None):
    generator = torch.Generator().manual_seed(3)
    split = Split(torch.randn(count, 3, size, size, generator=generator), torch.arange(count) % 10)
    return Task(name="pictures", model=model, loss=loss, metric=ERROR, train=split, test=split, augment=augment)


def snapshots(worker, sizes=(8, 8, 5, 8)):
    """Leases one after the other, each with weights and buffers of its own."""
    generator, start = torch.Generator().manual_seed(7), 0
    for number, size in enumerate(sizes):
        start = 0 if start + size > 24 else start
        flat = worker.layout.pack(worker.weights).mul_(1.0 + 0.1 * number)
        buffers = {
            name: buffer + number if buffer.dtype == torch.int64 else torch.rand(buffer.shape, generator=generator)
            for name, buffer in worker.buffers.items()
        }
        yield Snapshot(number, [], Lease(0, start, start + size), flat, buffers)
        start += size


def pushes(task, *, capture=None, arithmetic=None, sizes=(8, 8, 5, 8)):
    """What a worker pushes for each snapshot, copied, and the worker."""
    worker, made = Worker(task, seed=5, arithmetic=arithmetic, capture=capture), []
    for snapshot in list(snapshots(Worker(task, seed=5, arithmetic=arithmetic), sizes)):
        push = worker.compute(0, snapshot)
        copies = {name: buffer.clone() for name, buffer in push.buffers.items()}
        made.append((push.loss, push.norm, push.gradient.clone(), copies))
    return made, worker


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[:2] == other[:2]
        assert torch.equal(mine[2], other[2])
        assert mine[3].keys() == other[3].keys()
        assert all(torch.equal(mine[3][name], other[3][name]) for name in mine[3])


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replay_is_the_eager_gradient_with_its_statistics(memory_format, precision):
    arithmetic, capture = Arithmetic(precision=precision, memory_format=memory_format), Capture()
    eager, plain = pushes(pictures(), arithmetic=arithmetic)
    replayed, worker = pushes(pictures(), arithmetic=arithmetic, capture=capture)
    assert_same(replayed, eager)
    assert eager[0][0] != eager[1][0]
    assert (plain.computation, worker.computation) == ("eager", "replayed")
    assert [tape.replays for tape in capture.tapes] == [3, 1]  # batches of 8, and the one of 5


def test_a_model_without_buffers_and_with_an_unused_parameter_is_replayed():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.unused = nn.Linear(3 * 16 * 16, 10), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.linear(x.flatten(1))

    eager, _ = pushes(pictures(Odd))
    replayed, worker = pushes(pictures(Odd), capture=Capture())
    assert_same(replayed, eager)
    assert worker.computation == "replayed"


def test_the_tape_notices_what_does_not_stay_in_its_place():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.factor = nn.Linear(3 * 16 * 16, 10), 1.0

        def forward(self, x):
            self.factor += 1.0  # a number of Python's: frozen by a capture
            return self.linear(x.flatten(1)) * self.factor

    eager, _ = pushes(pictures(Forgetful))
    replayed, _ = pushes(pictures(Forgetful), capture=Capture())
    assert eager[1][0] != replayed[1][0]


def test_whole_runs_are_the_same(tmp_path, monkeypatch):
    task = pictures(augment=lambda images, generator: images + torch.rand(1, generator=generator))
    settings = {"rule": "dc-asgd-a", "workers": 3, "epochs": 2, "batch_size": 5, "lr": 0.05, "seed": 2}
    settings |= {"memory_format": "channels_last", "consistency": "ssp(1)"}
    tardigrad.train(task, directory=tmp_path / "eager", **settings)
    capture = Capture()
    monkeypatch.setattr("tardigrad.blueprint.Worker", lambda *args, **kw: Worker(*args, **kw, capture=capture))
    tardigrad.train(task, directory=tmp_path / "replayed", **settings)
    eager, replayed = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("eager", "replayed"))
    assert eager == replayed
    assert [tape.replays for tape in capture.tapes] == [8, 2]


def test_random_numbers_keep_a_model_eager_and_are_drawn_as_ever():
    def with_dropout():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 16), nn.Dropout(0.5), nn.Linear(16, 10))

    capture = Capture()
    eager, _ = pushes(pictures(with_dropout))
    replayed, worker = pushes(pictures(with_dropout), capture=capture)
    assert_same(replayed, eager)
    assert worker.computation == "eager: the model draws random numbers."
    assert not capture.tapes


def test_what_a_capture_refuses_is_computed_eager_and_not_tried_again():
    tried = []

    def refuse(run):
        run()
        tried.append(1)
        raise NotReplayable("the CPU waits.")

    eager, _ = pushes(pictures())
    replayed, worker = pushes(pictures(), capture=refuse)
    assert_same(replayed, eager)
    assert worker.computation == "eager: the CPU waits."
    assert len(tried) == 1


def test_four_shapes_of_batch_are_captured_and_further_ones_are_eager():
    sizes, capture = (2, 3, 4, 5, 6, 6, 2), Capture()
    eager, _ = pushes(pictures(), sizes=sizes)
    replayed, _ = pushes(pictures(), sizes=sizes, capture=capture)
    assert_same(replayed, eager)
    assert [tape.replays for tape in capture.tapes] == [2, 1, 1, 1]


def test_channels_last_weights_stay_so_in_the_flat_buffer_and_get_gradients_so():
    task, arithmetic = pictures(), Arithmetic(memory_format="channels_last")
    worker = Worker(task, seed=0, arithmetic=arithmetic)
    push = worker.compute(0, next(snapshots(worker)))
    weight = worker.model.stages[0][0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    place = worker.layout.names.index("stages.0.0.conv1.weight")
    assert weight.untyped_storage().data_ptr() == worker.model.linear.weight.untyped_storage().data_ptr()
    assert weight.storage_offset() == worker.layout.offsets[place]
    ours = worker.layout.views(push.gradient)[place]
    assert ours.stride() == weight.stride()
    theirs = pushes(task)[0][0][2]  # contiguous: the same numbers up to rounding, at other places
    contiguous = Worker(task, seed=0).layout.views(theirs)
    assert contiguous[place].stride() != ours.stride()
    again = pushes(task, arithmetic=arithmetic)[0][0][2]
    torch.testing.assert_close(worker.layout.views(again)[place], contiguous[place], rtol=1e-3, atol=1e-5)


def test_channels_last_images_reach_the_model_so():
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)

        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.conv(x).mean(dim=(2, 3))

    pushes(pictures(Looking), sizes=(8,))
    pushes(pictures(Looking), sizes=(8,), arithmetic=Arithmetic(memory_format="channels_last"))
    assert seen == [False, True]


def test_bfloat16_is_for_products_only():
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)

        def forward(self, x):
            y = self.conv(x)
            seen.append((x.dtype, self.conv.weight.dtype, y.dtype))
            return y.mean(dim=(2, 3))

    def loss(outputs, targets):
        made = nn.functional.cross_entropy(outputs, targets)
        seen.append(made.dtype)
        return made

    exact = pushes(pictures(Looking, loss=loss), sizes=(8,))[0][0]
    seen.clear()
    rounded = pushes(pictures(Looking, loss=loss), sizes=(8,), arithmetic=Arithmetic(precision="bfloat16"))[0][0]
    assert seen == [(torch.float32, torch.float32, torch.bfloat16), torch.float32]
    assert rounded[2].dtype == torch.float32
    assert not torch.equal(rounded[2], exact[2])
    torch.testing.assert_close(rounded[2], exact[2], rtol=0.05, atol=0.01)
    assert rounded[1] == pytest.approx(float(torch.linalg.vector_norm(rounded[2])))


def test_kernels_on_cuda_are_reproducible_and_round_nothing_to_tf32():
    def flags():
        cudnn = torch.backends.cudnn
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with Arithmetic("cpu").kernels():
        assert flags() == before
    with Arithmetic("cuda:1").kernels():
        assert flags() == (True, False, False, False)
    assert flags() == before


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_autocast_on_cuda_keeps_no_cast_weights():
    with Arithmetic("cpu", "bfloat16").autocast():
        assert torch.is_autocast_cache_enabled()
    context = Arithmetic("cuda", "bfloat16").autocast()
    assert context._cache_enabled is False


# What follows is the order of calls around a capture, with torch.cuda put aside; tests/test_cuda.py has the real ones.


class FakeCuda:
    """Stands in for torch.cuda: a current stream, a mode, and a list of what happened."""

    def __init__(self):
        self.main = self.now = FakeStream("main", self)
        self.mode, self.events = 0, []

    def install(self, monkeypatch):
        for name in ("device", "Stream", "stream", "current_stream", "set_stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "mode", mode))

    def device(self, device):
        return contextlib.nullcontext()

    def Stream(self):
        return FakeStream("side", self)

    def current_stream(self):
        return self.now

    def set_stream(self, stream):
        self.now = stream

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.events.append("replay"))

    @contextlib.contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.now = stream
        self.events.append("begin")
        yield
        self.events.append("end")  # as torch: not reached, and the stream not put back, where the capture failed
        self.now = self.main


class FakeStream:
    def __init__(self, name, cuda):
        self.name, self.cuda = name, cuda

    def wait_stream(self, other):
        self.cuda.events.append(f"{self.name} waits for {other.name}")


def test_a_capture_comes_after_warm_ups_on_its_stream(monkeypatch):
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    replay = cuda_graph(lambda: cuda.events.append(f"{cuda.now.name} {cuda.mode}"), torch.device("cuda:0"))
    replay()
    warm = ["side 0"] * 3 + ["side error"]
    captured = ["begin", "side 0", "end"]
    assert cuda.events == ["side waits for main", *warm, "main waits for side", *captured, "replay"]
    assert (cuda.now.name, cuda.mode) == ("main", 0)


def test_where_the_cpu_waits_there_is_no_capture(monkeypatch):
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def run():
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(NotReplayable, match="waits for the GPU"):
        cuda_graph(run, torch.device("cuda"))
    assert cuda.events == ["side waits for main", "main waits for side"]
    assert (cuda.now.name, cuda.mode) == ("main", 0)


def test_an_error_that_is_no_waiting_is_the_models_own(monkeypatch):
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def run():
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        cuda_graph(run, torch.device("cuda"))
    assert cuda.events == ["side waits for main", "main waits for side"]


def test_a_capture_that_fails_says_what_to_type(monkeypatch):
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def run():
        if "begin" in cuda.events:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(InvalidArgument, match=r"not permitted.*--no-cuda-graph"):
        cuda_graph(run, torch.device("cuda"))
    assert cuda.now.name == "main"


def test_torch_has_what_a_capture_asks_for():
    assert {"stream", "capture_error_mode"} <= inspect.signature(torch.cuda.graph.__init__).parameters.keys()
    assert all(hasattr(torch.cuda, name) for name in ("set_sync_debug_mode", "get_sync_debug_mode", "set_stream"))
