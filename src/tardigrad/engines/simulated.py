"""The simulator: any number of workers in one process, in virtual time.

The whole engine is a heap of (time, tie, worker): the moments at which pushes reach the server. Gradients are real,
one is computed per push; only time is virtual. A worker's snapshot is the server's own backup, so nothing is copied
but what an exchange copies anyway.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from tardigrad.engines.base import Engine, EvaluationClock, Job
from tardigrad.errors import Diverged
from tardigrad.records import Commit, Push, PushResult, Rejected, Snapshot


class SimulatedEngine(Engine):
    """Workers that share one body and one process; a push arrives when its virtual time has come."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._arrivals: list[tuple[float, int, int]] = []
        self._sent = 0  # pushes so far: of two that arrive at one moment, the one sent first is served first
        self._begun = False
        self._snapshots: dict[int, Snapshot] = {}
        self._clock = EvaluationClock(job)
        self._now = 0.0
        size = job.server.layout.numel * job.server.flat.element_size()
        self._transfer = job.network.transfer(size)

    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Train until every lease is finished or lost; see the base class."""
        if not self._begun:
            self._begun = True
            self._clock.evaluate(0.0)
            self._start_ready()
        while self._arrivals:
            self._serve()
            if pause is not None and self._arrivals and pause():
                return False
        self._clock.finish(self._now)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The heap, the times and what the workers hold; a snapshot's weights are the server's own backup."""
        held = {worker: dict(snapshot.buffers) for worker, snapshot in self._snapshots.items()}
        return {
            "server": self.job.server.state_dict(under_way=True),
            "times": self.job.times.state_dict(),
            "clock": self._clock.state_dict(),
            "arrivals": [list(arrival) for arrival in self._arrivals],
            "sent": self._sent,
            "now": self._now,
            "buffers": {worker: {name: t.clone() for name, t in own.items()} for worker, own in held.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; see the base class."""
        server = self.job.server
        server.load_state_dict(state["server"])
        self.job.times.load_state_dict(state["times"])
        self._clock.load_state_dict(state["clock"])
        self._arrivals = [(time, tie, worker) for time, tie, worker in state["arrivals"]]
        self._sent, self._now, self._begun = state["sent"], state["now"], True
        for worker, held in state["buffers"].items():
            buffers = {name: tensor.to(server.layout.device, copy=True) for name, tensor in held.items()}
            self._snapshots[int(worker)] = server.outstanding(int(worker), buffers)

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
            heapq.heappush(self._arrivals, (self._now + seconds, self._sent, worker))
            self._sent += 1

    def _tell(self, push: Push, result: PushResult) -> None:
        if isinstance(result, Commit):
            for observer in self.job.observers:
                observer.committed(self._now, result)
            self._clock.committed(self._now, result)
        elif isinstance(result, Rejected):
            for observer in self.job.observers:
                observer.rejected(self._now, push, result)
