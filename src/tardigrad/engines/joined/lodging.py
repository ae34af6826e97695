"""Placed: a worker whose processes live with an agent, on its machine. One object for each life of it.

Over the channel the agent's bridge and the server's carry what worker and engine say to each other. So the engine has
an end of a pair of sockets and slots, as for a process of its own, and never waits for a network.
"""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Literal

from tardigrad.engines.joined.greeting import (
    ASSIGN,
    DRAIN,
    OVER,
    RESUMED,
    SIGNAL,
    Assignment,
    ScriptAssignment,
    TaskAssignment,
)
from tardigrad.engines.joined.office import Office
from tardigrad.engines.joined.reception import Arrival
from tardigrad.engines.local.acting import Part, Role
from tardigrad.engines.local.lodging import Lodging
from tardigrad.engines.local.processes import Duty
from tardigrad.errors import ProtocolError
from tardigrad.session.scripts import Script
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.slots import Slot, ends
from tardigrad.transports.stream import Channel

ENDED = "ended"
"""What the bridge says when the worker's processes have ended: {code, refused}."""


class Placed(Lodging):
    """Lodges one life of a worker with an agent.

    Args:
        arrival: the agent's.
        worker: which it is to be.
        layout: hash of the model's layout; empty for a script, which is not known yet.
        told: called from other threads, with the number of the connection: ``"drain"``, the agent wants to leave;
            ``"ended"`` or ``"stalled"``, the channel is lost.
        office: through which parts of a task's slots travel to and from other shards; None: all travels here.

    Attributes:
        place: the agent's name for where the worker lives.
        life: by which the agent knows this life.
        worker: see above.
        host: name of the agent's machine.
        code: with which the worker's process ended, once it is known.
        refused: why the agent cannot compute this; empty where it can.
        why: what was wrong when the channel was lost; empty where the agent just went away.
        leaving: whether the agent wants to leave.
        connection: how often it was reached anew; the loss of an earlier channel may be told of late.
        cut_since: since when it cannot be reached, by `time.monotonic`; None where it can.
        moved: whether anything came from there between the last two times that it was reached.
    """

    def __init__(
        self,
        arrival: Arrival,
        worker: int,
        layout: str,
        told: Callable[[Placed, str, int], None],
        *,
        office: Office | None = None,
    ) -> None:
        hello = arrival.hello
        self.place, self.host, self.worker = hello.place, hello.host, worker
        self.life = secrets.token_hex(8)
        self.code: int | None = None
        self.refused = self.why = ""
        self.leaving = False
        self.cut_since: float | None = None
        self.connection = 0
        self.moved = False
        self._came = 0
        self._channel, self._layout, self._told = arrival.channel, layout, told
        self._bridge: Bridge | None = None
        self._office = office
        self._not_before = 0.0

    @property
    def pid(self) -> int:
        """Not known: its process is another machine's."""
        return 0

    @property
    def is_cut_off(self) -> bool:  # type: ignore[override]
        """See `Lodging`."""
        return self.cut_since is not None

    # -- a life ----------------------------------------------------------------------------------------------

    def work(self, duty: Duty, incarnation: int, down: Slot, up: Slot) -> socket.socket:
        """See `Lodging`."""
        task = TaskAssignment.of(duty, down.layout, self._layout)
        elsewhere = () if self._office is None else self._office.elsewhere
        assignment = Assignment(self.life, self.worker, incarnation, task=task, parts=elsewhere)
        return self._begin(assignment, "task", down, up, duty.blueprint.arithmetic.wire)

    def act(self, role: Role, parts: Sequence[Part]) -> list[socket.socket]:
        """See `Lodging`; the agent starts the other processes of a group beside the first."""
        assert isinstance(role, Script)
        script = ScriptAssignment.of(role, parts[0])
        assignment = Assignment(self.life, self.worker, parts[0].incarnation, script=script)
        return [self._begin(assignment, "script", None, None, parts[0].wire)]

    def _begin(
        self, assignment: Assignment, speaks: Literal["task", "script"], down: Slot | None, up: Slot | None, wire: str
    ) -> socket.socket:
        mine, theirs = ends()
        parts = None
        if assignment.parts and self._office is not None:
            parts = self._office.parts_of(self.worker, self.life)
        self._bridge = Bridge(
            theirs,
            side="server",
            down=down,
            up=up,
            speaks=speaks,
            told=self._hear,
            lost=self._missed,
            wire=wire,
            parts=parts,
        )
        if parts is not None:
            parts.lost = self._bridge.cut
        try:
            self._channel.send(ASSIGN, assignment.as_json())
            self._bridge.attach(self._channel)
        except OSError:
            self._channel.close()
            self._bridge.close()  # so the engine reads the end of a life that did not begin
        return mine

    def signal(self, number: signal.Signals) -> None:
        """See `Lodging`."""
        self._tell(SIGNAL, {"number": int(number)})

    def slow_down(self, seconds: float) -> None:
        """See `Lodging`."""
        if self._bridge is not None:
            self._bridge.slow_down(seconds)

    def cut(self, seconds: float) -> None:
        """See `Lodging`."""
        self._not_before = monotonic() + seconds
        if self._bridge is not None:
            self._bridge.cut()

    def kill(self) -> None:
        """Nothing to do: the agent ends what it has when it is not wanted any more."""

    def reap(self) -> int | None:
        """See `Lodging`; nothing is waited for."""
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        return self.code

    def hang_up(self) -> None:
        """Nothing more comes from there; the engine reads what came before, and then the end."""
        if self._bridge is not None:
            self._bridge.close()

    def say_over(self, content: Mapping[str, Any]) -> None:
        """Tell the agent that this place is not needed any more."""
        self._tell(OVER, content)

    def _tell(self, word: str, content: Mapping[str, Any]) -> None:
        if self._bridge is not None:
            self._bridge.tell(word, content)

    # -- the channel -----------------------------------------------------------------------------------------

    def goes_on(self, arrival: Arrival) -> bool:
        """Whether an agent that comes again wants to go on with this life."""
        resumes = arrival.hello.resumes
        return resumes is not None and resumes.life == self.life and self._bridge is not None

    def go_on(self, channel: Channel, received: int) -> float | None:
        """Reached again, unless that fails. Messages that were lost are sent again, by number.

        Returns:
            For how many seconds it was not reached; None: it still is not.
        """
        assert self._bridge is not None
        if monotonic() < self._not_before:
            channel.close()
            return None
        self.connection += 1
        came = self._bridge.detach()
        self.moved, self._came = came > self._came, came
        try:
            channel.send(RESUMED, {"received": came})
            self._bridge.attach(channel, received=received)
        except OSError:
            channel.close()
            self._missed("stalled")
            return None
        except ProtocolError:  # what it says of this life cannot be
            channel.close()
            self.hang_up()
            return None
        since, self.cut_since = self.cut_since, None
        return 0.0 if since is None else monotonic() - since

    def _hear(self, word: str, content: Mapping[str, Any]) -> None:
        """A control word, in a thread of the bridge."""
        if word == ENDED:
            self.code, self.refused = content.get("code"), content.get("refused") or ""
        elif word == DRAIN:
            self._told(self, DRAIN, self.connection)

    def _missed(self, how: str, why: str = "") -> None:
        """The channel is lost, in a thread of the bridge."""
        self.why = why
        self._told(self, how, self.connection)
