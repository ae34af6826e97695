"""Announcing: a server that is an actor recruits nobody; it says where it is, and whoever started it brings workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tardigrad.engines.base import Meeting
from tardigrad.errors import InvalidArgument


@dataclass(slots=True)
class Board:
    """What a server shows to whoever started it.

    Attributes:
        cluster, ray: ``address`` and ``ray`` as they were said to the command that was typed.
        address: where it listens; empty before it does.
        wanted: how many workers there are to be; None: not said yet.
        trusted: whether it encrypts nothing.
    """

    cluster: str = ""
    ray: str = ""
    address: str = ""
    wanted: int | None = None
    trusted: bool = False

    def require(self, meeting: Meeting) -> None:
        """Refuse what a script says itself of the cluster: the command is connected with one already, and asks it."""
        for name, said, own in (("address", self.cluster, meeting.address), ("ray", self.ray, meeting.ray)):
            if own != said:
                raise InvalidArgument(
                    f"with --server-actor the command asks for workers, not the script: say it --{name} {own!r}, or "
                    f"leave {name}={own!r} out of the script."
                )


class Announcer:
    """A recruiter that writes on a board.

    Args:
        board: read by others.
        trusted: whether nothing is encrypted.

    Attributes:
        words: none.
    """

    def __init__(self, board: Board, *, trusted: bool = False) -> None:
        self._board = board
        board.trusted = trusted
        self.words: list[str] = []

    def begin(self, address: str, secret: str, workers: int) -> None:
        """The server listens there."""
        self._board.wanted = workers
        self._board.address = address  # last: whoever reads it begins

    def tick(self, wanted: int) -> None:
        """So many workers are wanted."""
        self._board.wanted = wanted

    def close(self) -> None:
        """The run has ended, or was stopped."""


_posted: list[Board] = []


@contextmanager
def posting(board: Board) -> Iterator[None]:
    """Within, the Ray engine of this process recruits nobody and writes here."""
    _posted.append(board)
    try:
        yield
    finally:
        _posted.pop()


def board_here() -> Board | None:
    """Where the server of this process shows itself; None: it recruits for itself."""
    return _posted[-1] if _posted else None
