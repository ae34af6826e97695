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
from time import monotonic
from types import ModuleType
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from tardigrad.engines.base import Evaluation, Observer
from tardigrad.engines.ray.announcing import Board, posting
from tardigrad.engines.ray.needs import Needs
from tardigrad.engines.ray.recruiting import RayRecruiter, in_short
from tardigrad.errors import TardigradError
from tardigrad.invitation import Invitation
from tardigrad.records import Commit, Failure, Push, Rejected

_EVERY = 0.5  # seconds between two questions
_AT_LAST = 10.0  # seconds for the last answer
_PATIENCE = 20.0  # seconds after which it is said that there is no server yet
_SILENCE = 60.0  # seconds without an answer after which a stop waits for no server any more
_LIVES = 5  # of a server that die without a commit after which no further one is waited for
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
        wanted: how many workers; None: not said yet.
        trusted: whether it encrypts nothing.
        events: what happened since the last question.
    """

    life: str
    address: str
    wanted: int | None
    trusted: bool
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
        cluster, ray: ``address`` and ``ray`` of the run, as the command knows them.
    """

    def __init__(self, work: Work, cluster: str = "", ray: str = "") -> None:
        sys.modules[_MAIN] = ModuleType(_MAIN)  # Ray's own program: no process of the run is to import it
        self._work, self._news, self._board = work, News(), Board(cluster, ray)
        self._life, self._stops, self._seen = secrets.token_hex(8), threading.Event(), threading.Event()

    def serve(self) -> Ending:
        """Serve the run to its end, from when it is known that there is a server."""
        self._seen.wait(_AT_LAST)
        with posting(self._board):
            return self._work(self._news, self._stops.is_set)

    def bulletin(self, known: str) -> Bulletin:
        """What is to be known now; ``known``: the last life that the command has heard of."""
        board = self._board
        if known == self._life:
            self._seen.set()
        return Bulletin(self._life, board.address, board.wanted, board.trusted, self._news.new())

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
        workers: how many there are to be, unless the server says otherwise.
        observers: told of everything, somewhat later.
        stop: asked twice a second; True: the run is to stop.
        said: ``address`` and ``ray`` as they were typed.
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
        said: tuple[str, str] = ("", ""),
    ) -> None:
        self._recruiter, self._secret, self._wanted = recruiter, secret, workers
        self._observers, self._stop, self._stopped = observers, stop, False
        self._life, self._address = "", ""
        self._fruitless = 0  # lives since the last commit
        self._asked: Any = None  # the reference to an answer that has not come yet
        self._asked_at = self._since = monotonic()
        self._said = False
        lasting = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": _AT_ONCE}
        self._actor: Any = ray.remote(Server).options(**lasting, **needs.server_options).remote(work, *said)

    def run(self) -> Ending:
        """Wait for the run's end, and see to its workers meanwhile.

        Raises:
            InvalidArgument: no worker can take part.
            TardigradError: the server raised, or dies whenever it begins.
        """
        ending = self._actor.serve.remote()
        try:
            while not ray.wait([ending], timeout=_EVERY)[0]:
                given_up = self._to_stop() if self._stop() else None
                if given_up is not None:
                    return given_up
                self._look()
            self._hear_the_rest()
            found: Ending = ray.get(ending)
            return found
        except RayTaskError as error:
            raise TardigradError(f"the server raised {error.cause!r}.") from error
        except RayError as error:
            raise TardigradError(f"Ray has no server any more: {in_short(error)}") from error
        finally:
            if ray.is_initialized():
                ray.kill(self._actor, no_restart=True)
            self._recruiter.close()

    def _to_stop(self) -> Ending | None:
        """Ask the server to stop; where there is none that could, how the run ends here."""
        if not self._life:
            return Ending(3, "stopped before Ray had placed the server: nothing was begun")
        if self._asked is not None and monotonic() >= self._asked_at + _SILENCE:
            return Ending(3, "stopped while the server was gone; the same command goes on from its last checkpoint")
        if not self._stopped:
            self._stopped = True
            self._actor.stop.remote()
        return None

    def _look(self) -> None:
        bulletin = self._bulletin(_EVERY)
        if bulletin is not None:
            self._follow(bulletin)
        elif not self._life:
            self._say_where_it_is()
        if self._address:
            self._recruiter.tick(self._wanted)
        self._tell(() if bulletin is None else bulletin.events)

    def _bulletin(self, seconds: float) -> Bulletin | None:
        """What the server shows; None: it does not answer now, and the answer is waited for the next time."""
        if self._asked is None:
            self._asked, self._asked_at = self._actor.bulletin.remote(self._life), monotonic()
        if not ray.wait([self._asked], timeout=seconds)[0]:
            return None
        asked, self._asked = self._asked, None
        try:
            found: Bulletin = ray.get(asked)
        except RayError:  # what becomes of the server, the run's own answer says
            return None
        return found

    def _hear_the_rest(self) -> None:
        """The run has ended: what the answer under way says, and what has happened since."""
        for _ in range(2 if self._asked is not None else 1):
            bulletin = self._bulletin(_AT_LAST)
            self._tell(() if bulletin is None else bulletin.events)

    def _follow(self, bulletin: Bulletin) -> None:
        """Send the hands to where the server is."""
        if bulletin.life != self._life:
            self._begins(bulletin.life)
        if any(name == "committed" for name, _ in bulletin.events):
            self._fruitless = 0
        self._wanted = self._wanted if bulletin.wanted is None else bulletin.wanted
        if bulletin.address and bulletin.address != self._address:
            if self._address:
                self._recruiter.move(bulletin.address)
            else:
                self._recruiter.begin(bulletin.address, self._secret, self._wanted, trusted=bulletin.trusted)
            self._address = bulletin.address

    def _begins(self, life: str) -> None:
        """A server is there, the first one or another."""
        if self._life:
            self._note("the server was lost and begins again, from its last checkpoint if it finds one")
        self._life, self._stopped = life, False
        self._fruitless += 1
        if self._fruitless > _LIVES:
            raise TardigradError(f"the server was lost {_LIVES} times without a commit in between; see Ray's logs.")

    def _say_where_it_is(self) -> None:
        """Once, where there has never been a server."""
        if not self._said and monotonic() >= self._since + _PATIENCE:
            self._said = True
            self._note("Ray has not placed the server yet; waiting for a node that has what --ray says it needs")

    def _note(self, words: str) -> None:
        self._tell([("noted", (0.0, words))])

    def _tell(self, events: Sequence[Event]) -> None:
        words, self._recruiter.words = self._recruiter.words, []
        for name, arguments in [*events, *(("noted", (0.0, word)) for word in words)]:
            for observer in self._observers:
                getattr(observer, name)(*arguments)
