"""The Ray engine of scripts: the server in the process that was started, a hand of Ray for each worker."""

from __future__ import annotations

from typing import Any, ClassVar

from tardigrad.engines.base import Stage
from tardigrad.engines.joined.scripted import JoinedScriptEngine
from tardigrad.engines.local.seat import Seat
from tardigrad.engines.ray.base import RayBase


class RayScriptEngine(RayBase[Seat], JoinedScriptEngine):
    """Workers that Ray places, watches and restarts.

    Args:
        job, *others, **settings: see `ScriptEngine`.
    """

    goes_on_by: ClassVar[str] = "tardigrad run --engine ray --directory {} SCRIPT"

    def __init__(self, job: Stage, *others: Any, **settings: Any) -> None:
        super().__init__(self._with_metrics(job), *others, **settings)
