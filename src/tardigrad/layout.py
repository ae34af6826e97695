"""The flat layout: a model's trainable parameters as one contiguous buffer of their dtype.

What travels between worker and server is one buffer. A parameter is a strided view of it, so channels_last
survives (``reshape(-1)`` would silently undo it), and tied weights stand in it once. Offsets are multiples of 64
bytes: kernels choose their vector path by alignment, and a view that starts in the middle of a cache line may
round differently from the same tensor allocated alone. The gaps are zero and stay zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tardigrad.errors import GradientError, InvalidArgument

_ALIGNMENT = 64  # bytes


@dataclass(frozen=True, slots=True)
class FlatLayout:
    """Names, shapes, strides and offsets (in elements) of the tensors in one flat buffer.

    Attributes:
        size: elements of the buffer, gaps included.
        numel: elements of the tensors, gaps not included.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    size: int
    numel: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensors: Sequence[Tensor], names: Sequence[str] | None = None) -> FlatLayout:
        """The layout of dense floating-point tensors of one dtype (float32 or float64) on one device."""
        if not tensors:
            raise InvalidArgument("weights is empty: give at least one tensor.")
        labels = tuple(names) if names is not None else tuple(f"weight{i}" for i in range(len(tensors)))
        first = tensors[0]
        for label, tensor in zip(labels, tensors, strict=True):
            _require_storable(label, tensor, first)
        step = _ALIGNMENT // first.element_size()
        offsets, end = [], 0
        for tensor in tensors:
            offsets.append(end)
            end += -(-tensor.numel() // step) * step
        return cls(
            names=labels,
            shapes=tuple(tuple(tensor.shape) for tensor in tensors),
            strides=tuple(_dense_strides(tensor) for tensor in tensors),
            offsets=tuple(offsets),
            size=offsets[-1] + tensors[-1].numel(),  # a single tensor has no gap at all
            numel=sum(tensor.numel() for tensor in tensors),
            dtype=first.dtype,
            device=first.device,
        )

    @classmethod
    def of_model(cls, model: nn.Module) -> FlatLayout:
        """The layout of a model's trainable parameters; tied weights once, frozen ones not at all."""
        named = trainable(model)
        if not named:
            raise InvalidArgument("the model has no trainable parameter.")
        return cls.of([parameter for _, parameter in named], [name for name, _ in named])

    @property
    def hash(self) -> str:
        """A digest of names, shapes, strides, offsets and dtype: equal where two ends may exchange buffers."""
        text = repr((self.names, self.shapes, self.strides, self.offsets, str(self.dtype)))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def zeros(self) -> Tensor:
        """A new buffer of zeros, shape (size,)."""
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The tensors as views of a buffer of shape (size,)."""
        return [
            flat.as_strided(shape, stride, flat.storage_offset() + offset)
            for shape, stride, offset in zip(self.shapes, self.strides, self.offsets, strict=True)
        ]

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """A new buffer holding copies of the tensors."""
        flat = self.zeros()
        with torch.no_grad():
            for view, tensor in zip(self.views(flat), tensors, strict=True):
                view.copy_(tensor)
        return flat

    def digests(self, flat: Tensor) -> dict[str, str]:
        """Name of each tensor -> 16 hexadecimal letters that tell its bytes, in row-major order, from any others."""
        return {name: _digest(view) for name, view in zip(self.names, self.views(flat), strict=True)}

    def pack_gradient(self, gradient: Tensor | Sequence[Tensor]) -> Tensor:
        """A gradient as given to a push, checked, as one buffer of shape (size,).

        Accepted: a sequence of tensors shaped as the weights, one flat tensor in this layout, or one flat tensor
        that is the weights' shapes one after the other without gaps. A flat tensor in this layout is not copied.
        """
        if isinstance(gradient, Tensor):
            return self._pack_flat(gradient)
        given = list(gradient) if isinstance(gradient, Iterable) else [gradient]
        if len(given) != len(self.shapes):
            raise GradientError(f"the gradient has {len(given)} tensors, the weights have {len(self.shapes)}.")
        for name, shape, tensor in zip(self.names, self.shapes, given, strict=True):
            self._require_like(name, tensor)
            if tuple(tensor.shape) != shape:
                raise GradientError(f"the gradient of {name} has shape {tuple(tensor.shape)}, the weight {shape}.")
        return self.pack(given)

    def _pack_flat(self, gradient: Tensor) -> Tensor:
        self._require_like("the flat buffer", gradient)
        if gradient.shape == (self.size,):
            return gradient
        if gradient.shape == (self.numel,):
            parts = torch.split(gradient, [_count(shape) for shape in self.shapes])
            return self.pack([part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)])
        raise GradientError(
            f"a flat gradient of shape {tuple(gradient.shape)} was given; accepted are ({self.numel},), the weights "
            f"one after the other, ({self.size},), the server's own layout, or a list of tensors shaped as the weights."
        )

    def _require_like(self, name: str, tensor: object) -> None:
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            kind = f"a {tensor.layout} tensor" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise GradientError(
                f"the gradient of {name} is {kind}; give a dense tensor, zeros where a parameter was not used."
            )
        if tensor.dtype != self.dtype or tensor.device.type != self.device.type:
            raise GradientError(
                f"the gradient of {name} is {tensor.dtype} on {tensor.device}, the weights are {self.dtype} "
                f"on {self.device}; convert it with .to()."
            )


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trainable parameters by name, each once (``named_parameters`` already leaves out tied repeats)."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def attach(layout: FlatLayout, model: nn.Module, flat: Tensor) -> None:
    """Make a model's trainable parameters views of ``flat``, keeping the values ``flat`` holds."""
    for (_, parameter), view in zip(trainable(model), layout.views(flat), strict=True):
        parameter.data = view


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(plain.data, digest_size=8).hexdigest()


def _count(shape: Iterable[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _require_storable(label: str, tensor: Tensor, first: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InvalidArgument(f"{label} is {tensor.dtype}; weights are torch.float32 or torch.float64.")
    if tensor.dtype != first.dtype or tensor.device != first.device:
        raise InvalidArgument(
            f"{label} is {tensor.dtype} on {tensor.device}, the first weight is {first.dtype} on {first.device}; "
            "all weights need one dtype and one device."
        )
    if tensor.layout is not torch.strided:
        raise InvalidArgument(f"{label} is sparse; weights are dense tensors.")


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own strides where it is dense (any order of dimensions), else contiguous ones."""
    expected = 1
    for length, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]):
        if length != 1:
            if stride != expected:
                return tuple(torch.empty(tensor.shape, device="meta").stride())
            expected *= length
    return tuple(tensor.stride())
