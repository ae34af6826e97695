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
from tardigrad.ledger import Ledger
from tardigrad.records import Commit, Snapshot
from tardigrad.session.link import Prepared


class JoinedScriptEngine(JoinedBase[Seat], ScriptEngine):
    """Answers the workers of a script, wherever they are.

    Args:
        job, cast, prepared, first, ledger, by_speed: see `ScriptEngine`.
    """

    goes_on_by: ClassVar[str] = "tardigrad serve SCRIPT --directory {}"

    def __init__(
        self,
        job: Stage,
        cast: Cast,
        prepared: Prepared,
        first: Seat,
        ledger: Ledger | None,
        *,
        by_speed: bool = False,
    ) -> None:
        assert isinstance(cast, JoinedCast)
        super().__init__(job, cast, prepared, first, ledger, by_speed=by_speed)
        self._cast: JoinedCast = cast
        self._has_ended = False

    @classmethod
    def casting(
        cls, meeting: Meeting, observers: Sequence[Observer], stop: Callable[[], bool] | None
    ) -> Callable[..., Cast]:
        """See `ScriptEngine`."""
        where = cls.arranged(meeting)
        return partial(JoinedCast, meeting=where, recruiter=cls.recruiter(where), observers=observers, stop=stop)

    def _begin(self) -> None:
        self._receive(self._cast.hall, self._cast.expected)
        super()._begin()

    def _is_over(self) -> bool:
        if not self._stations and not self._has_ended and not self._lives.over:
            return False  # others may come
        return super()._is_over()

    def _is_idle(self, station: Seat) -> bool:
        return station.wants != "" and not station.finished

    def _lost(self, station: Seat) -> None:
        if not station.finished:
            super()._lost(station)
            return
        placed = self._hall.placed(station.worker)
        if placed is not None:  # the run may be over before its agent could ask what comes next
            placed.say_over({"words": "its script has come to its end", "finished": True})
        self._stop(station, at_once=station.hung)
        self._forget(station)

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
