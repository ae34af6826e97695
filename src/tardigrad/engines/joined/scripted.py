"""The engine of scripts whose workers join from anywhere: the same answers as on one machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from tardigrad.engines.base import Meeting, Observer, Stage
from tardigrad.engines.joined.base import JoinedBase
from tardigrad.engines.joined.casting import JoinedCast
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.scripted import ScriptEngine
from tardigrad.engines.local.seat import Seat
from tardigrad.errors import SessionError
from tardigrad.records import Commit, Snapshot


class JoinedScriptEngine(JoinedBase[Seat], ScriptEngine):
    """Answers the workers of a script, wherever they are.

    Args:
        job, cast, *others, **settings: see `ScriptEngine`.
    """

    goes_on_by: ClassVar[str] = "the same line again, with the directory {}"

    def __init__(self, job: Stage, cast: Cast, *others: Any, **settings: Any) -> None:
        assert isinstance(cast, JoinedCast)
        super().__init__(job, cast, *others, **settings)
        self._cast: JoinedCast = cast
        self._has_ended = False

    @classmethod
    def casting(
        cls, meeting: Meeting, observers: Sequence[Observer], stop: Callable[[], bool] | None
    ) -> Callable[..., Cast]:
        """See `ScriptEngine`."""
        where = cls.arranged(meeting)
        recruiter = partial(cls.recruiter, where)
        return partial(JoinedCast, meeting=where, recruiter=recruiter, observers=observers, stop=stop)

    def _begin(self) -> None:
        self._receive(self._cast.hall, self._cast.expected)
        super()._begin()

    def _is_over(self) -> bool:
        """Nobody is left, and all is done; or scripts have ended, and nobody is awaited whose script has not."""
        if not self._lives.over and (not self._has_ended or self._awaits_others()):
            return False
        return super()._is_over()

    def _awaits_others(self) -> bool:
        """Whether workers are to come, or to come back."""
        return bool(self._owed) or (bool(self._expected) and self.now < self._absent_at)

    def _is_idle(self, station: Seat) -> bool:
        return station.wants != "" and not station.finished

    def _lost(self, station: Seat) -> None:
        if not station.finished:
            super()._lost(station)
            return
        placed = self._hall.placed(station.worker)
        if placed is not None:  # the run may be over before its agent could ask what comes next
            others = self._awaits_others() or any(not seat.finished for seat in self._stations.values())
            content = {"words": "its script has come to its end", "finished": True}
            placed.say_over(content | {"only_this": others and not self._lives.over})
        self._stop(station, at_once=station.hung)
        self._forget(station)

    def _prepare(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """A machine whose script prepares something else takes no part; a process of this one ends the run."""
        try:
            super()._prepare(seat, content, descriptors)
        except SessionError as error:
            placed = self._hall.placed(seat.worker)
            if placed is None:
                raise
            placed.refused = str(error)
            self._lost(seat)

    def _ended(self, seat: Seat) -> Commit | None:
        self._has_ended = True
        placed = self._hall.placed(seat.worker)
        if placed is not None:
            self._hall.spend(placed)  # to run a script to its end once is enough
        return super()._ended(seat)

    def _hand_out(self) -> list[tuple[int, Snapshot]]:
        return super()._hand_out() if self._all_came() else []

    def _may_go_on(self, seat: Seat) -> bool:
        return not self._is_leaving(seat)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `ScriptHost`; whoever does not come back in time takes part no longer."""
        super().load_state_dict(state)
        self._complete = True
