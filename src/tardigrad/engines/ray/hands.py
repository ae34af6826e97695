"""Hands: Ray actors that offer a place for one worker each, as `tardigrad join` does on a machine.

A hand knows what Ray tells its node. Where that is to go (a preemption notice, a drained node), the worker hands in
what it computes and leaves, and its place is given back to Ray before the node is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

import ray

from tardigrad.engines.joined.agent import Agent
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.ray.cluster import draining
from tardigrad.errors import TardigradError
from tardigrad.transports.credentials import Credentials

LOOKS = 1.0
"""Seconds between looks at whether a node is to go."""
_IDLE = ("dialling", "waiting", "left")  # states of a place
_WORKED = 60.0  # seconds as a worker after which it is one that can take part


@dataclass(frozen=True, slots=True)
class Errand:
    """What a hand is sent to do.

    Attributes:
        means: what it has for its worker.
        address, secret: of the server.
        trusted: whether nothing is encrypted; see `Credentials`.
        keep_trying: seconds without a server after which it gives up, >= 0.
    """

    means: Means
    address: str = ""
    secret: str = field(default="", repr=False)
    trusted: bool = False
    keep_trying: float = 600.0


@dataclass(frozen=True, slots=True)
class Report:
    """How an errand ended.

    Attributes:
        way: ``over``: the run has ended; ``drained``: the node is to go; ``refused``: it could not take part.
        words: why, and on which node; empty where it is over.
        worked: whether it was a worker for a minute or longer: what followed is no more of the same.
    """

    way: Literal["over", "drained", "refused"]
    words: str = ""
    worked: bool = False


class Hand:
    """A place for one worker in a process that Ray started. Its methods may be called at the same time."""

    def __init__(self) -> None:
        self._address = ""
        self._agent: Agent | None = None
        self._drains = self._worked = False
        self._looked = self._idle_at = 0.0

    def work(self, errand: Errand) -> Report:
        """Offer a place until the run is over or this node is to go."""
        self._address, self._drains, self._worked, self._idle_at = errand.address, False, False, monotonic()
        node = ray.util.get_node_ip_address()
        try:
            self._agent = Agent(
                lambda: self._address,
                Credentials(errand.secret, errand.trusted),
                errand.means,
                keep_trying=errand.keep_trying,
                tell=_silent,
            )
            self._agent.run(self._look)
        except (TardigradError, OSError) as error:
            return Report("refused", f"a worker on node {node} could not take part: {error}", self._worked)
        finally:
            self._agent = None
        if self._drains:
            return Report("drained", f"node {node} is to go: its worker has left", self._worked)
        return Report("over", worked=self._worked)

    def move(self, address: str) -> None:
        """The server is somewhere else now: the next attempt to reach it goes there."""
        self._address = address

    def leave(self) -> None:
        """Leave at once."""
        if self._agent is not None:
            self._agent.wishes.leave()

    def is_idle(self) -> bool:
        """Whether it is no worker now."""
        agent = self._agent
        return agent is None or all(view.state in _IDLE for view in agent.views())

    def _look(self) -> None:
        """See whether this node is to go."""
        if self._drains or self._agent is None or monotonic() < self._looked + LOOKS:
            return
        self._looked = monotonic()
        self._idle_at = self._looked if self.is_idle() else self._idle_at
        self._worked = self._worked or self._looked >= self._idle_at + _WORKED
        self._drains = ray.get_runtime_context().get_node_id() in draining()
        if self._drains:
            self._agent.wishes.drain()


def _silent(words: str) -> None:
    """What an agent says of its connection, the server's process tells anyway."""
