"""The Ray engine of scripts: the server in the process that was started, a hand of Ray for each worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from tardigrad.engines.base import Meeting, Observer, Stage
from tardigrad.engines.joined.casting import JoinedCast
from tardigrad.engines.joined.facts import ScriptMark
from tardigrad.engines.joined.scripted import JoinedScriptEngine
from tardigrad.engines.local.acting import Role
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.seat import Seat
from tardigrad.engines.ray.base import RayBase, recruiter_for
from tardigrad.ledger import Ledger
from tardigrad.session.link import Prepared
from tardigrad.session.scripts import Script


class RayScriptEngine(RayBase[Seat], JoinedScriptEngine):
    """Workers that Ray places, watches and restarts.

    Args:
        job, cast, prepared, first, ledger, by_speed: see `ScriptEngine`.
    """

    goes_on_by: ClassVar[str] = "tardigrad run --engine ray --directory {} SCRIPT"

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
        super().__init__(self._with_metrics(job), cast, prepared, first, ledger, by_speed=by_speed)

    @classmethod
    def casting(
        cls, meeting: Meeting, observers: Sequence[Observer], stop: Callable[[], bool] | None
    ) -> Callable[..., Cast]:
        """See `ScriptEngine`."""
        where = cls.arranged(meeting)

        def cast(role: Role, lives: Mapping[int, int], **settings: Any) -> Cast:
            assert isinstance(role, Script)
            recruiter = recruiter_for(where, ScriptMark.of(role).path)
            return JoinedCast(
                role, lives, meeting=where, recruiter=recruiter, observers=observers, stop=stop, **settings
            )

        return cast
