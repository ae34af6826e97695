"""Admission: what is checked of a push before it counts."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from tardigrad.participants import WorkerRecord
from tardigrad.records import Push, RejectReason


def refusal(push: Push, record: WorkerRecord) -> RejectReason | None:
    """Why a push cannot be this worker's next one: an earlier life, or a repeat. None: it can."""
    if push.incarnation != record.incarnation:
        return "incarnation"
    if push.sequence is not None and push.sequence <= record.sequence:
        return "duplicate"
    return None


def is_finite(push: Push) -> bool:
    """Whether every element is finite.

    A finite norm proves it; a norm that is not finite may only have overflowed, so the elements are looked at.
    """
    norm = float(torch.linalg.vector_norm(push.gradient)) if push.norm is None else push.norm
    return math.isfinite(norm) or bool(torch.isfinite(push.gradient).all())


def with_own_tensors(push: Push) -> Push:
    """The same push with copies of its tensors, so that the caller may use its buffers again."""
    buffers = {name: tensor.clone() for name, tensor in push.buffers.items()}
    return replace(push, gradient=push.gradient.clone(), buffers=buffers)
