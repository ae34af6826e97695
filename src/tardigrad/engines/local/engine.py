"""The local engine: the server in this process, each worker in one of its own, shared memory in between.

One loop waits for answers. A push is committed straight from the worker's up slot, in one pass that also writes the
worker's down slot; the order to compute the next gradient follows before anything is recorded. Nobody but this
process writes weights, so a worker that dies, at whatever instant, takes nothing with it but its own gradient.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from torch import Tensor

from tardigrad.blueprint import Blueprint
from tardigrad.buffers import copy_into
from tardigrad.engines.base import Engine, Job
from tardigrad.engines.local.base import ProcessEngine
from tardigrad.engines.local.judging import EvaluationsBeside
from tardigrad.engines.local.mischief import bring_about, hold_up
from tardigrad.engines.local.nursery import prepare
from tardigrad.engines.local.places import device_of, require_no_child, require_startable
from tardigrad.engines.local.processes import Duty
from tardigrad.engines.local.station import Station
from tardigrad.engines.probing import probed
from tardigrad.errors import Diverged, InvalidArgument, ProtocolError
from tardigrad.faults import Fault
from tardigrad.records import Commit, Push, Snapshot
from tardigrad.transports.slots import FAULTS, Order, Pushed, Raised, Ready, SlotLayout


class LocalEngine(ProcessEngine[Station], Engine):
    """Workers as processes on this machine."""

    job: Job

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        require_startable(job)
        server = job.server
        self._layout = SlotLayout.of(server.layout, server.buffers.combined(server.live))
        self._snapshots: dict[int, Snapshot] = {}  # what each worker that computes computes on
        self._gradients: dict[int, int] = {}  # orders given to each worker, over all its lives
        self._unsent: set[int] = set()  # workers that hold a snapshot of before the run was taken up again
        self._clock = EvaluationsBeside(job)
        self._gathered = False
        self._computation = "eager"
        self._watched: Connection | None = None
        self._watched_number = -1

    @classmethod
    def prepare(cls, blueprint: Blueprint) -> None:
        """Start the forkserver, which builds the task while this process does."""
        require_no_child()
        prepare(blueprint.task, imports=blueprint.imports, data_dir=blueprint.data_dir)

    @property
    def computation(self) -> str:
        """As the workers say."""
        return self._computation

    # -- the beginning and the end ---------------------------------------------------------------------------

    def _begin(self) -> None:
        self._lives.revive(self.now)
        for worker in self._first_ones():
            self._start(worker)
        if not self._begun:
            self._begun = True
            self._clock.evaluate(0.0)

    def _first_ones(self) -> list[int]:
        """Workers that are started at the beginning."""
        return self.job.server.live

    def _is_over(self) -> bool:
        return not self._snapshots and not self.job.server.ready()

    def _turn(self) -> None:
        super()._turn()
        self._watch_judge()

    def _conclude(self) -> None:
        self._stop_workers()
        self._clock.finish(self.now)
        self._clock.wait()

    # -- orders and answers ----------------------------------------------------------------------------------

    def _read(self, station: Station) -> None:
        """Take in what a worker has answered, which may have ended since, or that it has ended."""
        if station.end is None:  # stopped meanwhile
            return
        try:
            answer = station.end.receive()
        except (EOFError, OSError):
            self._lost(station)
            return
        except ProtocolError as error:
            self._garbled(station, error)
            return
        if isinstance(answer, Ready):
            self._greeted(station, answer.facts)
        elif isinstance(answer, Raised):
            station.traceback = answer.traceback
        else:
            self._pushed(station, answer)

    def _greeted(self, station: Station, facts: Mapping[str, Any]) -> None:
        if facts["layout"] != self.job.server.layout.hash:
            raise InvalidArgument(
                f"worker {station.worker} builds another model from the task {self.job.blueprint!r} than this process "
                "does; a task must build the same model for the same words, whatever the process."
            )
        station.greeted(facts, self.now)
        self._computation = facts["computation"]
        if station.worker in self._unsent:
            self._unsent.discard(station.worker)
            self._send(station, self._snapshots[station.worker])
        else:
            self._start_ready()

    def _pushed(self, station: Station, answer: Pushed) -> None:
        """Commit a gradient from where it lies, give the next order, and record both then."""
        worker, now = station.worker, self.now
        snapshot = self._snapshots.pop(worker)
        station.pushed(answer.seconds, now)
        assert snapshot.lease is not None
        push = Push(
            worker=worker,
            gradient=station.up.flat,
            lease=snapshot.lease,
            samples=snapshot.lease.samples,
            incarnation=answer.incarnation,
            norm=answer.norm,
            loss=answer.loss,
            buffers=station.up.buffers,
            again=probed(self.job, worker, snapshot),
        )
        try:
            result = self.job.server.receive(push, lasting=True)
        except Diverged:
            self._clock.diverged(now)
            raise
        due = None if isinstance(result, Commit) else self.job.server.settle()
        handed = self._hand_out()
        self._tell(now, push, result)
        if due is not None:
            self._tell_commit(now, due)
        self._tell_pulls(now, handed)

    def _start_ready(self) -> None:
        """Every worker that may read and is there does."""
        self._tell_pulls(self.now, self._hand_out())

    def _hand_out(self) -> list[tuple[int, Snapshot]]:
        """Pull for every worker that may read and is there, and give it the order."""
        server, handed = self.job.server, []
        if not self._all_here():
            return []
        for worker in server.ready():
            station = self._stations.get(worker)
            if station is None or not self._may_take(station):
                continue
            snapshot = server.pull(worker, copy=False)
            if snapshot.lease is None:
                continue
            copy_into(station.down.buffers, snapshot.buffers)
            self._snapshots[worker] = snapshot
            handed.append((worker, snapshot))
            self._gradients[worker] = self._gradients.get(worker, 0) + 1
            hold_up(self.job.faults, station, self._gradients[worker])
            self._send(station, snapshot, self.job.faults.due(worker, self._gradients[worker]))
        return handed

    def _may_take(self, station: Station) -> bool:
        """Whether a worker may be given an order."""
        return station.is_free

    def _all_here(self) -> bool:
        """Where all wait for all, the first round begins when all are here: so it is the same whoever comes first."""
        if not self._gathered:
            here = all(station.is_free for station in self._stations.values())
            self._gathered = here or not self.job.server.consistency.barrier
        return self._gathered

    def _send(self, station: Station, snapshot: Snapshot, fault: Fault | None = None) -> None:
        assert snapshot.lease is not None
        words = fault.kind if fault is not None and fault.kind in FAULTS else ""
        station.order(Order(snapshot.version, station.incarnation, snapshot.lease, words), self.now, self.job.limits)
        if fault is not None:
            bring_about(fault, station, self._timers, now=self.now)

    def _applied(self, now: float, commit: Commit) -> None:
        self._clock.committed(now, commit)

    # -- workers come and go ---------------------------------------------------------------------------------

    def _start(self, worker: int) -> None:
        """Begin the present life of a worker that takes part."""
        station = self._stations.get(worker)
        if station is None or station.is_closed:
            station = self._stations[worker] = Station(self._duty(worker), self._layout)
        self.job.server.keep_in(worker, station.down, station.up)
        if worker in self._unsent:  # of before the run was taken up again: the buffers it was handed move into the slot
            copy_into(station.down.buffers, self._snapshots[worker].buffers)
        self._lodge(station)
        station.start(self.job.server.participants.record(worker).incarnation, self.now, self.job.limits)
        self._watch_judge()  # a number that it gave up may be used again here
        self._listen(station)

    def _drop(self, worker: int) -> None:
        self._snapshots.pop(worker, None)
        self._unsent.discard(worker)

    def _forget(self, station: Station) -> None:
        station.close()
        self._stations.pop(station.worker, None)

    def _duty(self, worker: int) -> Duty:
        blueprint, speeds = self.job.blueprint, self.job.speeds
        assert blueprint is not None
        device = device_of(worker, str(blueprint.arithmetic.device))
        return Duty(worker, blueprint.on(device), speeds[worker] if worker < len(speeds) else 1.0)

    # -- evaluations -----------------------------------------------------------------------------------------

    def _judged(self) -> None:
        self._clock.receive()
        self._watch_judge()

    def _watch_judge(self) -> None:
        """Wait for the process that evaluates too: one is started with the first evaluation, and again if it ends."""
        connection = self._clock.connection
        if connection is self._watched:
            return
        if self._watched is not None:
            self._selector.unregister(self._watched_number)  # by number: it is closed by now
        if connection is not None:
            self._watched_number = connection.fileno()
            self._selector.register(self._watched_number, selectors.EVENT_READ, self._judged)
        self._watched = connection

    # -- the end, and the state ------------------------------------------------------------------------------

    def _stop_workers(self) -> None:
        """End every worker's process; one that computes has nothing left to say."""
        for station in self._stations.values():
            self._stop(station, at_once=station.worker in self._snapshots)

    def _close(self) -> None:
        """Leave no process and no memory behind."""
        self._stop_workers()
        for station in self._stations.values():
            station.close()
        self._unsent = set(self._snapshots)
        self._clock.close()
        super()._close()
        self._watched = None

    def state_dict(self) -> dict[str, Any]:
        """The server's state with pulls outstanding, and what its workers were handed beside the weights."""
        held = {
            worker: {name: tensor.clone() for name, tensor in self._buffers_of(worker).items()}
            for worker in self._snapshots
        }
        return {
            "server": self.job.server.state_dict(under_way=True),
            "clock": self._clock.state_dict(),
            "now": self.now,
            "gradients": dict(self._gradients),
            "lives": self._lives.state_dict(),
            "buffers": held,
        }

    def _buffers_of(self, worker: int) -> Mapping[str, Tensor]:
        """What a worker that computes was handed beside the weights: in its slot, once it is there."""
        station = self._stations.get(worker)
        return self._snapshots[worker].buffers if station is None else station.down.buffers

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave: each worker computes again what it computed then."""
        server = self.job.server
        server.load_state_dict(state["server"])
        self._clock.load_state_dict(state["clock"])
        self._lives.load_state_dict(state["lives"])
        self._gradients = {int(worker): number for worker, number in state["gradients"].items()}
        self._base, self._since = state["now"], perf_counter()
        self._begun = self._gathered = True
        for name, held in state["buffers"].items():
            self._snapshots[int(name)] = server.outstanding(int(name), dict(held))
        self._unsent = set(self._snapshots)
