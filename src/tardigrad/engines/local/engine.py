"""The local engine: the server in this process, each worker in one of its own, shared memory in between.

One loop waits for answers. A push is committed straight from the worker's up slot, in one pass that also writes the
worker's down slot; the order to compute the next gradient follows before anything is recorded. Nobody but this
process writes weights, so a worker that dies, at whatever instant, takes nothing with it but its own gradient.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, ClassVar

from tardigrad.blueprint import Blueprint
from tardigrad.buffers import copy_into
from tardigrad.engines.base import Engine, Job, View
from tardigrad.engines.lives import Lives
from tardigrad.engines.local.judging import EvaluationsBeside
from tardigrad.engines.local.mischief import bring_about
from tardigrad.engines.local.nursery import prepare
from tardigrad.engines.local.places import device_of, require_no_child, require_startable
from tardigrad.engines.local.processes import Duty
from tardigrad.engines.local.station import Station
from tardigrad.engines.local.timers import Timers
from tardigrad.engines.probing import probed
from tardigrad.errors import Diverged, InvalidArgument
from tardigrad.faults import Fault
from tardigrad.records import Commit, Failure, Held, Push, PushResult, Rejected, Snapshot
from tardigrad.transports.slots import FAULTS, Order, Pushed, Raised, Ready, SlotLayout

_TICK = 0.2  # seconds between looks at what does not announce itself
_STOOD_STILL = 2.0  # a longer gap between two looks: the machine or this process was stopped, not the workers


class LocalEngine(Engine):
    """Workers as processes on this machine."""

    has_processes: ClassVar[bool] = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        require_startable(job)
        server = job.server
        self._layout = SlotLayout.of(server.layout, server.buffers.combined(server.live))
        self._stations: dict[int, Station] = {}
        self._snapshots: dict[int, Snapshot] = {}  # what each worker that computes computes on
        self._gradients: dict[int, int] = {}  # orders given to each worker, over all its lives
        self._unsent: set[int] = set()  # workers that hold a snapshot of before the run was taken up again
        self._clock = EvaluationsBeside(job)
        self._lives = Lives(job, self._tell_commit)
        self._selector = selectors.DefaultSelector()
        self._timers = Timers()
        self._begun = self._gathered = False
        self._base, self._since = 0.0, perf_counter()
        self._looked = 0.0
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

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Train until every lease is finished or lost; see the base class. ``pause`` is asked at every turn."""
        try:
            self._begin()
            while not self._is_over():
                self._turn()
                if pause is not None and not self._is_over() and pause():
                    return False
            self._stop_workers()
            self._clock.finish(self.now)
            self._clock.wait()
            return True
        finally:
            self._close()

    @property
    def now(self) -> float:
        """Seconds of this run's clock, those before it was taken up again included."""
        return self._base + perf_counter() - self._since

    def _begin(self) -> None:
        server, now = self.job.server, self.now
        self._looked = now
        self._lives.revive(now)
        for worker in server.live:
            self._start(worker)
        if not self._begun:
            self._begun = True
            self._clock.evaluate(0.0)

    def _is_over(self) -> bool:
        return not self._snapshots and not self.job.server.ready()

    def _turn(self) -> None:
        """Wait for what comes first, and see to it."""
        patience = min(_TICK, max(0.0, self._timers.next_at - self.now))
        for key, _ in self._selector.select(patience):
            if key.data is None:
                self._clock.receive()
                self._watch_judge()
            else:
                self._read(key.data)
        self._timers.run(self.now)
        self._watch_judge()
        if self.now - self._looked >= _TICK:
            self._look()

    def _look(self) -> None:
        """See to what does not announce itself: workers that hang, and wishes from outside."""
        now, gap = self.now, self.now - self._looked
        self._looked = now
        for station in list(self._stations.values()):
            if gap > _STOOD_STILL:
                station.postpone(gap)
            elif station.is_overdue(now):
                station.hung = True
                self._lost(station)
        steering = self.job.steering
        if steering is not None and (wished := steering.tick(now, self._view(now))) is not None:
            self._resize(wished)

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
            if station is None or not station.is_free:
                continue
            snapshot = server.pull(worker, copy=False)
            if snapshot.lease is None:
                continue
            copy_into(station.down.buffers, snapshot.buffers)
            self._snapshots[worker] = snapshot
            handed.append((worker, snapshot))
            self._gradients[worker] = self._gradients.get(worker, 0) + 1
            self._send(station, snapshot, self.job.faults.due(worker, self._gradients[worker]))
        return handed

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

    # -- telling ---------------------------------------------------------------------------------------------

    def _tell(self, now: float, push: Push, result: PushResult) -> None:
        if isinstance(result, Commit):
            self._tell_commit(now, result)
            return
        for observer in self.job.observers:
            if isinstance(result, Rejected):
                observer.rejected(now, push, result)
            elif isinstance(result, Held):
                observer.held(now, push, result)

    def _tell_commit(self, now: float, commit: Commit) -> None:
        for part in commit.contributions:
            if part.worker in self._stations:
                self._stations[part.worker].committed(commit.version - 1 - part.read_version)
        for observer in self.job.observers:
            observer.committed(now, commit)
        self._clock.committed(now, commit)
        if self.job.faults.server_dies(commit.version, life=self.job.life):
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell_pulls(self, now: float, handed: list[tuple[int, Snapshot]]) -> None:
        for worker, snapshot in handed:
            for observer in self.job.observers:
                observer.pulled(now, worker, snapshot)

    # -- workers come and go ---------------------------------------------------------------------------------

    def _start(self, worker: int) -> None:
        """Begin the present life of a worker that takes part."""
        station = self._stations.get(worker)
        if station is None or station.is_closed:
            station = self._stations[worker] = Station(self._duty(worker), self._layout)
        self.job.server.backups.keep_in(worker, station.down.flat)
        if worker in self._unsent:  # of before the run was taken up again: the buffers it was handed move into the slot
            copy_into(station.down.buffers, self._snapshots[worker].buffers)
        station.start(self.job.server.participants.record(worker).incarnation, self.now, self.job.limits)
        assert station.end is not None
        self._watch_judge()  # a number that it gave up may be used again here
        self._selector.register(station.end, selectors.EVENT_READ, station)

    def _lost(self, station: Station) -> None:
        """A worker's process has ended, or is ended because it hangs: its lease goes back, and it may begin anew."""
        code = self._stop(station, at_once=station.hung)
        kind = "hung" if station.hung else "raised" if station.traceback else "died"
        version = self.job.server.version
        failure = Failure(station.worker, station.incarnation, kind, version, code, station.traceback)  # type: ignore[arg-type]
        self._snapshots.pop(station.worker, None)
        self._unsent.discard(station.worker)
        if self._lives.failed(self.now, failure):
            self._start(station.worker)
        else:
            self._forget(station)
        self._start_ready()

    def _resize(self, wished: int) -> None:
        """Add workers, lowest free number first, or remove those of the highest numbers."""
        live = self.job.server.live
        for worker in live[wished:]:
            station = self._stations[worker]
            self._stop(station, at_once=True)
            self._snapshots.pop(worker, None)
            self._unsent.discard(worker)
            self._forget(station)
            self._lives.leave(self.now, worker, station.incarnation, "removed")
        free = (number for number in range(len(live) + wished) if number not in live)
        for worker in [next(free) for _ in range(wished - len(live))]:
            self._lives.join(self.now, worker)
            self._start(worker)
        self._start_ready()

    def _stop(self, station: Station, *, at_once: bool) -> int | None:
        if station.end is not None:
            self._selector.unregister(station.end)
        return station.stop(at_once=at_once)

    def _forget(self, station: Station) -> None:
        station.close()
        self._stations.pop(station.worker, None)

    def _duty(self, worker: int) -> Duty:
        blueprint, speeds = self.job.blueprint, self.job.speeds
        assert blueprint is not None
        device = device_of(worker, str(blueprint.arithmetic.device))
        return Duty(worker, blueprint.on(device), speeds[worker] if worker < len(speeds) else 1.0)

    def _view(self, now: float) -> View:
        server, samples = self.job.server, self.job.server.samples_applied
        workers = [self._stations[worker].view(now) for worker in sorted(self._stations)]
        return View(server.version, samples, samples / self.job.samples_per_epoch, now, workers)

    # -- evaluations -----------------------------------------------------------------------------------------

    def _watch_judge(self) -> None:
        """Wait for the process that evaluates too: one is started with the first evaluation, and again if it ends."""
        connection = self._clock.connection
        if connection is self._watched:
            return
        if self._watched is not None:
            self._selector.unregister(self._watched_number)  # by number: it is closed by now
        if connection is not None:
            self._watched_number = connection.fileno()
            self._selector.register(self._watched_number, selectors.EVENT_READ, None)
        self._watched = connection

    # -- the end, and the state ------------------------------------------------------------------------------

    def _stop_workers(self) -> None:
        """End every worker's process; one that computes has nothing left to say."""
        for station in self._stations.values():
            self._stop(station, at_once=station.worker in self._snapshots)

    def _close(self) -> None:
        """Leave no process and no memory behind."""
        self._base, self._since = self.now, perf_counter()
        self._stop_workers()
        for station in self._stations.values():
            station.close()
        self._unsent = set(self._snapshots)
        self._clock.close()
        self._selector.close()
        self._selector, self._timers, self._watched = selectors.DefaultSelector(), Timers(), None

    def state_dict(self) -> dict[str, Any]:
        """The server's state with pulls outstanding, and what its workers were handed beside the weights."""
        held = {
            worker: {name: tensor.clone() for name, tensor in self._stations[worker].down.buffers.items()}
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
