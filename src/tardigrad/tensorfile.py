"""Writes tensors to a safetensors file, one after the other: no second copy of them, and no file but this one.

The library's own writer goes through a file of another name, which a killed process leaves behind, or makes the whole
file in memory first. The format: the header's length (8 bytes, little-endian), the header (JSON: type, shape and place
of each tensor), then the bytes of the tensors in row-major order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tardigrad.errors import InvalidArgument

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNMENT = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write dense tensors of any device by name, put the file on the disk, and return its checksum (blake2b, 16 bytes).

    Raises:
        InvalidArgument: a tensor's type is none that the format has.
        OSError: the file cannot be written.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each begins aligned
    head = _header({name: tensors[name] for name in names})
    state = hashlib.blake2b(digest_size=16)
    with path.open("wb") as file:
        _add(file, state, head)
        for name in names:
            if tensors[name].numel():
                plain = tensors[name].detach().cpu().contiguous(memory_format=torch.contiguous_format)
                _add(file, state, plain.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    return state.hexdigest()


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        kind = _TYPES.get(tensor.dtype)
        if kind is None:
            raise InvalidArgument(
                f"the state {name} is {tensor.dtype}; a checkpoint can hold {', '.join(map(str, _TYPES))}."
            )
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _add(file: IO[bytes], state: Any, content: bytes | memoryview) -> None:
    state.update(content)
    file.write(content)
