"""Company: the server's ends of the processes that are one worker together."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any

from tardigrad.transports.requests import Wire


class Company(Wire):
    """A wire to the leader of a group, which asks; the others say only what they raised.

    When one of them ends, so has the worker: it reads as the end of its wire.

    Args:
        leader: the server's end of the leader's wire.
        members: those of the others.
    """

    def __init__(self, leader: socket.socket, members: Sequence[socket.socket]) -> None:
        super().__init__(leader)
        self._wires = {end.fileno(): Wire(end) for end in (leader, *members)}
        self._readable = select.epoll()
        for descriptor in self._wires:
            self._readable.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """To be waited for by a selector: readable where any of the wires is."""
        return self._readable.fileno()

    def receive(self) -> tuple[str, dict[str, Any], list[int]]:
        """The next message of any of them; what is said comes before that one has ended. See `Wire.receive`."""
        ended: Exception = EOFError()
        for descriptor, _ in sorted(self._readable.poll()):
            try:
                return self._wires[descriptor].receive()
            except (EOFError, OSError) as error:
                ended = error
        raise ended

    def shut(self) -> None:
        """Say and hear nothing more, to nobody of the group."""
        for wire in self._wires.values():
            wire.shut()

    def close(self) -> None:
        """Close all ends."""
        self._readable.close()
        for wire in self._wires.values():
            wire.close()
