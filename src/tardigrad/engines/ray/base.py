"""What both Ray engines do: find the cluster, have its hands come as agents, and tell Ray how the run goes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TypeVar

from tardigrad.engines.base import Job, Meeting, Stage
from tardigrad.engines.joined.base import JoinedBase
from tardigrad.engines.joined.recruiting import Recruiter
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.local.keeper import Keeper
from tardigrad.engines.ray.announcing import Announcer, board_here
from tardigrad.engines.ray.cluster import any_port, let_go, reached
from tardigrad.engines.ray.hands import Errand
from tardigrad.engines.ray.metrics import RayMetrics
from tardigrad.engines.ray.needs import Needs
from tardigrad.engines.ray.recruiting import RayRecruiter

K = TypeVar("K", bound=Keeper)
J = TypeVar("J", Stage, Job)
_NOT_SAID = "127.0.0.1:0"  # where a run listens unless something else is said


class RayBase(JoinedBase[K]):
    """Seats Ray's hands as workers."""

    _metrics: RayMetrics
    _where: Meeting

    @classmethod
    def arranged(cls, meeting: Meeting) -> Meeting:
        """Listen where the cluster's nodes reach this process, unless something else was said."""
        address = any_port(reached(meeting).ip)
        return replace(meeting, listen=address) if meeting.listen == _NOT_SAID else meeting

    @classmethod
    def recruiter(cls, meeting: Meeting, script: str = "") -> Recruiter | None:
        """Ray brings the workers."""
        return recruiter_for(meeting, script)

    @property
    def _meeting(self) -> Meeting:
        return self._where

    def _with_metrics(self, job: J) -> J:
        """The job with Ray told of it too."""
        assert job.meeting is not None
        self._where = self.arranged(job.meeting)
        self._metrics = RayMetrics(job.meeting.directory.name, lambda: len(job.server.live))
        return replace(job, observers=[*job.observers, self._metrics])

    def _close(self) -> None:
        self._metrics.tell(self.now)
        try:
            super()._close()
        finally:
            let_go()


def recruiter_for(meeting: Meeting, script: str = "") -> Recruiter:
    """Who brings the workers of a run; ``script``: path of the file it was started with, empty for a task."""
    board = board_here()
    if board is not None:
        board.require(meeting)
        return Announcer(board, trusted=meeting.trusted_network)
    needs = Needs.parse(meeting.ray)
    errand = Errand(means_of(needs, meeting.data_dir, script), trusted=meeting.trusted_network)
    return RayRecruiter(needs, errand, reached(meeting))


def means_of(needs: Needs, data_dir: str, script: str) -> Means:
    """What a hand has for its worker."""
    found = script_path(needs, script) if script else ""
    return Means(device="cuda" if needs.num_gpus else "cpu", data_dir=data_dir, script=found)


def script_path(needs: Needs, path: str) -> str:
    """Where actors find a script: by the same path; below a ``working_dir`` that Ray brings to them, in that."""
    folder = needs.runtime_env.get("working_dir", "")
    if not folder or "://" in folder:
        return os.path.basename(path) if folder else path
    within = os.path.relpath(path, folder)
    return path if within.startswith("..") else within
