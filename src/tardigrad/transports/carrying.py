"""Carrying: the ways between a server and a worker, as one small contract.

A transport connects two *places*. At each stands an end for messages and two slots: at the server's place those that a
server of this machine would hold, at the worker's those that its worker would. What lies between is the transport's:
nothing, where both places are on one machine and share the slots; two bridges and a connection, where they are not.

Engines put the same parts together themselves, since there the two places are in two processes: no run looks up a
transport here. This is what the law book looks at.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import Queue
from typing import Any

from tardigrad.specs import Registry
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.credentials import Credentials, new_secret
from tardigrad.transports.meeting import Listener, dial
from tardigrad.transports.slots import Slot, SlotLayout, ends
from tardigrad.transports.stream import Channel

_MEETING = 30.0  # seconds

TRANSPORTS = Registry(
    "transport",
    {
        "slots": "tardigrad.transports.carrying:Shared",
        "stream": "tardigrad.transports.carrying:Stream",
        "stream-trusted": "tardigrad.transports.carrying:TrustedStream",
    },
    group="tardigrad.transports",
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the two places are.

    Attributes:
        address: at which the server's side listens; port 0: any free one.
        listening, dialling: what this thread enters while sockets of the one or the other side are made, such as a
            network namespace.
    """

    address: str = "127.0.0.1:0"
    listening: Callable[[], AbstractContextManager[Any]] = nullcontext
    dialling: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(slots=True)
class Place:
    """Where a server or a worker stands.

    Attributes:
        end: for messages; see `tardigrad.transports.slots`.
        down, up: the slots as they are seen here.
    """

    end: socket.socket
    down: Slot
    up: Slot

    def close(self) -> None:
        """Close the end and give the slots back."""
        self.end.close()
        self.down.close()
        self.up.close()


class Transport(ABC):
    """Connects servers' places with workers'.

    Args:
        layout: of all slots.
        site: where the places are.
    """

    def __init__(self, layout: SlotLayout, site: Site) -> None:
        self.layout, self.site = layout, site
        self._places: list[Place] = []

    @abstractmethod
    def connect(self) -> tuple[Place, Place]:
        """A new worker: the server's place for it, and its own. Closing an end ends the other place's."""

    @abstractmethod
    def interrupt(self, worker: int, before: Callable[[], None] = lambda: None) -> None:
        """Lose the line to the worker that was connected as this one, from 0, and go on over another.

        Args:
            worker: see above.
            before: called when all is ready, right before the line is lost: what it sends is on its way then. Where
                there is no line nothing else happens.
        """

    def close(self) -> None:
        """End all connections; leaves no thread and no descriptor behind. Memory goes with the last view of it."""
        for place in self._places:
            place.close()
        self._places = []

    def _keep(self, *places: Place) -> None:
        self._places += places


class Shared(Transport):
    """Slots that both places share, on one machine."""

    def connect(self) -> tuple[Place, Place]:
        """See `Transport`."""
        mine, theirs = ends()
        down, up = (Slot.make(self.layout, name) for name in ("down", "up"))
        server = Place(mine, down, up)
        worker = Place(theirs, *(Slot(self.layout, os.dup(slot.descriptor)) for slot in (down, up)))
        self._keep(server, worker)
        return server, worker

    def interrupt(self, worker: int, before: Callable[[], None] = lambda: None) -> None:
        """There is no line."""
        before()


@dataclass(slots=True)
class _Span:
    """The two bridges of one worker."""

    server: Bridge
    worker: Bridge


class Stream(Transport):
    """A TCP connection with TLS for each worker, and a bridge at both of its ends."""

    trusted = False

    def __init__(self, layout: SlotLayout, site: Site) -> None:
        super().__init__(layout, site)
        self.credentials = Credentials(new_secret(), self.trusted)
        self._met: Queue[Channel] = Queue()
        self._spans: list[_Span] = []
        with site.listening():
            self._listener = Listener(site.address, self.credentials, met=self._met.put)

    @property
    def address(self) -> str:
        """At which it listens."""
        return self._listener.address

    def connect(self) -> tuple[Place, Place]:
        """See `Transport`."""
        (server, from_server), (worker, from_worker) = self._place(), self._place()
        self._spans.append(
            _Span(self._bridge(from_server, server, "server"), self._bridge(from_worker, worker, "worker"))
        )
        self._attach(self._spans[-1])
        self._keep(server, worker)
        return server, worker

    def interrupt(self, worker: int, before: Callable[[], None] = lambda: None) -> None:
        """See `Transport`. What was on its way is sent again."""
        self._attach(self._spans[worker], before)

    def close(self) -> None:
        """See `Transport`."""
        for span in self._spans:
            span.server.close()
            span.worker.close()
        self._spans = []
        self._listener.close()
        while not self._met.empty():
            self._met.get().close()
        super().close()

    def _place(self) -> tuple[Place, socket.socket]:
        """A place, and the end on the other side of its own."""
        mine, other = ends()
        return Place(mine, Slot.make(self.layout, "down"), Slot.make(self.layout, "up")), other

    def _bridge(self, end: socket.socket, place: Place, side: Any) -> Bridge:
        return Bridge(end, side=side, down=place.down, up=place.up, speaks="task", told=_unheard, lost=_unseen)

    def _attach(self, span: _Span, before: Callable[[], None] = lambda: None) -> None:
        """Over a new line; each bridge says how far the other has come."""
        with self.site.dialling():
            there = dial(self.address, self.credentials, timeout=_MEETING)
        here = self._met.get(timeout=_MEETING)
        before()
        by_server, by_worker = span.server.detach(), span.worker.detach()
        span.server.attach(here, received=by_worker)
        span.worker.attach(there, received=by_server)


class TrustedStream(Stream):
    """The same without TLS, on a network that is trusted."""

    trusted = True


def _unheard(word: str, content: dict[str, Any]) -> None:
    """Nobody is told anything here."""


def _unseen(how: str, why: str) -> None:
    """Nobody waits for a line here."""
