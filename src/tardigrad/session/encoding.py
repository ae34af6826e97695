"""Encoding: what a session and its server hand each other, as plain data and slots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tardigrad.layout import FlatLayout
from tardigrad.session.link import Group, Prepared, Released, Schedule
from tardigrad.transports.slots import Slot, SlotLayout
from tardigrad.trees import packed, unpacked

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip


def word_of(dtype: torch.dtype) -> str:
    """A type's name, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def prepared_content(prepared: Prepared) -> dict[str, Any]:
    """What was prepared, as plain data, but for the tensors' values."""
    layout, schedule = prepared.layout, prepared.schedule
    return {
        "names": layout.names,
        "shapes": layout.shapes,
        "strides": layout.strides,
        "offsets": layout.offsets,
        "size": layout.size,
        "numel": layout.numel,
        "dtype": word_of(layout.dtype),
        "buffers": [[name, word_of(each.dtype), list(each.shape)] for name, each in prepared.buffers.items()],
        "groups": [[group.tensors, group.optimizer, group.lr] for group in prepared.groups],
        "samples": prepared.samples,
        "batch_size": prepared.batch_size,
        "accumulate": prepared.accumulate,
        "schedule": None if schedule is None else [schedule.unit, schedule.rates, schedule.period],
        "alike": dict(prepared.alike),
    }


def prepared_slot(prepared: Prepared) -> Slot:
    """A new slot that holds the weights and buffers that were prepared."""
    slot = Slot.make(SlotLayout.of(prepared.layout, prepared.buffers), "prepared")
    slot.flat.copy_(prepared.layout.pack([each.detach() for each in prepared.weights]))
    for name, tensor in prepared.buffers.items():
        slot.buffers[name].copy_(tensor)
    return slot


def prepared_of(content: Mapping[str, Any], descriptor: int) -> Prepared:
    """The inverse of both, on the CPU; the tensors are views of the slot behind the descriptor, which is taken over."""
    layout = FlatLayout(
        names=tuple(content["names"]),
        shapes=tuple(map(tuple, content["shapes"])),
        strides=tuple(map(tuple, content["strides"])),
        offsets=tuple(content["offsets"]),
        size=content["size"],
        numel=content["numel"],
        dtype=_DTYPES[content["dtype"]],
        device=torch.device("cpu"),
    )
    slot = Slot(SlotLayout.of(layout, buffers_like(content)), descriptor)
    slot.close()
    schedule = content["schedule"]
    return Prepared(
        layout=layout,
        groups=tuple(Group(*group) for group in content["groups"]),
        weights=layout.views(slot.flat),
        buffers=slot.buffers,
        samples=content["samples"],
        batch_size=content["batch_size"],
        accumulate=content["accumulate"],
        schedule=None if schedule is None else Schedule(schedule[0], tuple(map(tuple, schedule[1])), schedule[2]),
        alike=content["alike"],
    )


def buffers_like(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors without values, typed and shaped as the buffers that were prepared."""
    return {name: torch.empty(shape, dtype=_DTYPES[dtype], device="meta") for name, dtype, shape in content["buffers"]}


def released_content(released: Released) -> dict[str, Any]:
    """As plain data."""
    return {
        "version": released.version,
        "samples": released.samples,
        "rates": list(released.rates),
        "refused": released.refused,
        "first": released.first,
        "fault": released.fault,
        "wants_state": released.wants_state,
    }


def released_of(content: Mapping[str, Any]) -> Released:
    """The inverse."""
    return Released(**{**content, "rates": tuple(content["rates"])})


def tree_bytes(tree: Any) -> bytes:
    """A tree of dicts, lists, tensors, numbers and strings, as the bytes of a safetensors file.

    Raises:
        InvalidArgument: it holds something else.
    """
    tensors: dict[str, Tensor] = {}
    plain = packed(tree, "", tensors)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(copies, metadata={"tree": json.dumps(plain, allow_nan=False)})


def tree_of(content: bytes) -> Any:
    """The inverse."""
    length = int.from_bytes(content[:8], "little")
    plain = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["tree"])
    return unpacked(plain, safetensors.torch.load(content))
