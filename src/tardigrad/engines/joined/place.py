"""Place: room for one worker on an agent's machine: one connection to the server, one life of a worker at a time."""

from __future__ import annotations

import dataclasses
import queue
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tardigrad.engines.joined import greeting as words
from tardigrad.engines.joined.greeting import Assignment, Hello, Resumes
from tardigrad.engines.joined.reaching import Reach
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.joined.stay import ENDED, LOST, WISH, Stay
from tardigrad.engines.joined.wishes import Wishes
from tardigrad.errors import InvalidArgument, ProtocolError, Unreachable
from tardigrad.transports.stream import Channel

_HANGING_UP = 10.0  # seconds in which a server that heard of a worker's end hangs up


@dataclass(frozen=True, slots=True)
class PlaceView:
    """What is known of a place.

    Attributes:
        state: ``dialling``, ``waiting``, ``working``, ``draining``, ``cut off`` or ``left``.
        worker: which worker it is, or was last; None: it was none.
        received: messages that came for it, in this life.
    """

    state: str
    worker: int | None = None
    received: int = 0


class Place:
    """One place of an agent.

    Args:
        number: which, from 0.
        means: what the agent has for its workers.
        hello: what it says first.
        reach: its way to the server.
        wishes: of whoever started the agent.
        again: whether another run is waited for when one has ended.
        tell: told in words what happens.
    """

    def __init__(
        self,
        number: int,
        means: Means,
        hello: Hello,
        reach: Reach,
        wishes: Wishes,
        *,
        again: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._number, self._means, self._reach, self._wishes = number, means, reach, wishes
        self._hello = dataclasses.replace(hello, place=secrets.token_hex(8))
        self._again, self._tell = again, tell
        self._stay: Stay | None = None
        self._state = "dialling"
        self._done = False  # whether its last worker came to its end
        wishes.on_change(self._wished)

    @property
    def view(self) -> PlaceView:
        """What is known of it, for whoever shows it."""
        stay = self._stay
        return PlaceView(self._state, self._hello.wants, 0 if stay is None else stay.received)

    def live(self) -> None:
        """Dial, work, dial again where the way is cut, until the run is over or the agent is to leave.

        Raises:
            InvalidArgument: this machine is refused; the sentence says why.
            Unreachable, CredentialsRefused, MissingDependencyError: see `Reach.ask`.
        """
        try:
            goes_on = True
            while goes_on:
                answer = self._reach.ask(self._said, lambda: self._wishes.gives_up(working=self._stay is not None))
                goes_on = answer is not None and self._answered(*answer)
        except Unreachable:
            if not self._done or self._again:
                raise
            self._is_over({"words": "the server is gone, and this place had done its part", "finished": True})
        finally:
            self._end_stay()
            self._state = "left"

    def _wished(self) -> None:
        """Something is wished: wherever this place waits, it is to look; from any thread."""
        stay = self._stay
        self._reach.wake(at_once=self._wishes.gives_up(working=stay is not None))
        if stay is not None:
            stay.events.put((WISH, "", {}))

    def _said(self) -> Hello:
        stay = self._stay
        resumes = None if stay is None else Resumes(stay.assignment.life, stay.received)
        return dataclasses.replace(self._hello, resumes=resumes)

    def _answered(self, channel: Channel, word: str, content: Mapping[str, Any]) -> bool:
        """Do what the server answered; return whether to dial again."""
        if word == words.RESUMED and self._stay is not None:
            self._tell(f"worker {self._stay.assignment.worker}: connected again")
            self._stay.go_on(channel, received=int(content["received"]))
            return self._work(self._stay)
        self._end_stay()
        if word == words.ASSIGN:
            return self._begin(channel, Assignment.from_json(content))
        channel.close()
        if word == words.WAIT:
            if self._state != "waiting":
                self._tell("there is nothing to do for a worker now; waiting")
            self._state = "waiting"
            self._reach.rest(float(content["seconds"]))
            return True
        if word == words.OVER:
            return self._is_over(content)
        if word == words.REFUSED:
            raise InvalidArgument(f"the server refuses this machine: {content['message']}")
        raise ProtocolError(f"the server answers {word!r}, which no agent knows.")

    def _begin(self, channel: Channel, assignment: Assignment) -> bool:
        self._hello, self._done = dataclasses.replace(self._hello, wants=assignment.worker), False
        self._tell(f"worker {assignment.worker} (life {assignment.incarnation}) begins")
        self._stay = Stay(assignment, self._means, self._number, self._reach.credentials)
        self._stay.begin(channel)
        return self._work(self._stay)

    def _work(self, stay: Stay) -> bool:
        """While the server is connected; return whether to dial again."""
        self._state, before = "working", stay.received
        while not self._wishes.leaves:
            if self._wishes.drains:
                self._state = "draining"
                stay.drain()
            kind, word, content = stay.events.get()
            if kind == ENDED:
                return self._worker_ended(stay, content)
            if kind == LOST:
                self._state = "cut off"
                why = f" ({content['why']})" if content["why"] else ""
                self._tell(f"worker {stay.assignment.worker}: the connection has {word}{why}; dialling again")
                self._reach.lost(moved=stay.received > before)
                return True
            if word == words.SIGNAL:
                stay.signal(int(content["number"]))
            elif word == words.OVER:
                return self._is_over(content)
        return False

    def _worker_ended(self, stay: Stay, how: Mapping[str, Any]) -> bool:
        """Its processes have ended, and the server is being told: when it has hung up the place is offered anew."""
        over = _said_while_hanging_up(stay)
        self._end_stay()
        self._done = how["code"] == 0
        if how["refused"]:
            raise InvalidArgument(how["refused"])
        if over is not None:
            return self._is_over(over)
        code = f" with exit code {how['code']}" if how["code"] else ""
        self._tell(f"worker {stay.assignment.worker} (life {stay.assignment.incarnation}) has ended{code}")
        return True

    def _is_over(self, content: Mapping[str, Any]) -> bool:
        """The server wants no more of this place; return whether to dial again, for the next run."""
        self._end_stay()
        self._state = "waiting"
        if content.get("only_this"):
            self._tell(str(content["words"]))
            self._wishes.done(str(content["words"]))
            return self._again
        if self._again or self._wishes.drains or not self._wishes.over:
            self._tell(str(content["words"]))
        if not (self._again or self._wishes.drains):
            self._wishes.end(str(content["words"]), finished=bool(content["finished"]))
        return self._again

    def _end_stay(self) -> None:
        stay, self._stay = self._stay, None
        if stay is not None:
            stay.close()


def _said_while_hanging_up(stay: Stay) -> Mapping[str, Any] | None:
    """Wait for the server to hang up; what it said of the run's end, None where it said nothing."""
    while True:
        try:
            kind, word, content = stay.events.get(timeout=_HANGING_UP)
        except queue.Empty:
            return None
        if kind == LOST:
            return None
        if word == words.OVER:
            return content
