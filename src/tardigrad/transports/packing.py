"""Packing: a slot whose gradient consists of bfloat16 values, in 2 bytes a number for the way between two machines.

A worker that is told so rounds its gradient before it hands it in (`tardigrad.arithmetic.rounded_for`); so nothing is
lost here, and what the server takes in is the same bits whether it came by shared memory or over a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tardigrad.errors import ProtocolError
from tardigrad.transports.slots import Slot, aligned

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Flat:
    """The flat buffer at the beginning of a slot: so many elements of this type."""

    elements: int
    dtype: torch.dtype

    @classmethod
    def of(cls, slot: Slot) -> Flat:
        """Of a slot that is known."""
        return cls(slot.layout.elements, slot.layout.dtype)

    @classmethod
    def prepared(cls, content: object) -> Flat:
        """Of a script's slots, from what it says when it prepares.

        Raises:
            ProtocolError: it says nothing of the kind.
        """
        said = content if isinstance(content, Mapping) else {}
        size, dtype = said.get("size"), _DTYPES.get(str(said.get("dtype")))
        if not isinstance(size, int) or size < 0 or dtype is None:
            raise ProtocolError(f"a script prepares {size!r} numbers of type {said.get('dtype')!r}.")
        return cls(size, dtype)


class Packed:
    """What lies in a slot, as it travels: the flat buffer in bfloat16, then the model buffers as they are.

    Args:
        lying: all bytes of the slot.
        flat: what it begins with; every number a value of bfloat16.

    Attributes:
        memory: the packed bytes.

    Raises:
        ProtocolError: so long a flat buffer is not in so small a slot.
    """

    def __init__(self, lying: memoryview, flat: Flat) -> None:
        end = flat.elements * flat.dtype.itemsize
        if end > len(lying):
            raise ProtocolError(f"a slot of {len(lying)} bytes does not hold {flat.elements} numbers of {flat.dtype}.")
        behind, place = aligned(end), aligned(2 * flat.elements)
        more = max(0, len(lying) - behind)
        content = torch.zeros(max(place + more, 1), dtype=torch.uint8)
        bytes_there = torch.frombuffer(memoryview(lying), dtype=torch.uint8)  # its own, so that `lying` may be released
        self.memory: memoryview = content.numpy().data
        self._travelling = [content[: 2 * flat.elements].view(torch.bfloat16), content[place : place + more]]
        self._lying = [bytes_there[:end].view(flat.dtype), bytes_there[behind : behind + more]]

    def pack(self) -> None:
        """Fill `memory` from the slot."""
        for there, here in zip(self._travelling, self._lying, strict=True):
            there.copy_(here)

    def unpack(self) -> None:
        """Fill the slot from `memory`."""
        for there, here in zip(self._travelling, self._lying, strict=True):
            here.copy_(there)
