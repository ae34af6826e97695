"""Gradients: what is computed on one batch, and on CUDA its replay as a graph.

A small network leaves a GPU idle: a gradient of ResNet-20 is some hundreds of kernels of a few microseconds, and to
launch them one by one takes Python longer than to run them. As a CUDA graph they are captured once and launched
together. A graph reads and writes the memory it was captured with, so everything that varies stands in tensors that
stay where they are: weights, model buffers, batch, gradient, loss and norm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tardigrad.arithmetic import Arithmetic, rounded_for
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout, trainable

_MOST_GRAPHS = 4  # each holds the activations of its batch; a run has two shapes of batch, or one per size asked for
_WARM_UPS = 3

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a computation on tensors that stay in their places, returns what repeats it; may run it any number of times."""


class NotReplayable(Exception):
    """Why a computation is not captured; it goes on eager."""


class Gradient:
    """A batch's mean gradient, written into one flat buffer.

    Args:
        model: its trainable parameters are what is derived by; model buffers are written as a forward pass does.
        loss: (outputs, targets) -> a scalar tensor.
        layout: of the flat buffer.
        arithmetic: how to compute.
        flat: the buffer; None: one of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        layout: FlatLayout,
        arithmetic: Arithmetic,
        flat: Tensor | None = None,
    ) -> None:
        self.flat = layout.zeros() if flat is None else flat
        self._model, self._loss, self._arithmetic = model, loss, arithmetic
        self._parameters: list[Tensor] = [parameter for _, parameter in trainable(model)]
        self._views = layout.views(self.flat)

    @property
    def described(self) -> str:
        """How gradients are computed, for the record."""
        return "eager"

    def compute(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Write the gradient into ``flat``; return the mean loss and the gradient's L2 norm."""
        loss, norm = self.write(inputs, targets)
        if loss.is_cuda:  # one transfer, for each of which the CPU waits
            loss, norm = stacked(loss, norm).tolist()
        return float(loss), float(norm)

    def write(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with loss and norm left on the device."""
        with self._arithmetic.kernels():
            with self._arithmetic.autocast():
                loss = self._loss(self._model(inputs), targets)
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
            torch._foreach_copy_(self._views, gradients)
            return loss.detach(), torch.linalg.vector_norm(rounded_for(self._arithmetic.wire, self.flat))


@dataclass(frozen=True, slots=True)
class _Recorded:
    """One captured computation and the tensors it reads and writes."""

    inputs: Tensor
    targets: Tensor
    numbers: Tensor  # loss, norm
    replay: Callable[[], None]


class ReplayedGradient:
    """The same gradient, captured for each shape of batch and replayed.

    A model that draws random numbers, such as dropout, stays eager: so a graph need not carry a generator's state. So
    does one in whose computation the CPU waits for the GPU. What runs in Python is frozen at the capture: a model whose
    code takes another branch from call to call is for ``cuda_graph=False``.

    Args:
        gradient: what to replay.
        state: tensors that the computation changes beside the gradient (model buffers); a capture leaves them as they
            were.
        generators: where it may draw random numbers from.
        capture: see `Capture`.
    """

    def __init__(
        self, gradient: Gradient, *, state: Sequence[Tensor], generators: Sequence[torch.Generator], capture: Capture
    ) -> None:
        self.flat = gradient.flat
        self._gradient = gradient
        self._state = list(state)
        self._generators = list(generators)
        self._capture = capture
        self._recorded: dict[object, _Recorded] = {}
        self._why_eager = ""

    @property
    def described(self) -> str:
        """How gradients are computed, for the record."""
        return f"eager: {self._why_eager}" if self._why_eager else "replayed"

    def compute(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Write the gradient into ``flat``; return the mean loss and the gradient's L2 norm."""
        key = (inputs.shape, inputs.stride(), inputs.dtype, targets.shape, targets.stride(), targets.dtype)
        if key not in self._recorded and not self._why_eager and len(self._recorded) < _MOST_GRAPHS:
            self._record(key, inputs, targets)
        recorded = self._recorded.get(key)
        if recorded is None:
            return self._gradient.compute(inputs, targets)
        recorded.inputs.copy_(inputs)
        recorded.targets.copy_(targets)
        recorded.replay()
        loss, norm = recorded.numbers.tolist()
        return loss, norm

    def _record(self, key: object, inputs: Tensor, targets: Tensor) -> None:
        """Capture the computation for batches like this one, or note why not."""
        inputs, targets = inputs.clone(), targets.clone()
        with self._undone():
            try:
                numbers = self._tried(inputs, targets)

                def run() -> None:
                    numbers.copy_(stacked(*self._gradient.write(inputs, targets)))

                self._recorded[key] = _Recorded(inputs, targets, numbers, self._capture(run))
            except NotReplayable as reason:
                self._why_eager = str(reason)

    def _tried(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss and norm of one eager computation, during which no generator moved."""
        before = [generator.get_state() for generator in self._generators]
        numbers = stacked(*self._gradient.write(inputs, targets))
        after = [generator.get_state() for generator in self._generators]
        if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise NotReplayable("the model draws random numbers.")
        return numbers

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """What is changed inside, model buffers and generators, is put back."""
        state = [tensor.clone() for tensor in self._state]
        drawn = [generator.get_state() for generator in self._generators]
        yield
        for tensor, held in zip(self._state, state, strict=True):
            tensor.copy_(held)
        for generator, numbers in zip(self._generators, drawn, strict=True):
            generator.set_state(numbers)


def stacked(loss: Tensor, norm: Tensor) -> Tensor:
    """Both numbers in one tensor, of the wider of their types."""
    return torch.stack((loss.reshape(()), norm))


def cuda_graph(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture a computation on a GPU as a graph; return what launches it.

    Raises:
        NotReplayable: the CPU waits for the GPU in it.
        InvalidArgument: the capture failed for another reason.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        _warm_up(run, side)
        main, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                run()
        except RuntimeError as error:
            torch.cuda.set_stream(main)  # torch.cuda.graph does not come back from a capture that failed
            raise InvalidArgument(
                f"a gradient of this task cannot be captured as a CUDA graph ({error}). Type --no-cuda-graph, or "
                "cuda_graph=False, to have it computed kernel by kernel."
            ) from error
    return graph.replay


def _warm_up(run: Callable[[], None], side: torch.cuda.Stream) -> None:
    """Run on the stream of the capture, which needs libraries, workspaces and kernels that were used before."""
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
            with _no_waiting():
                run()
    finally:
        torch.cuda.current_stream().wait_stream(side)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Refuse what would break a capture, by torch's own check and while nothing can be broken yet."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise NotReplayable("the CPU waits for the GPU in it, as for .item() or a tensor made from numbers.") from error
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not notice everything; a capture does
        torch.cuda.set_sync_debug_mode(mode)
