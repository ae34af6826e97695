"""The simulator: any number of workers in one process, in virtual time.

The whole engine is a heap of (time, tie, worker): the moments at which pushes reach the server, or at which it is seen
that none will. Gradients are real, one is computed per push; only time is virtual. A worker's snapshot is the server's
own backup, so nothing is copied but what an exchange copies anyway.
"""

from __future__ import annotations

import heapq
import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from tardigrad.engines.base import Engine, Job
from tardigrad.engines.clock import EvaluationClock
from tardigrad.engines.lives import Lives
from tardigrad.engines.probing import computed_push
from tardigrad.errors import Diverged
from tardigrad.faults import Fault
from tardigrad.records import Commit, Failure, Held, Push, PushResult, Snapshot

_SIGKILLED = -int(signal.SIGKILL)


class SimulatedEngine(Engine):
    """Workers that share one body and one process; a push arrives when its virtual time has come."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._arrivals: list[tuple[float, int, int]] = []
        self._sent = 0  # gradients begun so far: of two that arrive at one moment, the first begun is served first
        self._begun = False
        self._snapshots: dict[int, Snapshot] = {}
        self._gradients: dict[int, int] = {}  # worker -> gradients it began, over all its lives
        self._proven: set[int] = set()  # workers that have pushed in their present life
        self._clock = EvaluationClock(job)
        self._lives = Lives(job, self._committed)
        self._now = 0.0
        self._travels = job.network.exchange(job.server.layout.numel, job.server.flat.element_size())

    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Train until every lease is finished or lost; see the base class."""
        if not self._begun:
            self._begun = True
            self._clock.evaluate(0.0)
            self._start_ready()
        elif self._lives.revive(self._now):
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
            "lives": self._lives.state_dict(),
            "arrivals": [list(arrival) for arrival in self._arrivals],
            "sent": self._sent,
            "gradients": dict(self._gradients),
            "proven": sorted(self._proven),
            "now": self._now,
            "buffers": {worker: {name: t.clone() for name, t in own.items()} for worker, own in held.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; see the base class."""
        server = self.job.server
        server.load_state_dict(state["server"])
        self.job.times.load_state_dict(state["times"])
        self._clock.load_state_dict(state["clock"])
        self._lives.load_state_dict(state["lives"])
        self._arrivals = [(time, tie, worker) for time, tie, worker in state["arrivals"]]
        self._sent, self._now, self._begun = state["sent"], state["now"], True
        self._gradients = {int(worker): count for worker, count in state["gradients"].items()}
        self._proven = set(state["proven"])
        for worker, held in state["buffers"].items():
            buffers = {name: tensor.to(server.layout.device, copy=True) for name, tensor in held.items()}
            self._snapshots[int(worker)] = server.outstanding(int(worker), buffers)

    def _serve(self) -> None:
        """Take in the push that arrives next, or see that it will not come."""
        arrival, _, worker = heapq.heappop(self._arrivals)
        self._now = max(arrival, self._now)
        snapshot, fault = self._snapshots.pop(worker), self._fault(worker)
        if fault is not None and fault.kind in ("kill", "raise", "hang"):
            self._fail(worker, snapshot, fault)
        else:
            push = computed_push(self.job, worker, snapshot)
            self._receive(_corrupted(push) if fault is not None and fault.kind == "corrupt" else push)
        self._start_ready()

    def _receive(self, push: Push) -> None:
        """Take in a push; the server is free again ``service`` seconds later."""
        server = self.job.server
        self._now += self.job.network.service
        self._proven.add(push.worker)
        try:
            result = server.receive(push)
        except Diverged:
            self._clock.diverged(self._now)
            raise
        self._tell(push, result)
        if not isinstance(result, Commit):
            due = server.settle()  # a worker that found no samples may have been the last one waited for
            if due is not None:
                self._committed(self._now, due)

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
            self._gradients[worker] = self._gradients.get(worker, 0) + 1
            seconds = self._seconds(worker, job.times.next(worker, snapshot.lease.samples))
            heapq.heappush(self._arrivals, (self._now + seconds, self._sent, worker))
            self._sent += 1

    def _seconds(self, worker: int, computing: float) -> float:
        """From a worker's pull to its push, or to the moment when it is seen that none will come."""
        fault, late = self._fault(worker), self.job.faults.latency(worker, self._gradients[worker])
        there_and_back = self._travels + 2.0 * late + computing
        if fault is None or fault.kind == "delay":
            return there_and_back
        if fault.kind == "kill":
            return fault.moment * computing
        if fault.kind == "hang":
            limits = self.job.limits
            return limits.hang_after if worker in self._proven else limits.first_step
        return there_and_back + fault.seconds

    def _fault(self, worker: int) -> Fault | None:
        """What goes wrong with the gradient that this worker computes now."""
        return self.job.faults.due(worker, self._gradients[worker])

    def _fail(self, worker: int, snapshot: Snapshot, fault: Fault) -> None:
        self._proven.discard(worker)
        raised = f"RuntimeError: as planned, worker {worker} raises at its push {fault.at}\n"
        failure = Failure(
            worker,
            snapshot.incarnation,
            kind="raised" if fault.kind == "raise" else "hung" if fault.kind == "hang" else "died",
            version=self.job.server.version,
            exit_code=_SIGKILLED if fault.kind == "kill" else None,
            traceback=raised if fault.kind == "raise" else "",
        )
        self._lives.failed(self._now, failure)

    def _tell(self, push: Push, result: PushResult) -> None:
        if isinstance(result, Commit):
            self._committed(self._now, result)
        elif isinstance(result, Held):
            for observer in self.job.observers:
                observer.held(self._now, push, result)
        else:
            for observer in self.job.observers:
                observer.rejected(self._now, push, result)

    def _committed(self, time: float, commit: Commit) -> None:
        for observer in self.job.observers:
            observer.committed(time, commit)
        self._clock.committed(time, commit)
        if self.job.faults.server_dies(commit.version, life=self.job.life):
            os.kill(os.getpid(), signal.SIGKILL)


def _corrupted(push: Push) -> Push:
    """The same push with a gradient that is not finite; the worker's own buffers stay as they are."""
    gradient: Tensor = push.gradient.clone()
    gradient[0] = math.nan
    return replace(push, gradient=gradient, norm=math.nan)
