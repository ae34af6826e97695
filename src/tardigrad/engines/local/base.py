"""What every engine does whose workers are processes of this machine: wait for what comes, see to those that fail."""

from __future__ import annotations

import os
import selectors
import signal
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import ClassVar, Generic, Literal, TypeVar

from tardigrad.engines.base import BasicEngine, Meeting, Stage, View
from tardigrad.engines.lives import Lives
from tardigrad.engines.local.keeper import Keeper
from tardigrad.engines.local.sharding import shard_processes
from tardigrad.engines.local.timers import Timers
from tardigrad.errors import ProtocolError
from tardigrad.records import Commit, Failure, Held, Push, PushResult, Rejected, Snapshot
from tardigrad.shards.links import Opening

_TICK = 0.2  # seconds between looks at what does not announce itself
_STOOD_STILL = 2.0  # a longer gap between two looks: the machine or this process was stopped, not the workers

K = TypeVar("K", bound=Keeper)


class ProcessEngine(BasicEngine, Generic[K]):
    """Workers as processes of this machine, the server in this process."""

    has_processes: ClassVar[bool] = True

    @classmethod
    def opening(cls, imports: Sequence[str], meeting: Meeting) -> Opening:
        """Processes of this machine; see the base class."""
        return shard_processes(imports)

    def __init__(self, job: Stage) -> None:
        super().__init__(job)
        self._stations: dict[int, K] = {}
        self._lives = Lives(job, self._tell_commit)
        self._selector = selectors.DefaultSelector()
        self._timers = Timers()
        self._begun = False
        self._base, self._since = 0.0, perf_counter()
        self._looked = 0.0

    # -- what differs ----------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Start the workers, and whatever comes before the first turn."""

    @abstractmethod
    def _is_over(self) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def _conclude(self) -> None:
        """Everything is done: the last evaluation, and the end of the processes."""

    @abstractmethod
    def _read(self, station: K) -> None:
        """Take in what a worker says, which may have ended since, or that it has ended."""

    @abstractmethod
    def _start(self, worker: int) -> None:
        """Begin the present life of a worker that takes part."""

    def _lodge(self, station: K) -> None:
        """A life of this worker is about to begin: say where."""

    @abstractmethod
    def _drop(self, worker: int) -> None:
        """Forget what a worker that takes part no longer was computing."""

    @abstractmethod
    def _start_ready(self) -> None:
        """Every worker that may read and is there does."""

    @abstractmethod
    def _forget(self, station: K) -> None:
        """A worker is gone for good: give back what is kept for it."""

    @abstractmethod
    def _applied(self, now: float, commit: Commit) -> None:
        """A commit was told of; evaluate if it is time."""

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Train until every lease is finished or lost; see the base class. ``pause`` is asked at every turn."""
        try:
            self._looked = self.now
            self._begin()
            while not self._is_over():
                self._turn()
                if pause is not None and not self._is_over() and pause():
                    return False
            self._conclude()
            return True
        finally:
            self._close()

    @property
    def now(self) -> float:
        """Seconds of this run's clock, those before it was taken up again included."""
        return self._base + perf_counter() - self._since

    def _turn(self) -> None:
        """Wait for what comes first, and see to it."""
        patience = min(_TICK, max(0.0, self._timers.next_at - self.now))
        for key, _ in self._selector.select(patience):
            key.data()
        self._timers.run(self.now)
        if self.now - self._looked >= _TICK:
            self._look()

    def _look(self) -> None:
        """See to what does not announce itself: workers that hang, and wishes from outside."""
        now, gap = self.now, self.now - self._looked
        self._looked = now
        for station in list(self._stations.values()):
            if gap > _STOOD_STILL:
                station.postpone(gap)
            else:
                self._watch(station, now)
        steering = self.job.steering
        if steering is not None and (wished := steering.tick(now, self._view(now))) is not None:
            self._resize(wished)

    def _watch(self, station: K, now: float) -> None:
        """See whether a worker hangs."""
        if station.is_overdue(now):
            station.hung = True
            self._lost(station)

    def _listen(self, station: K) -> None:
        """Wait for what this worker says."""
        assert station.end is not None
        self._selector.register(station.end, selectors.EVENT_READ, partial(self._read, station))

    def _close(self) -> None:
        """Leave no process and no memory behind."""
        self._base, self._since = self.now, perf_counter()
        for station in list(self._stations.values()):
            self._stop(station, at_once=True)
        self._selector.close()
        self._selector, self._timers = selectors.DefaultSelector(), Timers()

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

    def _tell_pulls(self, now: float, handed: Sequence[tuple[int, Snapshot]]) -> None:
        for worker, snapshot in handed:
            for observer in self.job.observers:
                observer.pulled(now, worker, snapshot)

    def _tell_commit(self, now: float, commit: Commit) -> None:
        for part in commit.contributions:
            if part.worker in self._stations:
                self._stations[part.worker].committed(commit.version - 1 - part.read_version)
        for observer in self.job.observers:
            observer.committed(now, commit)
        self._applied(now, commit)
        if self.job.faults.server_dies(commit.version, life=self.job.life):
            os.kill(os.getpid(), signal.SIGKILL)

    # -- workers come and go ---------------------------------------------------------------------------------

    def _lost(self, station: K) -> None:
        """A worker's process has ended, or is ended because it hangs: its lease goes back, and it may begin anew."""
        failure = self._failure_of(station)
        self._drop(station.worker)
        if self._lives.failed(self.now, failure, fatal=station.mistaken):
            self._start(station.worker)
        else:
            self._forget(station)
        self._start_ready()

    def _garbled(self, station: K, error: ProtocolError) -> None:
        """A worker has said something that no worker says: it counts as lost."""
        for observer in self.job.observers:
            observer.noted(self.now, f"worker {station.worker}: {error}")
        self._lost(station)

    def _failure_of(self, station: K) -> Failure:
        """End what is left of a worker's process; what happened to it."""
        code = self._stop(station, at_once=station.hung)
        kind: Literal["died", "raised", "hung"] = "died"
        if station.hung or station.traceback:
            kind = "hung" if station.hung else "raised"
        return Failure(station.worker, station.incarnation, kind, self.job.server.version, code, station.traceback)

    def _resize(self, wished: int) -> None:
        """Add workers, lowest free number first, or remove those of the highest numbers."""
        live = self.job.server.live
        for worker in live[wished:]:
            incarnation = self.job.server.participants.record(worker).incarnation
            if worker in self._stations:  # else it has come to its end, or not come yet
                self._stop(self._stations[worker], at_once=True)
                self._forget(self._stations[worker])
            self._drop(worker)
            self._lives.leave(self.now, worker, incarnation, "removed")
        free = (number for number in range(len(live) + wished) if number not in live)
        for worker in [next(free) for _ in range(wished - len(live))]:
            self._lives.join(self.now, worker)
            self._start(worker)
        self._start_ready()

    def _stop(self, station: K, *, at_once: bool) -> int | None:
        if station.end is not None:
            self._selector.unregister(station.end)
        return station.stop(at_once=at_once)

    def _view(self, now: float) -> View:
        server, samples = self.job.server, self.job.server.samples_applied
        workers = [self._stations[worker].view(now) for worker in sorted(self._stations)]
        return View(server.version, samples, samples / self.job.samples_per_epoch, now, workers)
