"""Serving: the server of a run as a Ray actor, which Ray starts again elsewhere when its process or its node is gone.

The command that was typed stays the run's owner: it holds the server's actor and the hands of the workers, and tells
the hands where the server is now. A server that begins again goes on from the last checkpoint that it finds, in the run
directory or in the run's store; the workers come back to it, and samples since then are leased again.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from tardigrad.engines.base import Evaluation, Observer
from tardigrad.engines.ray.announcing import Board, posting
from tardigrad.engines.ray.needs import Needs
from tardigrad.engines.ray.recruiting import RayRecruiter
from tardigrad.errors import TardigradError
from tardigrad.invitation import Invitation
from tardigrad.records import Commit, Failure, Push, Rejected

_EVERY = 0.5  # seconds between two questions
_AT_ONCE = 4  # calls of the server's actor that may run at the same time
_MAIN = "__main__"
Event = tuple[str, tuple[Any, ...]]
"""What an observer was told: the method's name, and its arguments."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended that was served elsewhere.

    Attributes:
        status: exit status of a command: 0; 1 for a run that failed or diverged; 2 for a bad request; 3 stopped.
        words: the last lines.
    """

    status: int
    words: str


Work = Callable[[Observer, Callable[[], bool]], Ending]
"""Serves a whole run: told whom to tell, and what says that it is to stop. It travels to the actor."""


@dataclass(frozen=True, slots=True)
class Bulletin:
    """What a server shows of itself.

    Attributes:
        life: which life of the actor, a random word.
        address: where it listens; empty before it does.
        wanted: how many workers; 0: not said yet.
        events: what happened since the last question.
    """

    life: str
    address: str
    wanted: int
    events: Sequence[Event]


class News(Observer):
    """Keeps what observers are told until it is asked for. What is heavy and shown nowhere is left out."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def new(self) -> list[Event]:
        """All that is new."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def _keep(self, name: str, *arguments: Any) -> None:
        with self._lock:
            self._events.append((name, arguments))

    def committed(self, time: float, commit: Commit) -> None:
        """Kept."""
        self._keep("committed", time, commit)

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """Kept without the gradient."""
        light = replace(push, gradient=torch.empty(0), buffers={}, again=None)
        self._keep("rejected", time, light, result)

    def failed(self, time: float, failure: Failure) -> None:
        """Kept."""
        self._keep("failed", time, failure)

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """Kept."""
        self._keep("joined", time, worker, incarnation)

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """Kept."""
        self._keep("left", time, worker, incarnation, reason)

    def noted(self, time: float, words: str) -> None:
        """Kept."""
        self._keep("noted", time, words)

    def invited(self, time: float, invitation: Invitation) -> None:
        """Left out: its secret is a file of another machine."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Kept."""
        self._keep("evaluated", evaluation)


class Server:
    """The server's actor. Its methods may be called at the same time.

    Args:
        work: what it does; done again from its beginning where Ray starts the actor again.
    """

    def __init__(self, work: Work) -> None:
        sys.modules[_MAIN] = ModuleType(_MAIN)  # Ray's own program: no process of the run is to import it
        self._work, self._news, self._board = work, News(), Board()
        self._life, self._stops = secrets.token_hex(8), threading.Event()

    def serve(self) -> Ending:
        """Serve the run to its end."""
        with posting(self._board):
            return self._work(self._news, self._stops.is_set)

    def bulletin(self) -> Bulletin:
        """What is to be known now."""
        return Bulletin(self._life, self._board.address, self._board.wanted, self._news.new())

    def stop(self) -> None:
        """Write a checkpoint, and stop."""
        self._stops.set()


class Launch:
    """A run served by an actor, seen from the command that was typed.

    Args:
        work: see `Server`.
        needs: of server and workers.
        recruiter: brings the workers.
        secret: that server and workers know.
        workers: how many there are to be.
        observers: told of everything, somewhat later.
        stop: asked twice a second; True: the run is to stop.
    """

    def __init__(
        self,
        work: Work,
        needs: Needs,
        recruiter: RayRecruiter,
        *,
        secret: str,
        workers: int,
        observers: Sequence[Observer],
        stop: Callable[[], bool],
    ) -> None:
        self._recruiter, self._secret, self._workers = recruiter, secret, workers
        self._observers, self._stop, self._stopped = observers, stop, False
        self._life, self._address = "", ""
        options: dict[str, Any] = {"num_cpus": needs.server_cpus, "max_restarts": -1, "max_task_retries": -1}
        if needs.server_resources:
            options["resources"] = dict(needs.server_resources)
        if needs.runtime_env:
            options["runtime_env"] = dict(needs.runtime_env)
        self._actor: Any = ray.remote(Server).options(max_concurrency=_AT_ONCE, **options).remote(work)

    def run(self) -> Ending:
        """Wait for the run's end, and see to its workers meanwhile.

        Raises:
            RayError: the cluster is gone.
            InvalidArgument: no worker can take part.
        """
        ending = self._actor.serve.remote()
        try:
            while not ray.wait([ending], timeout=_EVERY)[0]:
                self._look()
            self._look()
            found: Ending = ray.get(ending)
            return found
        except RayTaskError as error:
            raise TardigradError(f"the server raised {error.cause!r}.") from error
        finally:
            if ray.is_initialized():
                ray.kill(self._actor, no_restart=True)
            self._recruiter.close()

    def _look(self) -> None:
        if self._stop() and not self._stopped:
            self._stopped = True
            self._actor.stop.remote()
        try:
            bulletin: Bulletin = ray.get(self._actor.bulletin.remote(), timeout=_EVERY)
        except (RayError, GetTimeoutError):  # it is being started again
            bulletin = Bulletin("", "", 0, ())
        self._follow(bulletin)
        self._tell(bulletin.events)

    def _follow(self, bulletin: Bulletin) -> None:
        """Send the hands to where the server is."""
        if self._life and bulletin.life not in ("", self._life):
            self._tell([("noted", (0.0, "the server was lost and has begun again from its last checkpoint"))])
        self._life = bulletin.life or self._life
        if bulletin.address and bulletin.address != self._address:
            if self._address:
                self._recruiter.move(bulletin.address)
            else:
                self._recruiter.begin(bulletin.address, self._secret, self._workers)
            self._address = bulletin.address
        if self._address:
            self._recruiter.tick(bulletin.wanted or self._workers)

    def _tell(self, events: Sequence[Event]) -> None:
        words, self._recruiter.words = self._recruiter.words, []
        for name, arguments in [*events, *(("noted", (0.0, word)) for word in words)]:
            for observer in self._observers:
                getattr(observer, name)(*arguments)
