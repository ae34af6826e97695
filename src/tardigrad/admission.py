"""Admission: what is checked of a push before it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tardigrad.errors import Diverged, InvalidArgument, ProtocolError
from tardigrad.participants import WorkerRecord
from tardigrad.records import Bundle, Push, RejectReason

_FRUITLESS = 3  # rejections in a row, per worker, that may be the samples' fault: as many as give up a lease


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


class Fruitless:
    """Gradients in a row that were not finite: the samples' fault, or have the weights diverged?

    Attributes:
        number: of them so far.
    """

    def __init__(self) -> None:
        self.number = 0

    def another(self, weights: Tensor, *, version: int, live: int) -> None:
        """Count one more; raise `Diverged` if the samples of so few workers cannot be at fault for all of them."""
        if not torch.isfinite(weights).all():
            raise Diverged(version, "the weights are no longer finite")
        self.number += 1
        if self.number > _FRUITLESS * max(1, live):
            raise Diverged(version, f"the last {self.number} gradients pushed were not finite")


def require_in_turn(push: Push, record: WorkerRecord, *, waits: bool, has_read: bool) -> None:
    """Raise `ProtocolError` for a push at a moment when it has no meaning.

    Args:
        push: of a live worker's present life.
        record: the server's of that worker.
        waits: whether a push of this worker waits for its round already.
        has_read: whether the worker has a backup.
    """
    if push.lease != record.lease and not isinstance(push.lease, Bundle):  # whose leases were taken, not pulled
        raise ProtocolError(f"worker {push.worker} pushes {push.lease} but holds {record.lease}.")
    if waits:
        raise ProtocolError(f"worker {push.worker} has already pushed in this round; pull after the commit.")
    if not has_read:
        raise ProtocolError(f"worker {push.worker} joined after version 0 and has not pulled; pull first.")


def require_made_with(given: Mapping[str, str], mine: Mapping[str, str]) -> None:
    """Raise `InvalidArgument` unless a state belongs to a server made with the same parts."""
    for part, value in mine.items():
        if given[part] != value:
            raise InvalidArgument(f"the state belongs to a server with {part} {given[part]}, this one has {value}.")
