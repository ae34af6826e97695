"""Stay: one life of a worker in a place of an agent: its processes, its slots, and the bridge to the server."""

from __future__ import annotations

import queue
import signal
import threading
from time import monotonic
from typing import Any

from tardigrad.engines.joined.greeting import DRAIN, Assignment
from tardigrad.engines.joined.household import Household, make_ready
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.local.company import Company
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.parts import WorkerParts
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import Ready, Slot, answer_of, ends
from tardigrad.transports.stream import Channel

TOLD, LOST, ENDED, WISH = "told", "lost", "ended", "wish"
"""Kinds of events: the server told a control word; the channel was lost, and how; the processes have ended, and how;
somebody wishes something of the agent."""
_REACHING, _PAUSE = 10.0, 1.0  # seconds in which every shard is to be reached for the first time; between two attempts


class Stay:
    """One life of a worker. `begin` is called once, `close` at the end in every case.

    Args:
        assignment: of the server.
        means: of the agent.
        number: of the place.
        credentials: to be proven to further shards.

    Attributes:
        events: what happens: its kind, a word and content.
        refused: why this machine must not compute what was assigned; empty where it may.
    """

    def __init__(self, assignment: Assignment, means: Means, number: int, credentials: Credentials) -> None:
        self.assignment, self.refused = assignment, ""
        self.events: queue.SimpleQueue[tuple[str, str, dict[str, Any]]] = queue.SimpleQueue()
        self._means, self._number, self._credentials = means, number, credentials
        self._household: Household | None = None
        self._bridge: Bridge | None = None
        self._parts: WorkerParts | None = None
        self._slots: list[Slot] = []
        self._idle: Channel | None = None  # over which nothing goes; its end would look like this worker's
        self._cut = threading.Event()
        self._looked = self._drained = False

    @property
    def received(self) -> int:
        """How many messages have come in."""
        return 0 if self._bridge is None else self._bridge.received

    def begin(self, channel: Channel) -> None:
        """Start the processes, and let them talk to the server over this channel.

        What cannot be computed here is told to the server, as the end of the worker's life.
        """
        try:
            (self._compute if self.assignment.task is not None else self._act)(channel)
        except InvalidArgument as error:
            self.refused = str(error)
            mine, theirs = ends()
            theirs.close()
            self._cross(mine, channel)

    def go_on(self, channel: Channel, *, received: int) -> None:
        """The server is reached again, and has received so many messages. Without every shard that is of no use."""
        assert self._bridge is not None
        why = "" if self._parts is None else self._parts.connect(channel.peer)
        self._let_go()
        if why:
            self._idle = channel
            self.events.put((LOST, "stalled", {"why": why}))
        else:
            self._bridge.attach(channel, received=received)

    def drain(self) -> None:
        """Ask the server, once, to let this worker go when it has handed in what it computes."""
        if self._bridge is not None and not self._drained:
            self._drained = True
            self._bridge.tell(DRAIN)

    def signal(self, number: int) -> None:
        """Send the worker's first process a signal."""
        if self._household is not None:
            self._household.signal(signal.Signals(number))

    def close(self) -> None:
        """End the processes at once, and leave nothing behind."""
        if self._household is not None:
            self._household.kill()
        if self._bridge is not None:
            self._bridge.close()
        self._let_go()
        if self._household is not None:
            self._household.reap()
        for slot in self._slots:
            slot.close()
        self._slots = []

    def _compute(self, channel: Channel) -> None:
        """A task. The bridge comes first: what the forkserver builds at the first time may take long."""
        task, worker = self.assignment.task, self.assignment.worker
        assert task is not None
        duty = self._means.duty(self.assignment, self._number)
        make_ready(duty.blueprint)
        down, up = Slot.make(task.slots, f"down-{worker}"), Slot.make(task.slots, f"up-{worker}")
        self._slots = [down, up]
        self._household = Household(worker, self._means.main())
        mine, theirs = ends()
        try:
            self._cross(mine, channel, wire=duty.blueprint.arithmetic.wire)
            self.refused = self._reach_shards(channel.peer)
            if not self.refused:
                self._household.compute(theirs, duty, down, up)
        finally:
            theirs.close()

    def _act(self, channel: Channel) -> None:
        """A script."""
        role, parts = self._means.role(self.assignment), self._means.parts(self.assignment, self._number)
        self._household = Household(self.assignment.worker, self._means.main(role))
        mine, *members = self._household.act(role, parts)
        self._cross(Company(mine, members) if members else Wire(mine), channel, wire=parts[0].wire)

    def _cross(self, end: Any, channel: Channel, *, wire: str = "float32") -> None:
        down, up = self._slots or (None, None)
        if self.assignment.parts and down is not None and up is not None:
            elsewhere, life = self.assignment.parts, self.assignment.life
            self._parts = WorkerParts(down.memory, up.memory, elsewhere, life, self._credentials)
        self._bridge = Bridge(
            end,
            side="worker",
            down=down,
            up=up,
            speaks=self.assignment.kind,
            told=lambda word, content: self.events.put((TOLD, word, content)),
            lost=self._lost,
            ended=self._ended,
            heard=self._heard if self.assignment.task is not None else None,
            wire=wire,
            parts=self._parts,
        )
        self._bridge.attach(channel)

    def _reach_shards(self, peer: str) -> str:
        """Dial the shards; why nothing can be computed here, empty where all are reached or the server is not."""
        until = monotonic() + _REACHING
        while self._parts is not None and (why := self._parts.connect(peer)):
            if self._cut.wait(_PAUSE):
                break
            if monotonic() >= until:
                return f"{why}: workers need the port of every shard too, not only that of the run."
        return ""

    def _let_go(self) -> None:
        """Close the channel of an attempt that led to nothing."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _lost(self, how: str, why: str) -> None:
        self._cut.set()
        self.events.put((LOST, how, {"why": why}))

    def _ended(self) -> dict[str, Any]:
        """The processes have ended: how, for the server."""
        code = None if self._household is None else self._household.reap()
        content = {"code": code, "refused": self.refused}
        self.events.put((ENDED, "", content))
        return content

    def _heard(self, message: bytes) -> bool:
        """Whether what a worker says may pass: the first that it says is what it has built, compared here."""
        task = self.assignment.task
        if self._looked or task is None:
            return True
        self._looked = True
        try:
            answer = answer_of(message)
        except ProtocolError:
            return True
        if not isinstance(answer, Ready) or answer.facts["layout"] == task.layout:
            return True
        self.refused = (
            f"this machine builds another model from the task {task.blueprint.task!r} than the server does: layout "
            f"{answer.facts['layout']}, not {task.layout}. A task must build the same model for the same words; "
            "compare the versions of what it is built with."
        )
        assert self._household is not None
        self._household.kill()
        return False
