"""Scripted walks: a fixed sequence of pulls and pushes, with gradients that anyone can compute again.

The gradient of push number n, computed on weights read, is ``scale * (h * read + noise_n)``: a noisy quadratic whose
noise is drawn from a stream of (n, tensor), so that a walk over one tensor meets the same numbers as a walk over all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from tardigrad.commit.base import Part
from tardigrad.commit.exact import ExactPath
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.seeding import random_stream

SHAPES = ((37, 11), (13,), (), (2, 3, 3, 3))  # odd sizes, a scalar, gaps between them
EVERY_TENSOR = tuple(range(len(SHAPES)))


@dataclass(frozen=True, slots=True)
class Event:
    """One worker pulls, or pushes a gradient computed on its last pull (on w_0 before its first)."""

    action: Literal["pull", "push"]
    worker: int


@dataclass(frozen=True, slots=True)
class Walked:
    """Where a walk ended: the flat weights, their layout and the commit path's state."""

    weights: Tensor
    layout: FlatLayout
    state: dict[str, Any]


def random_events(count: int, *, workers: int = 3, seed: int = 0) -> list[Event]:
    """Pulls and pushes in an order drawn from a seed: some push before any pull, some twice on one pull."""
    stream = random_stream(seed, "scripted events", workers)
    pushes = [True, *(stream.random(count - 1) < 0.6)]
    return [Event("push" if push else "pull", int(stream.integers(workers))) for push in pushes]


def fresh_events(count: int, *, workers: int = 3, seed: int = 0) -> list[Event]:
    """Workers in an order drawn from a seed, each pulling right before it pushes: staleness is always 0."""
    turns = random_stream(seed, "scripted turns", workers).integers(workers, size=count)
    return [Event(action, int(worker)) for worker in turns for action in ("pull", "push")]


def initial_weights(dtype: torch.dtype, tensors: Sequence[int] = EVERY_TENSOR) -> list[Tensor]:
    """Normal numbers, the same for the same tensor whichever others are asked for."""
    return [_normal("scripted weights", 0, number).to(dtype, copy=True) for number in tensors]


def gradient(
    read: Sequence[Tensor], push: int, tensors: Sequence[int] = EVERY_TENSOR, scale: float = 1.0
) -> list[Tensor]:
    """The gradient of push number ``push`` at the weights ``read``, shaped as they are."""
    found = []
    for number, w in zip(tensors, read, strict=True):
        h = torch.linspace(0.2, 1.0, w.numel(), dtype=w.dtype).view(w.shape)
        found.append(scale * (h * w + 0.3 * _normal("scripted noise", push, number).to(w.dtype)))
    return found


def walk(
    rule: Rule,
    events: Sequence[Event],
    *,
    dtype: torch.dtype,
    lr: float,
    tensors: Sequence[int] = EVERY_TENSOR,
    block: int = 65536,
    scale: float = 1.0,
    blind: bool = False,
) -> Walked:
    """Take the events straight through the exact commit path, without a server; ``blind`` makes backups NaN."""
    layout = FlatLayout.of(initial_weights(dtype, tensors))
    weights = layout.pack(initial_weights(dtype, tensors))
    path, version = ExactPath(rule, layout, block=block), 0
    held = {event.worker: (0, weights.clone()) for event in events}
    for event in events:
        if event.action == "pull":
            held[event.worker] = (version, weights.clone())
            continue
        read, backup = held[event.worker]
        pushed = layout.pack(gradient(layout.views(backup), version, tensors, scale))
        facts = Facts(staleness=version - read, lr=lr, version=version, live=len(held), step=version)
        reference = backup if rule.compensation.reads_backup else weights
        if blind:
            reference = torch.full_like(weights, torch.nan)
        path.apply(weights, [Part(event.worker, pushed, reference, facts)], measure=True)
        version += 1
    return Walked(weights, layout, path.state_dict())


@lru_cache(maxsize=1024)
def _normal(stream: str, position: int, number: int) -> Tensor:
    """Standard normal float64 numbers in the shape of one tensor; never write into them."""
    return torch.tensor(random_stream(0, stream, position, number).normal(size=SHAPES[number]), dtype=torch.float64)
