"""Lives: what follows when a worker fails, the same in every engine.

Its lease goes back and it takes part no longer, so that nobody waits for it; then it begins its next life, unless it
has had too many. One object serves one engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tardigrad.engines.base import Stage
from tardigrad.errors import AllWorkersLost, WorkerFailed
from tardigrad.records import Commit, Failure


class Lives:
    """Counts restarts, and tells server and observers who comes and goes.

    Args:
        job: whose limits hold, and whose server and observers are told.
        committed: told (time, commit) of a round that had been waiting for the worker that failed only.

    Attributes:
        alone: whether nobody else can come where all workers are lost.
    """

    def __init__(self, job: Stage, committed: Callable[[float, Commit], None]) -> None:
        self._job = job
        self._committed = committed
        self.alone = True
        self._restarts: dict[int, int] = {}
        self._given_up: dict[int, Failure | None] = {}  # worker -> its last failure; None: before the run was resumed

    @property
    def over(self) -> bool:
        """Whether every sample was applied or is listed as lost."""
        leases = self._job.server.leases
        return leases is not None and leases.over

    @property
    def restarts(self) -> dict[int, int]:
        """How often each worker was restarted, those that never were left out."""
        return dict(self._restarts)

    @property
    def last_failures(self) -> list[Failure]:
        """Of those that were given up; those of before the run was resumed are not known."""
        return [failure for failure in self._given_up.values() if failure is not None]

    @property
    def given_up(self) -> list[int]:
        """Workers that failed more often than they may be restarted, in order."""
        return sorted(self._given_up)

    def failed(self, time: float, failure: Failure, *, fatal: bool = False) -> bool:
        """A live worker failed: tell everyone, take its lease back, and let it take part again if it may.

        Args:
            time: seconds of the engine's clock.
            failure: of the worker's present incarnation.
            fatal: whether it would fail again and again: then it ends the run.

        Returns:
            Whether it is to be started again: its new incarnation has joined, and pulls when `server.ready` says so.

        Raises:
            WorkerFailed: failures are to end the run (``on_failure="raise"``), or this one does.
            AllWorkersLost: nobody is left, and some samples are.
        """
        self.lost(time, failure, fatal=fatal)
        worker = failure.worker
        if self._restarts.get(worker, 0) < self._job.limits.max_restarts:
            self._restarts[worker] = self._restarts.get(worker, 0) + 1
            self.join(time, worker)
            return True
        self._given_up[worker] = failure
        self._require_somebody()
        return False

    def lost(self, time: float, failure: Failure, *, fatal: bool = False) -> None:
        """As `failed`, but it is not known yet whether somebody takes its place.

        Raises:
            WorkerFailed: as `failed`.
        """
        job = self._job
        for observer in job.observers:
            observer.failed(time, failure)
        self.leave(time, failure.worker, failure.incarnation, "failed")
        if fatal or job.limits.on_failure == "raise":
            raise WorkerFailed(failure)

    def leave(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """A worker takes part no longer: its lease goes back, and a round that waited for it only is committed."""
        server = self._job.server
        server.leave(worker)
        for observer in self._job.observers:
            observer.left(time, worker, incarnation, reason)
        due = server.settle()
        if due is not None:
            self._committed(time, due)

    def join(self, time: float, worker: int) -> int:
        """A worker takes part from now on; return its incarnation."""
        incarnation = self._job.server.join(worker)
        self._given_up.pop(worker, None)
        for observer in self._job.observers:
            observer.joined(time, worker, incarnation)
        return incarnation

    def revive(self, time: float) -> list[int]:
        """If nobody is left, let all that were given up take part again; return them.

        For a run that is resumed after `AllWorkersLost`: each may be restarted as often as at first.
        """
        back = self.given_up if not self._job.server.live else []
        for worker in back:
            self._restarts.pop(worker, None)
            self.join(time, worker)
        return back

    def state_dict(self) -> dict[str, Any]:
        """How often each was restarted, and who was given up."""
        return {"restarts": self.restarts, "given_up": self.given_up}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._restarts = {int(worker): count for worker, count in state["restarts"].items()}
        self._given_up = dict.fromkeys(state["given_up"])

    def _require_somebody(self) -> None:
        server = self._job.server
        if self.alone and not server.live and not self.over:
            raise AllWorkersLost(server.version, self.last_failures)
