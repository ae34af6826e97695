"""Joining: the state of a whole server from the states of its shards, and the other way round.

So a checkpoint says nothing of shards, and a run goes on with any number of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tardigrad.shards.ranges import Range


def joined(parts: Sequence[Any]) -> Any:
    """Trees of one form as one: their tensors one after the other, everything else as in the first."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: joined([_of(part, key) for part in parts]) for key in first}
    return first


def _of(part: Mapping[Any, Any], key: Any) -> Any:
    """One that has come as JSON has only words for keys."""
    return part[key] if key in part else part[str(key)]


def split(whole: Any, part: Range) -> Any:
    """Of the tensors in a tree, each a flat buffer, this range."""
    if isinstance(whole, Tensor):
        return part.of(whole)
    if isinstance(whole, Mapping):
        return {key: split(value, part) for key, value in whole.items()}
    return whole


def joined_path(parts: Sequence[Mapping[str, Any]], ranges: Sequence[Range], tensors: int) -> dict[str, Any]:
    """The state of a commit path; of each tensor how many commits it missed, where any did.

    Args:
        parts: what the shards' paths gave.
        ranges: that they hold.
        tensors: how many there are in the whole layout.
    """
    names = list(dict.fromkeys(name for part in parts for name in part["optimizer"]))
    alike: list[dict[str, Any]] = []
    for part, place in zip(parts, ranges, strict=True):
        kept = {key: value for key, value in part.items() if key != "missed"}
        alike.append(kept | {"optimizer": _with_all(part["optimizer"], names, place)})
    whole: dict[str, Any] = joined(alike)
    missed = [0] * tensors
    for part, place in zip(parts, ranges, strict=True):
        if "missed" in part:
            for tensor, count in zip(place.tensors, part["missed"].tolist(), strict=True):
                missed[tensor] = count
    return whole | ({"missed": torch.tensor(missed)} if any(missed) else {})


def _with_all(held: Mapping[str, Tensor], names: Sequence[str], place: Range) -> dict[str, Tensor]:
    """Zeros for what no optimizer of this range keeps, in the order in which all are named."""
    return {name: held[name] if name in held else place.layout.zeros() for name in names}


def split_path(whole: Mapping[str, Any], part: Range) -> dict[str, Any]:
    """The state of a commit path as it is in one range."""
    found: dict[str, Any] = split({key: value for key, value in whole.items() if key != "missed"}, part)
    if "missed" in whole:
        found["missed"] = whole["missed"][list(part.tensors)]
    return found
