"""Announcing: a server that is an actor recruits nobody; it says where it is, and whoever started it brings workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Board:
    """What a server shows to whoever started it.

    Attributes:
        address: where it listens; empty before it does.
        wanted: how many workers there are to be; 0: not said yet.
    """

    address: str = ""
    wanted: int = 0


class Announcer:
    """A recruiter that writes on a board.

    Args:
        board: read by others.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def begin(self, address: str, secret: str, workers: int) -> None:
        """The server listens there."""
        self._board.address, self._board.wanted = address, workers

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
