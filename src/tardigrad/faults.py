"""Faults: what is to go wrong, where and when. Engines bring it about; `tardigrad.chaos` makes the plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tardigrad.errors import TardigradError


class PlannedFault(TardigradError, RuntimeError):
    """Raised in a worker because the run's chaos says so."""


FaultKind = Literal["kill", "raise", "hang", "pause", "corrupt", "cut", "delay", "kill-server"]

OF_LINKS: frozenset[FaultKind] = frozenset({"cut", "delay"})
"""Faults of the link between a worker and the server: a worker of the same machine has none."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: ``kill`` (SIGKILL while it computes), ``raise`` (its code raises), ``hang`` (it never pushes), ``pause``
            (it stands still for ``seconds``), ``corrupt`` (its gradient is not finite), ``cut`` (nothing passes its
            link for ``seconds``), ``delay`` (from then on whatever passes its link takes ``seconds`` longer, each
            way), or ``kill-server`` (SIGKILL to the server's own process).
        at: the worker's gradient at which it happens, counted from 1 over all its lives; of ``kill-server`` the
            version after whose commit it happens.
        worker: whose fault; -1 for the server's.
        seconds: of a pause, a cut or a delay.
        moment: of a kill: after which part of a median step, in [0, 1).
    """

    kind: FaultKind
    at: int
    worker: int = -1
    seconds: float = 0.0
    moment: float = 0.0


class FaultPlan:
    """Looks up faults.

    Args:
        faults: at most one for each worker and gradient.
    """

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)
        self._of_workers = {(fault.worker, fault.at): fault for fault in faults if fault.kind != "kill-server"}
        self._delays = sorted((f.worker, f.at, f.seconds) for f in faults if f.kind == "delay")
        self._of_server = sorted(fault.at for fault in faults if fault.kind == "kill-server")

    def due(self, worker: int, gradient: int) -> Fault | None:
        """What happens to this worker at its gradient of this number, counted from 1 over all its lives."""
        return self._of_workers.get((worker, gradient))

    @property
    def delays(self) -> bool:
        """Whether any link is to be delayed at any time."""
        return bool(self._delays)

    def latency(self, worker: int, gradient: int) -> float:
        """Seconds by which each message of this worker's link is late, from its gradient of this number on, >= 0."""
        return next((seconds for w, at, seconds in reversed(self._delays) if w == worker and at <= gradient), 0.0)

    def server_dies(self, version: int, *, life: int) -> bool:
        """Whether the server is killed now, in its life of this number, from 0: each life has its own end."""
        return life < len(self._of_server) and version >= self._of_server[life]
