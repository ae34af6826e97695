"""Trees: dicts, lists, tensors, numbers and strings, nested, as JSON and tensors, and back to the last bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tardigrad.errors import InvalidArgument

_TENSOR, _FLOAT = "<tensor>", "<float>"  # stand in for what JSON has no word for


def packed(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON; its tensors are put aside by their place.

    Raises:
        InvalidArgument: it holds something else than dicts, lists, tensors, numbers, strings and None.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, Tensor):
        name = place if place not in tensors else f"{place}#{len(tensors)}"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): packed(item, f"{place}/{key}" if place else str(key), tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [packed(item, f"{place}/{number}", tensors) for number, item in enumerate(value)]
    raise InvalidArgument(
        f"the state {place} is a {type(value).__name__}; a checkpoint can hold dicts, lists, tensors, numbers, "
        "strings and None."
    )


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `packed`; keys are strings, sequences lists."""
    if isinstance(value, list):
        return [unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    if value.keys() == {_FLOAT}:
        return float(value[_FLOAT])
    return {key: unpacked(item, tensors) for key, item in value.items()}
