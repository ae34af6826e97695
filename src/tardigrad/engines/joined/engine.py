"""The joined engine: the server in this process, workers on any machine that holds the secret.

It is the local engine: the same loop, slots and messages. A worker that lives with an agent has its slots here too, and
a bridge carries between them and those on its own machine; see `tardigrad.transports.bridge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tardigrad.engines.base import Job
from tardigrad.engines.joined.base import JoinedBase
from tardigrad.engines.joined.facts import Facts
from tardigrad.engines.joined.greeting import blueprint_json
from tardigrad.engines.joined.hall import Hall
from tardigrad.engines.joined.office import office_of
from tardigrad.engines.local.engine import LocalEngine
from tardigrad.engines.local.station import Station
from tardigrad.errors import InvalidArgument


class JoinedEngine(JoinedBase[Station], LocalEngine):
    """Workers that join from anywhere, and processes of this machine beside them."""

    goes_on_by: ClassVar[str] = "tardigrad serve --resume {}"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if job.meeting is None:
            raise InvalidArgument("this engine needs a run directory, where it is said how workers join.")
        assert job.blueprint is not None
        blueprint_json(job.blueprint)  # a task that no other machine can build is refused here

    def _begin(self) -> None:
        blueprint, meeting = self.job.blueprint, self._meeting
        assert blueprint is not None
        facts = Facts.own(blueprint.imports)
        own = self._own_ones
        expected = set(self.job.server.live) - set(own)
        hall = self._hall = Hall(meeting, facts, self.recruiter(meeting), len(expected))
        hall.office = office_of(self.job.server, meeting.listen, hall.credentials, hall.lose_shard)
        self._receive(hall, expected)
        for observer in self.job.observers:
            observer.invited(self.now, hall.invitation)
        super()._begin()

    @property
    def _own_ones(self) -> list[int]:
        """Workers that are processes of this machine: those of the lowest numbers."""
        return self.job.server.live[: self._meeting.own_workers]

    def _first_ones(self) -> list[int]:
        return self._own_ones

    def _is_over(self) -> bool:
        return super()._is_over() and (bool(self.job.server.live) or self._lives.over)

    def _is_idle(self, station: Station) -> bool:
        return station.worker not in self._snapshots

    def _may_take(self, station: Station) -> bool:
        return station.is_free and not self._is_leaving(station)

    def _all_here(self) -> bool:
        return self._all_came() and super()._all_here()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LocalEngine`; whoever does not come back in time takes part no longer."""
        super().load_state_dict(state)
        self._complete = True
