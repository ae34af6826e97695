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
from tardigrad.engines.ray.cluster import reached
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
        ip = reached(meeting).ip
        address = f"[{ip}]:0" if ":" in ip else f"{ip}:0"
        return replace(meeting, listen=address) if meeting.listen == _NOT_SAID else meeting

    @classmethod
    def recruiter(cls, meeting: Meeting) -> Recruiter | None:
        """Ray brings the workers."""
        return recruiter_for(meeting)

    @property
    def _meeting(self) -> Meeting:
        return self._where

    def _with_metrics(self, job: J) -> J:
        """The job with Ray told of it too."""
        assert job.meeting is not None
        self._where = self.arranged(job.meeting)
        self._metrics = RayMetrics(job.meeting.directory.name, lambda: len(job.server.live))
        return replace(job, observers=[*job.observers, self._metrics])

    def _look(self) -> None:
        super()._look()
        recruiter = self._hall.recruiter
        if isinstance(recruiter, RayRecruiter):
            words, recruiter.words = recruiter.words, []
            for word in words:
                for observer in self.job.observers:
                    observer.noted(self.now, word)

    def _close(self) -> None:
        self._metrics.tell(self.now)
        super()._close()


def recruiter_for(meeting: Meeting, script: str = "") -> Recruiter:
    """Who brings the workers of a run; ``script``: path of the file it was started with, empty for a task."""
    board = board_here()
    if board is not None:
        return Announcer(board)
    needs = Needs.parse(meeting.ray)
    return RayRecruiter(needs, Errand(means_of(needs, meeting.data_dir, script)), reached(meeting).hold())


def means_of(needs: Needs, data_dir: str, script: str) -> Means:
    """What a hand has for its worker."""
    folder = needs.runtime_env.get("working_dir", "")
    return Means(
        device="cuda" if needs.num_gpus else "cpu", data_dir=data_dir, script=_within(folder, script) if script else ""
    )


def _within(folder: str, path: str) -> str:
    """Where workers find a script: by the same path; below a ``working_dir`` that Ray brings to them, in that."""
    if not folder or "://" in folder:
        return os.path.basename(path) if folder else path
    within = os.path.relpath(path, folder)
    return path if within.startswith("..") else within
