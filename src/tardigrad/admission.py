"""Admission: what is checked of a push before it counts."""

from __future__ import annotations

import math

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
