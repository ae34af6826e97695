"""The simulator: any number of workers in one process, in virtual time.

The whole engine is a heap of (time, tie, worker): the moments at which pushes reach the server. Gradients are real,
one is computed per push; only time is virtual. A worker's snapshot is the server's own backup, so nothing is copied
but what an exchange copies anyway.
"""

from __future__ import annotations

import heapq
from itertools import count

from tardigrad.engines.base import Engine, EvaluationClock, Job
from tardigrad.errors import Diverged
from tardigrad.records import Commit, Push, PushResult, Rejected, Snapshot


class SimulatedEngine(Engine):
    """Workers that share one body and one process; a push arrives when its virtual time has come."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._arrivals: list[tuple[float, int, int]] = []
        self._tie = count()
        self._snapshots: dict[int, Snapshot] = {}
        self._clock = EvaluationClock(job)
        self._now = 0.0
        size = job.server.layout.numel * job.server.flat.element_size()
        self._transfer = job.network.transfer(size)

    def run(self) -> None:
        """Train until every lease is finished or lost; see the base class."""
        self._clock.evaluate(0.0)
        self._start_ready()
        while self._arrivals:
            self._serve()
        self._clock.finish(self._now)

    def _serve(self) -> None:
        """Take in the push that arrives next; the server is free again ``service`` seconds later."""
        job = self.job
        arrival, _, worker = heapq.heappop(self._arrivals)
        self._now = max(arrival, self._now) + job.network.service
        push = job.body.compute(worker, self._snapshots.pop(worker))
        try:
            result = job.server.receive(push)
        except Diverged:
            self._clock.diverged(self._now)
            raise
        self._tell(push, result)
        if not isinstance(result, Commit):
            due = job.server.settle()  # a worker that found no samples may have been the last one waited for
            if due is not None:
                self._tell(push, due)
        self._start_ready()

    def _start_ready(self) -> None:
        """Every worker that may read does, and its push is on its way."""
        job = self.job
        for worker in job.server.ready():
            snapshot = job.server.pull(worker, copy=False)
            if snapshot.lease is None:
                continue
            self._snapshots[worker] = snapshot
            for observer in job.observers:
                observer.pulled(self._now, worker, snapshot)
            seconds = 2.0 * self._transfer + job.times.next(worker, snapshot.lease.samples)
            heapq.heappush(self._arrivals, (self._now + seconds, next(self._tie), worker))

    def _tell(self, push: Push, result: PushResult) -> None:
        if isinstance(result, Commit):
            for observer in self.job.observers:
                observer.committed(self._now, result)
            self._clock.committed(self._now, result)
        elif isinstance(result, Rejected):
            for observer in self.job.observers:
                observer.rejected(self._now, push, result)
