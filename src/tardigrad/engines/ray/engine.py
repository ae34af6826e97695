"""The Ray engine of tasks: the server in this process, a hand of Ray for each worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tardigrad.engines.base import Job, Meeting
from tardigrad.engines.joined.engine import JoinedEngine
from tardigrad.engines.local.station import Station
from tardigrad.engines.ray.base import RayBase
from tardigrad.engines.ray.sharding import shard_actors
from tardigrad.shards.links import Opening


class RayEngine(RayBase[Station], JoinedEngine):
    """Workers that Ray places, watches and restarts."""

    goes_on_by: ClassVar[str] = "tardigrad train --resume {}"

    def __init__(self, job: Job) -> None:
        super().__init__(self._with_metrics(job))

    @classmethod
    def opening(cls, imports: Sequence[str], meeting: Meeting) -> Opening:
        """Actors, on other nodes where there are any; see the base class."""
        return shard_actors(imports, meeting)
