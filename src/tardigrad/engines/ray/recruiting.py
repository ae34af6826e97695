"""Recruiting: hands for the workers of a run are asked of Ray, watched, and asked for again when they are gone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tardigrad.engines.ray.cluster import Cluster, shortage
from tardigrad.engines.ray.hands import Errand, Hand, Report
from tardigrad.engines.ray.keeping import dismiss, give, take
from tardigrad.engines.ray.needs import Needs
from tardigrad.errors import InvalidArgument

_AT_ONCE = 3  # calls of a hand that may run at the same time: its errand, and words meanwhile
_REFUSALS = 3  # in a row after which a hand is given up
_PAUSE = 2.0  # seconds before one that was refused, or died, tries again
_PATIENCE = 20.0  # seconds after which it is said what Ray has not placed
_NEVER = float("inf")
_GOING = 5.0  # seconds for hands to end when the run is over


@dataclass(slots=True)
class _Post:
    """A hand, and what it is about."""

    number: int
    actor: Any
    errand: Any  # the reference to its report; None: it waits
    refusals: int = 0
    again_at: float = 0.0


class RayRecruiter:
    """Asks Ray for the hands of a run.

    Ray restarts a hand whose process died or whose node is gone, wherever there is room; here it is sent to work
    again. A hand whose node is to go is given back when its worker has left, and another asked for.

    Args:
        needs: of each worker.
        errand: all of it but address and secret.
        cluster: closed with it; None: that is the caller's to do.

    Attributes:
        words: what has happened, to be told and taken away.
    """

    def __init__(self, needs: Needs, errand: Errand, cluster: Cluster | None = None) -> None:
        self._needs, self._errand, self._cluster = needs, errand, cluster
        self.words: list[str] = []
        self._posts: list[_Post] = []
        self._group: PlacementGroup | None = None
        self._grouped = 0
        self._number = 0
        self._since, self._said = monotonic(), False

    def begin(self, address: str, secret: str, workers: int) -> None:
        """Ask for so many hands, which then work for this server."""
        self._errand = replace(self._errand, address=address, secret=secret)
        if self._needs.strategy != "default":
            self._group = placement_group(
                [self._needs.bundle] * workers, strategy=self._needs.strategy.upper().replace("-", "_")
            )
            self._grouped = workers
        self._since = monotonic()
        self._resize(workers)

    def tick(self, wanted: int) -> None:
        """See to the hands; ``wanted``: how many there are to be. Waits for nothing.

        Raises:
            InvalidArgument: every hand was refused again and again; the sentence says why.
        """
        self._resize(wanted)
        for post in self._posts:
            if post.errand is None and monotonic() >= post.again_at:
                self._send(post)
        working = {post.errand: post for post in self._posts if post.errand is not None}
        done, _ = ray.wait(list(working), num_returns=len(working), timeout=0) if working else ([], [])
        for errand in done:
            self._heard(working[errand])
        self._say_what_lacks()

    def move(self, address: str) -> None:
        """The server is somewhere else now."""
        self._errand = replace(self._errand, address=address)
        for post in self._posts:
            post.actor.move.remote(address)

    def close(self) -> None:
        """The run has ended: the hands end, at the latest after some seconds, and what was reserved is given back."""
        working = [post.errand for post in self._posts if post.errand is not None]
        done: list[Any] = []
        if working and ray.is_initialized():
            for post in self._posts:
                post.actor.leave.remote()
            done, _ = ray.wait(working, num_returns=len(working), timeout=_GOING)
        for post in self._posts:
            if post.errand in done and self._group is None:
                give(repr(self._needs), post.actor)
            else:
                dismiss(post.actor)
        self._posts = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
        if self._cluster is not None:
            self._cluster.close()

    # -- hands ---------------------------------------------------------------------------------------------------

    def _resize(self, wanted: int) -> None:
        while len(self._posts) > wanted:
            dismiss(self._posts.pop().actor)
        while len(self._posts) < wanted:
            self._number += 1
            post = _Post(self._number, self._actor(len(self._posts)), None)
            self._posts.append(post)
            self._send(post)

    def _actor(self, index: int) -> Any:
        """Ask for one; what was reserved for the first ones is theirs."""
        kept = None if self._group is not None else take(repr(self._needs))
        if kept is not None:
            return kept
        options = self._needs.options | {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": _AT_ONCE}
        if self._group is not None and index < self._grouped:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=index
            )
        return ray.remote(Hand).options(**options).remote()

    def _send(self, post: _Post) -> None:
        post.errand = post.actor.work.remote(self._errand)

    def _heard(self, post: _Post) -> None:
        """A hand has come back, or its process or node has died."""
        done, post.errand, post.again_at = post.errand, None, monotonic() + _PAUSE
        try:
            report: Report = ray.get(done)
        except RayTaskError as error:
            self._refused(post, f"a worker that Ray started raised {error.cause!r}.")
        except ActorDiedError:  # for good: another one
            self._replace(post)
        except RayError:
            pass  # Ray starts it again, here or elsewhere
        else:
            self._came_back(post, report)

    def _came_back(self, post: _Post, report: Report) -> None:
        if report.way == "drained":
            self.words.append(report.words)
            self._replace(post)
        elif report.way == "refused":
            self._refused(post, report.words)

    def _refused(self, post: _Post, words: str) -> None:
        self.words.append(words)
        post.refusals += 1
        if post.refusals == _REFUSALS:
            post.again_at = _NEVER
        if all(each.again_at == _NEVER for each in self._posts):
            raise InvalidArgument(f"{words} No worker that Ray started can take part.")

    def _replace(self, post: _Post) -> None:
        dismiss(post.actor)
        post.actor = self._actor(self._posts.index(post))
        self._send(post)

    def _say_what_lacks(self) -> None:
        """Once, where the cluster has less than what is asked for."""
        if self._said or monotonic() < self._since + _PATIENCE:
            return
        self._said = True
        short = self._needs.lacking(ray.cluster_resources(), len(self._posts))
        if short:
            lacks = f"the cluster has not all that was asked for, {shortage(short)} more would be needed"
            self.words.append(f"{lacks}; waiting for nodes")
