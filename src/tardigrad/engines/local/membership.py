"""Membership of a script's workers: their leases come and go with them, and all of them must have prepared the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tardigrad.engines.base import Stage
from tardigrad.engines.lives import Lives
from tardigrad.errors import SessionError
from tardigrad.ledger import Ledger
from tardigrad.records import Commit
from tardigrad.session.link import Prepared


class ScriptLives(Lives):
    """As `Lives`, with the ledger of leases.

    Args:
        job, committed: see `Lives`.
        ledger: None where nothing is leased.
    """

    def __init__(self, job: Stage, committed: Callable[[float, Commit], None], ledger: Ledger | None) -> None:
        super().__init__(job, committed)
        self._ledger = ledger
        self._number: int | None = None

    @property
    def over(self) -> bool:
        """Whether every sample was applied or is listed as lost."""
        return self._ledger is not None and self._ledger.leases.over

    def leave(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """A worker takes part no longer: what it held comes back too."""
        if self._ledger is not None:
            self._ledger.leave(worker)
        super().leave(time, worker, incarnation, reason)

    def join(self, time: float, worker: int) -> int:
        """A worker takes part from now on; return its incarnation."""
        if self._ledger is not None:
            self._ledger.join(worker)
        return super().join(time, worker)

    def begin_anew(self, time: float) -> None:
        """The run is taken up again: every worker begins another life, and what it held then comes back."""
        if not self.revive(time):
            for worker in self._job.server.live:
                self.leave(time, worker, self._job.server.participants.record(worker).incarnation, "stopped")
                self.join(time, worker)

    def plan(self, number: int) -> str:
        """A worker says of how many epochs the run is; return why that cannot be, empty where it can."""
        if self._ledger is None:
            return ""
        known = self._ledger.leases.epochs
        if known is not None and known != number:
            return (
                f"session.epochs({number}): another worker said {known}. Every worker must run the same number of "
                "epochs; take it from the script's arguments, not from something that differs between workers."
            )
        self._ledger.leases.epochs = number
        return ""

    def conclude(self, time: float, planned: int | None) -> None:
        """All scripts have ended; say so where they ended before every sample was applied."""
        if self._ledger is None or planned is None or self.over:
            return
        finished = self._ledger.leases.finished_epochs
        for observer in self._job.observers:
            observer.planned(time, finished)
            observer.noted(time, f"every script ended before epoch {finished} of {planned} was finished")


def require_alike(who: str, first: Prepared, other: Prepared) -> None:
    """Compare what a process has prepared with what the first one had.

    Raises:
        SessionError: they differ; the sentence says in what.
    """
    for what, one, another in _compared(first, other):
        if one != another:
            raise SessionError(
                f"{who} prepares {what} {another}, the first worker to come {one}. Every worker must build the same "
                "from the same script: seed what is drawn at random, and let nothing depend on the process."
            )


def _compared(first: Prepared, other: Prepared) -> list[tuple[str, Any, Any]]:
    """What must be equal: (what it is called, the one, the other)."""
    plain = [
        ("a model whose parameters are", _model(first), _model(other)),
        ("the parameter groups", first.groups, other.groups),
        ("buffers", _buffers(first), _buffers(other)),
        ("samples in an epoch:", first.samples, other.samples),
        ("batches of", first.batch_size, other.batch_size),
        ("accumulate =", first.accumulate, other.accumulate),
        ("a schedule that begins", _begin(first), _begin(other)),
    ]
    names = sorted({*first.alike, *other.alike})
    return plain + [(f"{name} with digest", first.alike.get(name), other.alike.get(name)) for name in names]


def _model(prepared: Prepared) -> str:
    layout = prepared.layout
    shapes = [f"{name} {list(shape)}" for name, shape in zip(layout.names, layout.shapes, strict=True)]
    return f"{', '.join(shapes[:4])}{', ...' if len(shapes) > 4 else ''} ({layout.numel} numbers, layout {layout.hash})"


def _buffers(prepared: Prepared) -> list[str]:
    return [f"{name} {list(tensor.shape)}" for name, tensor in prepared.buffers.items()]


def _begin(prepared: Prepared) -> Any:
    schedule = prepared.schedule
    return None if schedule is None else (schedule.unit, schedule.rates[:3])
