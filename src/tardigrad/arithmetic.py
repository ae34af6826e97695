"""Arithmetic: where and in what number and memory format a model computes. Shared by worker and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tardigrad.hyperparameters import require_choice, require_flag

PRECISIONS = ("float32", "bfloat16")
WIRES = ("float32", "bfloat16")
MEMORY_FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a model computes.

    Attributes:
        device: cpu, cuda or cuda:N.
        precision: ``float32``, or ``bfloat16`` for autocast: products in bfloat16, weights and gradients in float32.
        memory_format: of images and of convolutions' weights: ``contiguous`` or ``channels_last``.
        cuda_graph: on CUDA, capture a gradient's computation once and replay it.
        wire: what a gradient is handed in as: ``float32``, as it was computed, or ``bfloat16``: each number rounded to
            the nearest of that type, of 8 bits of mantissa, so that it can travel in 2 bytes.

    Each changes gradients in the last bits or more, so each is part of a run's configuration.
    """

    device: torch.device | str = "cpu"
    precision: str = "float32"
    memory_format: str = "contiguous"
    cuda_graph: bool = True
    wire: str = "float32"

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        require_choice("arithmetic", "precision", self.precision, PRECISIONS)
        require_choice("arithmetic", "memory_format", self.memory_format, MEMORY_FORMATS)
        require_flag("arithmetic", "cuda_graph", self.cuda_graph)
        require_choice("arithmetic", "wire", self.wire, WIRES)

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, its convolutions' weights in the memory format."""
        if self.memory_format == "channels_last":
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return model.to(self.device)

    def lay_out(self, inputs: Tensor) -> Tensor:
        """A batch in the memory format; only images, of four dimensions, have one."""
        if self.memory_format == "channels_last" and inputs.dim() == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def autocast(self) -> AbstractContextManager[object]:
        """The context a forward pass and its loss are computed in."""
        if self.precision == "float32":
            return nullcontext()
        # On CUDA without its cache of cast weights: a graph must cast them at every replay, and eager does the same.
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, cache_enabled=not self.on_cuda)

    def kernels(self) -> AbstractContextManager[object]:
        """The context in which forward and backward passes choose their kernels.

        On CUDA those that give the same bits every time, and none that rounds float32 to TF32, 10 bits of mantissa, as
        PyTorch's convolutions do unless told otherwise.
        """
        return _reproducible() if self.on_cuda else nullcontext()


def rounded_for(wire: str, gradient: Tensor) -> Tensor:
    """A gradient as it is to travel, rounded in place: to nearest, and to even between two, for ``bfloat16``.

    What is not finite stays so; a number beyond the largest of bfloat16, 3.4e38, becomes infinite.

    >>> rounded_for("bfloat16", torch.tensor([1.00390625, 1.01171875]))  # each in the middle between two
    tensor([1.0000, 1.0156])
    """
    return gradient if wire == "float32" else gradient.copy_(gradient.to(torch.bfloat16))


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads, and put the old number back; None: as it is."""
    before = torch.get_num_threads()
    if number is None or number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _reproducible() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
