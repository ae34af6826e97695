"""Ranges: where the flat buffer is cut, and what of a model lies in each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tardigrad.commit.groups import ParameterGroup, span
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout

_UNIT = 64  # elements: kernels choose their vector path by alignment, and so a range begins where a vector does


@dataclass(frozen=True, slots=True)
class Range:
    """A part of the flat buffer: elements ``[start, stop)``.

    Attributes:
        number: of the shard that holds it, from 0.
        layout: of the part alone: what of each tensor lies in it, with the gap behind, flat.
        tensors: for each tensor of ``layout`` its number in the whole one.
    """

    number: int
    start: int
    stop: int
    layout: FlatLayout
    tensors: tuple[int, ...]

    def of(self, flat: Tensor) -> Tensor:
        """This part of a whole buffer, a view."""
        return flat[self.start : self.stop]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        layout = self.layout
        return {
            "number": self.number,
            "start": self.start,
            "stop": self.stop,
            "names": layout.names,
            "offsets": layout.offsets,
            "dtype": str(layout.dtype).removeprefix("torch."),
            "tensors": self.tensors,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Range:
        """The inverse of `as_json`, on the CPU."""
        offsets, size = plain["offsets"], plain["stop"] - plain["start"]
        dtype = {"float32": torch.float32, "float64": torch.float64}[plain["dtype"]]
        layout = _flat(plain["names"], offsets, size, dtype=dtype, device=torch.device("cpu"))
        return cls(plain["number"], plain["start"], plain["stop"], layout, tuple(plain["tensors"]))

    def local(self, tensors: Sequence[int]) -> list[int]:
        """The numbers here of those tensors of the whole layout that lie here, at least in part."""
        chosen = set(tensors)
        return [number for number, tensor in enumerate(self.tensors) if tensor in chosen]

    def group_numbers(self, groups: Sequence[ParameterGroup]) -> list[int]:
        """Which of the groups have a tensor here, in order."""
        of_tensor = [number for number, group in enumerate(groups) for _ in range(group.tensors)]
        return list(dict.fromkeys(of_tensor[tensor] for tensor in self.tensors))

    def groups(self, groups: Sequence[ParameterGroup]) -> list[ParameterGroup]:
        """The groups as they are here."""
        of_tensor = [number for number, group in enumerate(groups) for _ in range(group.tensors)]
        here = [of_tensor[tensor] for tensor in self.tensors]
        return [
            ParameterGroup(here.count(number), groups[number].lr_factor, groups[number].optimizer)
            for number in self.group_numbers(groups)
        ]


def cut(layout: FlatLayout, shards: int) -> list[Range]:
    """The buffer in so many ranges of nearly one length, by bytes, whatever the tensors are.

    A range begins at a multiple of 64 elements; of a buffer too small for that, at a multiple of fewer.

    Raises:
        InvalidArgument: there are fewer elements than shards.
    """
    if layout.size < shards:
        raise InvalidArgument(f"shards={shards}: the weights have {layout.size} elements, which are fewer.")
    unit = _UNIT
    while layout.size < unit * shards:
        unit //= 2
    units = layout.size // unit
    starts = [unit * (units * number // shards) for number in range(shards)]
    ends = [*starts[1:], layout.size]
    return [_range(layout, number, *place) for number, place in enumerate(zip(starts, ends, strict=True))]


def _range(layout: FlatLayout, number: int, start: int, stop: int) -> Range:
    here, offsets = [], []
    for tensor in range(len(layout.shapes)):
        place = span(layout, tensor)
        first, last = max(start, place.start), min(stop, place.stop)
        if first < last:
            here.append(tensor)
            offsets.append(first - start)
    names = [layout.names[tensor] for tensor in here]
    part = _flat(names, offsets, stop - start, dtype=layout.dtype, device=layout.device)
    return Range(number, start, stop, part, tuple(here))


def _flat(
    names: Sequence[str], offsets: Sequence[int], size: int, *, dtype: torch.dtype, device: torch.device
) -> FlatLayout:
    """Flat tensors that follow one another without gaps."""
    lengths = [stop - start for start, stop in pairwise([*offsets, size])]
    return FlatLayout(
        names=tuple(names),
        shapes=tuple((length,) for length in lengths),
        strides=((1,),) * len(lengths),
        offsets=tuple(offsets),
        size=size,
        numel=size,
        dtype=dtype,
        device=device,
    )
