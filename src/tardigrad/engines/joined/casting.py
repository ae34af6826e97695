"""Casting of a script's workers that live with agents; own processes of this machine beside them."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from tardigrad.engines.base import Meeting, Observer
from tardigrad.engines.joined.facts import Facts, ScriptMark
from tardigrad.engines.joined.hall import Hall
from tardigrad.engines.joined.reception import Arrival
from tardigrad.engines.joined.recruiting import Recruiter
from tardigrad.engines.local.acting import Role
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.seat import Seat
from tardigrad.errors import WorkerFailed
from tardigrad.session.link import Prepared
from tardigrad.session.scripts import Script

_TICK = 0.2  # seconds between looks at what does not announce itself


class JoinedCast(Cast):
    """The workers of a script, most of them with agents.

    Args:
        role, lives, **settings: see `Cast`.
        meeting: how agents reach the run.
        recruiter: who brings them, made from the script's path; None: people do.
        observers: told how to join, and what the recruiter says.
        stop: asked while nobody has come yet; True: KeyboardInterrupt.

    Attributes:
        hall: of the agents.
        expected: workers that have not come yet.
    """

    def __init__(
        self,
        role: Role,
        lives: Mapping[int, int],
        *,
        meeting: Meeting,
        recruiter: Callable[[str], Recruiter | None],
        observers: Sequence[Observer],
        stop: Callable[[], bool] | None,
        **settings: Any,
    ) -> None:
        assert isinstance(role, Script)
        own = sorted(lives)[: meeting.own_workers]
        self._lives_of, self._stop, self._observers = dict(lives), stop, observers
        self.expected = set(lives) - set(own)
        self._wanted, mark = len(self.expected), ScriptMark.of(role)
        self.hall = Hall(meeting, Facts.own((), mark), recruiter(mark.path), self._wanted)
        for observer in observers:
            observer.invited(0.0, self.hall.invitation)
        self._prepared: tuple[Prepared, Seat] | None = None
        try:
            super().__init__(role, {worker: lives[worker] for worker in own}, **settings)
        except BaseException:
            self.hall.close(finished=False)
            raise

    def _lodge(self, seat: Seat) -> None:
        placed = self.hall.placed(seat.worker)
        if placed is not None:
            seat.lodging = placed

    def first(self) -> tuple[Prepared, Seat]:
        """See `Cast`; agents are let in meanwhile. One that is lost is no failure yet: another may come."""
        self.hall.host = self
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self.hall, selectors.EVENT_READ, self.hall.attend)
            for seat in self.seats.values():
                self._listen(seat)
            while self._prepared is None:
                for key, _ in self._selector.select(_TICK):
                    key.data()
                self._look()
        self.hall.host = None
        return self._prepared

    # -- see tardigrad.engines.joined.hall.Host ----------------------------------------------------------------

    def arrived(self, arrival: Arrival) -> None:
        """Seat it as one of those that are expected."""
        if not self.expected:
            self.hall.keep_waiting(arrival)
            return
        wants = arrival.hello.wants
        worker = wants if wants in self.expected else min(self.expected)
        assert worker is not None
        self.expected.discard(worker)
        self.hall.seat(arrival, worker)
        self._listen(self.start(worker, self._lives_of[worker], now=0.0))

    def missed(self, worker: int) -> None:
        """Nothing depends on it yet."""

    def reached(self, worker: int, seconds: float, *, moved: bool) -> None:
        """Nothing depends on it yet."""

    def broken(self, worker: int, why: str) -> None:
        """Said as it is; another may come."""
        self._note(f"worker {worker}: {why}")

    def leaves(self, worker: int) -> None:
        """Nothing has begun: it may go at once."""
        placed = self.hall.placed(worker)
        if placed is not None:
            placed.say_over({"words": "drained", "finished": False})
            placed.hang_up()

    # -- inside ----------------------------------------------------------------------------------------------

    def start(self, worker: int, incarnation: int, *, now: float) -> Seat:
        """See `Cast`."""
        if not self.seats:
            self._since = perf_counter()  # nobody is late who has not begun
        return super().start(worker, incarnation, now=now)

    def _listen(self, seat: Seat) -> None:
        assert seat.end is not None
        self._selector.register(seat.end, selectors.EVENT_READ, partial(self._hear, seat))

    def _hear(self, seat: Seat) -> None:
        if self._prepared is not None or seat.end is None:
            return
        end = seat.end
        try:
            found = self._asked(seat)
        except WorkerFailed as error:
            self._selector.unregister(end)
            self._lost(seat, error)
        else:
            self._prepared = None if found is None else (found, seat)

    def _lost(self, seat: Seat, error: WorkerFailed) -> None:
        """A worker has ended before it prepared: an agent that is gone makes room for another."""
        placed = self.hall.placed(seat.worker)
        if placed is None or seat.traceback or (placed.code is not None and not placed.refused):
            raise error
        if placed.refused:
            self.hall.turn_away(placed, placed.refused)
        self.hall.release(seat.worker)
        seat.close()
        del self.seats[seat.worker]
        self.expected.add(seat.worker)

    def _note(self, words: str) -> None:
        for observer in self._observers:
            observer.noted(0.0, words)

    def _look(self) -> None:
        if self._stop is not None and self._stop():
            raise KeyboardInterrupt
        for words in self.hall.tick(self._wanted):
            self._note(words)
        for worker, seat in list(self.seats.items()):
            placed = self.hall.placed(worker)
            if placed is not None and self.hall.is_given_up(placed) and seat.end is not None:
                placed.hang_up()
        if self.seats and self._prepared is None:
            self._require_in_time()

    def dismiss(self) -> None:
        """See `Cast`."""
        self.hall.dismiss(finished=False)
        super().dismiss()
        self.hall.close(finished=False)
