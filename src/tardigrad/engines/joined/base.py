"""What both engines do whose workers may join from other machines: seat those that come, and part with those that go.

Workers are the same as ever; only where they live differs. An agent whose connection ends is lost at once, one that is
silent is waited for. Whoever comes takes a number that is vacant, or a new one.
"""

from __future__ import annotations

import selectors
from abc import abstractmethod
from typing import Any, TypeVar

from tardigrad.engines.base import Meeting, Stage
from tardigrad.engines.joined.greeting import Hello
from tardigrad.engines.joined.hall import Hall
from tardigrad.engines.joined.lodging import Placed
from tardigrad.engines.joined.reception import Arrival
from tardigrad.engines.joined.recruiting import Recruiter
from tardigrad.engines.local.base import ProcessEngine
from tardigrad.engines.local.keeper import Keeper
from tardigrad.errors import AllWorkersLost
from tardigrad.presence import MOST_WORKERS
from tardigrad.records import Failure

K = TypeVar("K", bound=Keeper)


class JoinedBase(ProcessEngine[K]):
    """Seats agents as workers."""

    _hall: Hall

    def __init__(self, job: Stage, *others: Any, **settings: Any) -> None:
        super().__init__(job, *others, **settings)
        self._expected: set[int] = set()  # live workers that have not come yet
        self._owed: set[int] = set()  # workers that were lost, and have not come back
        self._ever: set[int] = set(job.server.live)
        self._wished: int | None = None  # how many workers there may be; None: as many as come
        self._complete = False  # whether all have been here
        self._absent_at = float("inf")  # when those that have not come back count as absent
        self._spent: list[Failure] = []  # the last of each place that failed too often
        self._finished = False

    @classmethod
    def arranged(cls, meeting: Meeting) -> Meeting:
        """Where to listen, from what the run's configuration says."""
        return meeting

    @classmethod
    def recruiter(cls, meeting: Meeting, script: str = "") -> Recruiter | None:
        """Who brings workers; None: people do. ``script``: path of the file the run was started with; empty: a task."""
        return None

    @property
    def _meeting(self) -> Meeting:
        assert self.job.meeting is not None
        return self.arranged(self.job.meeting)

    # -- what differs ----------------------------------------------------------------------------------------

    @abstractmethod
    def _is_idle(self, station: K) -> bool:
        """Whether a worker has nothing under way."""

    # -- who comes -------------------------------------------------------------------------------------------

    def _receive(self, hall: Hall, expected: set[int]) -> None:
        """Let agents in from now on; these workers are awaited."""
        self._hall, self._expected = hall, expected
        self._lives.alone = False
        if self._complete:  # the run was taken up again: whoever is there goes on
            self._absent_at = self.now + self._meeting.reconnect_within
        hall.host = self
        self._selector.register(hall, selectors.EVENT_READ, hall.attend)

    def arrived(self, arrival: Arrival) -> None:
        """See `tardigrad.engines.joined.hall.Host`."""
        worker = None if self._hall.is_spent(arrival) or self._lives.over else self._number_for(arrival.hello)
        if worker is None:
            self._hall.keep_waiting(arrival)
            return
        self._ever.add(worker)
        self._expected.discard(worker)
        self._owed.discard(worker)
        self._hall.seat(arrival, worker, layout=self.job.server.layout.hash)
        if worker not in self.job.server.live:
            self._lives.join(self.now, worker)
        self._start(worker)
        self._start_ready()

    def _number_for(self, hello: Hello) -> int | None:
        """The number it had if that is vacant, else that of one who was lost, or the lowest vacant one, or a new one.

        None: there is no room.
        """
        live = self.job.server.live
        if self._expected:
            return hello.wants if hello.wants in self._expected else min(self._expected)
        if len(live) >= min(MOST_WORKERS, self._wished or MOST_WORKERS):
            return None
        if hello.wants in self._ever and hello.wants not in live:
            return hello.wants
        if self._owed:
            return min(self._owed)
        return next(number for number in range(len(live) + 1) if number not in live)

    def missed(self, worker: int) -> None:
        """See `tardigrad.engines.joined.hall.Host`."""
        self._note(f"{self._name(worker)} cannot be reached; waiting {self._meeting.reconnect_within:g} s")

    def reached(self, worker: int, seconds: float, *, moved: bool) -> None:
        """See `tardigrad.engines.joined.hall.Host`. A worker that only ever dials is not given more time for that."""
        if worker in self._stations and moved:
            self._stations[worker].postpone(seconds + self._hall.patience)
        if seconds:
            self._note(f"{self._name(worker)} is there again after {seconds:.1f} s")

    def broken(self, worker: int, why: str) -> None:
        """See `tardigrad.engines.joined.hall.Host`."""
        self._note(f"{self._name(worker)}: {why}")

    def _name(self, worker: int) -> str:
        placed = self._hall.placed(worker)
        return f"worker {worker}" if placed is None else f"worker {worker} ({placed.host})"

    def _note(self, words: str) -> None:
        for observer in self.job.observers:
            observer.noted(self.now, words)

    def _lodge(self, station: K) -> None:
        placed = self._hall.placed(station.worker)
        if placed is not None:
            station.lodging = placed

    def _all_came(self) -> bool:
        """Whether the run may begin."""
        self._complete = self._complete or not self._expected
        return self._complete

    # -- who goes --------------------------------------------------------------------------------------------

    def leaves(self, worker: int) -> None:
        """See `tardigrad.engines.joined.hall.Host`."""
        if worker in self._stations:
            self._see_off(self._stations[worker])

    def _is_leaving(self, station: K) -> bool:
        placed = self._hall.placed(station.worker)
        return placed is not None and placed.leaving

    def _read(self, station: K) -> None:
        super()._read(station)  # type: ignore[safe-super]
        if self._is_leaving(station):
            self._see_off(station)

    def _see_off(self, station: K) -> None:
        """Let a worker whose agent wants to leave go, once what it had under way is taken in."""
        placed, worker = self._hall.placed(station.worker), station.worker
        if placed is None or self._stations.get(worker) is not station or not self._is_idle(station):
            return
        placed.say_over({"words": "drained", "finished": False})
        self._stop(station, at_once=False)
        self._drop(worker)
        self._forget(station)
        self._lives.leave(self.now, worker, station.incarnation, "drained")
        self._start_ready()

    def _lost(self, station: K) -> None:
        placed = self._hall.placed(station.worker)
        if placed is None:
            super()._lost(station)
            self._require_hope()
            return
        failure, worker = self._failure_of(station), station.worker
        self._drop(worker)
        self._forget(station)
        if placed.refused:
            self._refused(placed, failure)
        elif not self._complete and placed.code is None:
            self._expected.add(worker)  # nothing has begun; another one may come
        else:
            self._owed.add(worker)
            self._lives.lost(self.now, failure, fatal=station.mistaken)
            self._note_failure(placed, failure)
        self._start_ready()

    def _refused(self, placed: Placed, failure: Failure) -> None:
        """An agent has found that it cannot compute this."""
        self._hall.turn_away(placed, placed.refused)
        self._note(f"{placed.host} takes no part: {placed.refused}")
        if self._complete:
            self._lives.leave(self.now, failure.worker, failure.incarnation, "refused")
        else:
            self._expected.add(failure.worker)

    def _note_failure(self, placed: Placed, failure: Failure) -> None:
        """Of places where workers fail again and again nothing is expected any more."""
        if placed.code is None or self._hall.failed(placed) <= self.job.limits.max_restarts:
            return
        self._hall.spend(placed)
        self._owed.discard(failure.worker)
        self._spent.append(failure)
        self._require_hope()

    def _require_hope(self) -> None:
        """Nobody left is no error as long as others may come, unless all that ever came raised."""
        server, lost = self.job.server, [*self._spent, *self._lives.last_failures]
        may_come = not self._hall.all_spent or any(failure.kind != "raised" for failure in lost)
        if server.live or self._lives.over or may_come or not lost:
            return
        raise AllWorkersLost(server.version, lost)

    def _forget(self, station: K) -> None:
        super()._forget(station)  # type: ignore[safe-super]
        self._hall.release(station.worker)

    # -- beside the loop -------------------------------------------------------------------------------------

    def _watch(self, station: K, now: float) -> None:
        placed = self._hall.placed(station.worker)
        if placed is None or not placed.is_cut_off:
            super()._watch(station, now)
        elif self._hall.is_given_up(placed):
            self._lost(station)

    def _look(self) -> None:
        super()._look()
        if self.now >= self._absent_at and self._stations:
            self._go_on_without()
        meeting = self._meeting
        for words in self._hall.tick(max((self._wished or meeting.workers) - meeting.own_workers, 0)):
            self._note(words)

    def _go_on_without(self) -> None:
        """Nobody waits any longer for those that have not come back to a run that was taken up again."""
        self._absent_at = float("inf")
        for worker in sorted(self._expected):
            self._drop(worker)
            incarnation = self.job.server.participants.record(worker).incarnation
            self._lives.leave(self.now, worker, incarnation, "absent")
        self._expected = set()
        self._start_ready()

    def _resize(self, wished: int) -> None:
        """Remove workers, or let more of those in that wait."""
        self._wished = wished
        super()._resize(min(wished, len(self.job.server.live)))
        live = self.job.server.live
        self._expected.intersection_update(live)
        self._owed = set(sorted(self._owed)[: max(0, wished - len(live))])
        self._start_ready()

    def _conclude(self) -> None:
        self._hall.dismiss(finished=True)
        super()._conclude()  # type: ignore[safe-super]
        self._finished = True

    def _close(self) -> None:
        """Leave no process, no memory and no thread behind."""
        hall = getattr(self, "_hall", None)
        if hall is not None:
            hall.dismiss(finished=self._finished)
        super()._close()
        if hall is not None:
            hall.close(finished=self._finished)
