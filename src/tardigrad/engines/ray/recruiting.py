"""Recruiting: hands for the workers of a run are asked of Ray, watched, and asked for again when they are gone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tardigrad.engines.ray.cluster import Cluster, let_go, shortage
from tardigrad.engines.ray.hands import Errand, Hand, Report
from tardigrad.engines.ray.keeping import dismiss, give, take
from tardigrad.engines.ray.needs import Needs
from tardigrad.errors import InvalidArgument

_AT_ONCE = 3  # calls of a hand that may run at the same time: its errand, and words meanwhile
_REFUSALS = 3  # in a row after which a hand is given up
_PAUSE = 2.0  # seconds before one that was refused, or died, tries again
_PATIENCE = 20.0  # seconds after which it is said what Ray has not placed
_PARTING = 10.0  # seconds in which a worker that is one too many may come to its end
_NEVER = float("inf")
_GOING = 5.0  # seconds for hands to end when the run is over


@dataclass(slots=True)
class _Post:
    """A hand, and what it is about."""

    bundle: int | None  # of the group, which is kept for it; None: it is placed without
    actor: Any = None  # None: there is none now
    here: Any = None  # the reference to its first answer: it has been placed
    errand: Any = None  # the reference to its report; None: it waits
    idle: Any = None  # the reference to whether it has nothing to do; None: not asked
    refusals: int = 0  # in a row
    again_at: float = 0.0


class RayRecruiter:
    """Asks Ray for the hands of a run.

    Ray restarts a hand whose process died or whose node is gone, wherever there is room; here it is sent to work
    again. A hand whose node is to go is given back when its worker has left, and another asked for. One that cannot
    even begin is asked for again some times.

    Args:
        needs: of each worker.
        errand: all of it but address and secret.
        cluster: needed from `begin` to `close`.

    Attributes:
        words: what has happened, to be told and taken away.
    """

    def __init__(self, needs: Needs, errand: Errand, cluster: Cluster) -> None:
        self._needs, self._errand, self._cluster = needs, errand, cluster
        self.words: list[str] = []
        self._posts: list[_Post] = []
        self._group: PlacementGroup | None = None
        self._grouped = 0
        self._holds = False
        self._since, self._said = monotonic(), False
        self._too_many_since: float | None = None

    def begin(self, address: str, secret: str, workers: int, *, trusted: bool | None = None) -> None:
        """Ask for so many hands, which then work for this server; ``trusted``: see `Errand`, None: as that says.

        Raises:
            InvalidArgument: a cluster of its own will never have so many.
        """
        self._cluster.hold()
        self._holds = True
        self._cluster.require_workers(self._needs, workers)
        trusted = self._errand.trusted if trusted is None else trusted
        self._errand = replace(self._errand, address=address, secret=secret, trusted=trusted)
        if self._needs.strategy != "default" and workers:
            self._group = placement_group(
                [self._needs.bundle] * workers, strategy=self._needs.strategy.upper().replace("-", "_")
            )
            self._grouped = workers
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
            if post.actor is not None:
                post.actor.move.remote(address)

    def close(self) -> None:
        """The run has ended, or was stopped: the hands end, at the latest after some seconds, and what was reserved
        is given back."""
        working = [post.errand for post in self._posts if post.errand is not None]
        done: list[Any] = []
        if working and ray.is_initialized():
            for post in self._posts:
                if post.actor is not None:
                    post.actor.leave.remote()
            done, _ = ray.wait(working, num_returns=len(working), timeout=_GOING)
        for post in self._posts:
            if post.errand in done and self._group is None:
                give(repr(self._needs), post.actor)
            else:
                self._end(post)
        self._posts = []
        if self._group is not None and ray.is_initialized():
            remove_placement_group(self._group)
        self._group = None
        if self._holds:
            self._holds = False
            self._cluster.close()
        let_go()

    # -- as many as are wanted -----------------------------------------------------------------------------------

    def _resize(self, wanted: int) -> None:
        if len(self._posts) < wanted:
            self._since, self._said = monotonic(), False
        while len(self._posts) < wanted:
            self._posts.append(_Post(self._free_bundle()))
            self._send(self._posts[-1])
        if len(self._posts) > wanted:
            self._shrink(len(self._posts) - wanted)
        else:
            self._too_many_since = None

    def _free_bundle(self) -> int | None:
        taken = {post.bundle for post in self._posts}
        return next((number for number in range(self._grouped) if number not in taken), None)

    def _shrink(self, too_many: int) -> None:
        """End those that have nothing to do; others only if no worker comes to its end for some seconds."""
        if self._too_many_since is None:
            self._too_many_since = monotonic()
        gone = [post for post in reversed(self._posts) if self._is_idle(post)][:too_many]
        if monotonic() >= self._too_many_since + _PARTING:
            gone += [post for post in reversed(self._posts) if post not in gone][: too_many - len(gone)]
        for post in gone:
            self._posts.remove(post)
            self._end(post)

    def _is_idle(self, post: _Post) -> bool:
        """Whether it has not begun, or has said that it has nothing to do; the next time asked anew."""
        if post.actor is None or post.errand is None or not _is_there(post.here):
            return True
        asked, post.idle = post.idle, post.idle or post.actor.is_idle.remote()
        if asked is None or not _is_there(asked):
            return False
        post.idle = None
        try:
            return bool(ray.get(asked))
        except RayError:
            return True

    # -- hands ---------------------------------------------------------------------------------------------------

    def _send(self, post: _Post) -> None:
        if post.actor is None:
            post.actor = self._actor(post.bundle)
            post.here = post.actor.is_idle.remote()
        post.errand = post.actor.work.remote(self._errand)

    def _actor(self, bundle: int | None) -> Any:
        """Ask for one; what was reserved for the first ones is theirs."""
        kept = None if self._group is not None else take(repr(self._needs))
        if kept is not None:
            return kept
        options = self._needs.options | {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": _AT_ONCE}
        if self._group is not None and bundle is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=bundle
            )
        return ray.remote(Hand).options(**options).remote()

    def _end(self, post: _Post) -> None:
        """End its hand; the next time that it is sent another one is asked for."""
        actor, post.actor, post.errand, post.idle = post.actor, None, None, None
        if actor is not None:
            dismiss(actor)

    def _heard(self, post: _Post) -> None:
        """A hand has come back, or its process or node has died."""
        done, post.errand, post.again_at = post.errand, None, monotonic() + _PAUSE
        try:
            report: Report = ray.get(done)
        except RayTaskError as error:
            self._refused(post, f"a worker that Ray started raised {error.cause!r}.")
        except (ActorDiedError, RuntimeEnvSetupError) as error:  # for good
            self._end(post)
            self._refused(post, f"Ray could not start a worker: {in_short(error)}")
        except RayError:
            pass  # Ray starts it again, here or elsewhere
        else:
            self._came_back(post, report)

    def _came_back(self, post: _Post, report: Report) -> None:
        if report.worked:
            post.refusals = 0
        if report.way == "drained":
            self.words.append(report.words)
            self._end(post)
            self._send(post)
        elif report.way == "refused":
            self._refused(post, report.words)

    def _refused(self, post: _Post, words: str) -> None:
        self.words.append(words)
        post.refusals += 1
        if post.refusals == _REFUSALS:
            post.again_at = _NEVER
        if all(each.again_at == _NEVER for each in self._posts):
            raise InvalidArgument(f"{words} No worker that Ray started can take part.")

    def _say_what_lacks(self) -> None:
        """Once, where some have not been placed."""
        if self._said or monotonic() < self._since + _PATIENCE:
            return
        self._said = True
        waiting = [post for post in self._posts if post.actor is not None and not _is_there(post.here)]
        if waiting:
            lacks = self._needs.lacking(ray.cluster_resources(), len(self._posts))
            short = f", {shortage(lacks)} more would be needed" if lacks else ""
            self.words.append(
                f"Ray has not placed {len(waiting)} of {len(self._posts)} workers yet{short}; waiting for nodes"
            )


def _is_there(answer: Any) -> bool:
    return bool(ray.wait([answer], timeout=0)[0])


def in_short(error: Exception) -> str:
    """What is read of Ray's words, which go on for a page: the last line that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
