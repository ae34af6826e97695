"""Participants: who takes part, what each of them holds, and who may start next.

Here consistency (who may read) and leases (what is left to compute) meet: a worker for which no samples are left is
parked, so that nobody waits for it, and takes part again when some come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tardigrad.consistency import Consistency
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.leases import Leases
from tardigrad.records import Bundle, Lease, RejectReason


@dataclass(slots=True)
class WorkerRecord:
    """What the server knows of one worker.

    Attributes:
        incarnation: which life of it may push.
        outstanding: whether it has pulled and not pushed since.
        waiting: whether its push is held until its round is complete.
        lease: the samples it computes now.
        sequence: number of its last push; -1 before the first.
    """

    incarnation: int = 0
    outstanding: bool = False
    waiting: bool = False
    lease: Lease | None = None
    sequence: int = -1


class Participants:
    """The live workers of one server."""

    def __init__(self, consistency: Consistency, leases: Leases | None) -> None:
        self._consistency = consistency
        self._leases = leases
        self._records: dict[int, WorkerRecord] = {}
        self._idle: set[int] = set()  # those without an outstanding pull: few, while the live ones may be many
        self._lives: dict[int, int] = {}  # worker -> incarnations begun so far

    @property
    def live(self) -> list[int]:
        """Workers taking part, in order."""
        return sorted(self._records)

    def __len__(self) -> int:
        """How many take part."""
        return len(self._records)

    def __iter__(self) -> Iterator[int]:
        """Workers taking part, in order."""
        return iter(self.live)

    def __contains__(self, worker: int) -> bool:
        """Whether a worker takes part."""
        return worker in self._records

    def lives(self, worker: int, incarnation: int) -> bool:
        """Whether a worker takes part, in this life of it."""
        return worker in self._records and self._records[worker].incarnation == incarnation

    def record(self, worker: int) -> WorkerRecord:
        """The record of a live worker."""
        record = self._records.get(worker)
        if record is None:
            raise InvalidArgument(f"worker {worker!r} does not take part; live workers: {self.live}.")
        return record

    def ready(self) -> list[int]:
        """Workers that may read now, hold no outstanding pull, and for whom there is something to compute."""
        return sorted(worker for worker in self._idle if self.is_ready(worker))

    def is_ready(self, worker: int) -> bool:
        """Whether this worker is one of `ready`."""
        record = self._records[worker]
        if record.outstanding or record.waiting:
            return False
        if self._leases is not None and not self._leases.available(worker):
            return False
        return worker not in self._consistency.live or self._consistency.may_read(worker)

    def start(self, worker: int) -> Lease | None:
        """A worker reads: give it samples (those it holds already, if any).

        Raises:
            ProtocolError: when the consistency makes it wait.
        """
        record = self.record(worker)
        self.unpark(worker)
        if record.waiting or not self._consistency.may_read(worker):
            raise ProtocolError(
                f"worker {worker} must wait under {self._consistency.spec}; pull for the workers in ready()."
            )
        if self._leases is not None and record.lease is None:
            record.lease = self._leases.take(worker)
        record.outstanding = record.lease is not None or self._leases is None
        if record.outstanding:
            self._idle.discard(worker)
        if self._leases is not None and not self._leases.plenty:
            for other in self._idle:  # this may have been the last lease that another could have had
                self.park(other)
        return record.lease

    def pushed(self, worker: int) -> None:
        """A push of this worker has come: it is idle again, and holds no lease."""
        record = self._records[worker]
        record.outstanding, record.lease = False, None
        self._idle.add(worker)

    def released(self, worker: int) -> None:
        """The push of this worker was committed."""
        if worker in self._records:
            self._records[worker].waiting = False
            self.park(worker)

    def hand_back(self, lease: Lease | Bundle | None, reason: RejectReason) -> bool:
        """A push was not applied: its lease, if it has one, comes back. Return True if it is given up instead."""
        if self._leases is None or not isinstance(lease, Lease):
            return False
        if reason == "non-finite":
            return self._leases.reject(lease, reason)
        self._leases.give_back(lease)
        return False

    def park(self, worker: int) -> None:
        """Take an idle worker for which no samples are left out of the consistency."""
        record = self._records.get(worker)
        if record is None or record.outstanding or record.waiting or self._leases is None:
            return
        if not self._leases.available(worker):
            self._consistency.leave(worker)

    def rest(self, worker: int) -> None:
        """Let nobody wait for a worker that waits for samples itself; it takes part again when it reads or pushes."""
        if not self.record(worker).waiting:
            self._consistency.leave(worker)

    def unpark(self, worker: int) -> None:
        """Let a parked worker take part again."""
        if worker not in self._consistency.live:
            self._consistency.join(worker)

    def join(self, worker: int) -> int:
        """A worker takes part from now on; return its incarnation: 0 the first time, + 1 for each return."""
        if worker in self._records:
            raise ProtocolError(f"worker {worker} already takes part.")
        incarnation = self._lives.get(worker, 0)
        self._lives[worker] = incarnation + 1
        self._records[worker] = WorkerRecord(incarnation)
        self._idle.add(worker)
        self._consistency.join(worker)
        if self._leases is not None:
            self._leases.join(worker)
        self.park(worker)
        return incarnation

    def leave(self, worker: int) -> None:
        """A worker takes part no longer; its lease goes back."""
        record = self.record(worker)
        if self._leases is not None:
            if record.lease is not None:
                self._leases.give_back(record.lease)
            self._leases.leave(worker)
        self._consistency.leave(worker)
        self._idle.discard(worker)
        del self._records[worker]

    def state_dict(self, *, under_way: bool = False) -> dict[str, Any]:
        """Incarnation and last sequence number of each, and how many lives each worker there ever was has begun.

        With ``under_way`` also who holds an outstanding pull and which lease, and whose push waits.
        """
        records = {worker: [record.incarnation, record.sequence] for worker, record in self._records.items()}
        doing = {worker: _doing(record) for worker, record in self._records.items()} if under_way else {}
        return {"records": records, "lives": dict(self._lives), "under_way": doing}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; whoever is not named as under way begins by pulling."""
        self._lives = {int(worker): lives for worker, lives in state["lives"].items()}
        self._records = {
            int(worker): WorkerRecord(incarnation=incarnation, sequence=sequence)
            for worker, (incarnation, sequence) in state["records"].items()
        }
        for worker, (outstanding, waiting, lease) in state["under_way"].items():
            record = self._records[int(worker)]
            record.outstanding, record.waiting = outstanding, waiting
            record.lease = None if lease is None else Lease(*lease)
        self._idle = {worker for worker, record in self._records.items() if not record.outstanding}


def _doing(record: WorkerRecord) -> list[Any]:
    lease = record.lease
    plain = None if lease is None else [lease.epoch, lease.start, lease.stop]
    return [record.outstanding, record.waiting, plain]
