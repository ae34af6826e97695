"""Speech: what is said at the local end of a bridge, and which messages hand a slot over."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tardigrad.transports.requests import LARGEST, Wire, content_of, memory_with
from tardigrad.transports.slots import hands_in

DOWN, UP = "down", "up"
WELCOME = "welcome"


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a local end.

    Attributes:
        content: plain data, as it travels.
        blobs: bytes that travel with it.
        ships: the slot that it hands over: ``"down"``, ``"up"``, or none.
        brought: descriptors that came with it and are this object's: slots on their way to the worker.
    """

    content: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()
    ships: str = ""
    brought: tuple[int, ...] = ()


class Speech(ABC):
    """One language at a local end."""

    @abstractmethod
    def fileno(self) -> int:
        """To be waited for."""

    @abstractmethod
    def hear(self) -> Said:
        """The next message. Raises EOFError, OSError: the end's other side is closed."""

    @abstractmethod
    def say(self, content: Mapping[str, Any], blobs: Sequence[bytes | bytearray], slots: Sequence[int]) -> None:
        """Say it here; ``slots``: descriptors of this machine's slots. Raises OSError: nobody listens any more."""

    @abstractmethod
    def hang_up(self) -> None:
        """Nothing more is said here; the other side notices."""

    @abstractmethod
    def close(self) -> None:
        """Give the end back."""


class TaskSpeech(Speech):
    """Orders and answers of a worker that computes a task, taken as they are.

    Args:
        end: a local end; owned by this object from now on.
        of_server: whether what is heard here is the server's.
    """

    def __init__(self, end: socket.socket, *, of_server: bool) -> None:
        self._end, self._of_server = end, of_server

    def fileno(self) -> int:
        """See `Speech`."""
        return self._end.fileno()

    def hear(self) -> Said:
        """See `Speech`. Every order hands the down slot over, every gradient the up slot."""
        message = self._end.recv(LARGEST)
        if not message:
            raise EOFError
        if self._of_server:
            return Said(blobs=(message,), ships=DOWN)
        return Said(blobs=(message,), ships=UP if hands_in(message) else "")

    def say(self, content: Mapping[str, Any], blobs: Sequence[bytes | bytearray], slots: Sequence[int]) -> None:
        """See `Speech`."""
        self._end.send(blobs[0])

    def hang_up(self) -> None:
        """See `Speech`. Closed with something unread, it would take back what was said."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Speech`."""
        self._end.close()


class ScriptSpeech(Speech):
    """Questions and answers of a worker that runs a script.

    Descriptors travel as what lies behind them, but for those of a welcome's two slots.

    Args:
        wire: the local end; owned by this object from now on.
        of_server: whether what is heard here is the server's.
    """

    def __init__(self, wire: Wire, *, of_server: bool) -> None:
        self._wire, self._of_server = wire, of_server

    def fileno(self) -> int:
        """See `Speech`."""
        return self._wire.fileno()

    def hear(self) -> Said:
        """See `Speech`. Weights go down with a welcome, a release, and a lease that was waited for."""
        word, content, descriptors = self._wire.receive()
        brought = descriptors[:2] if word == WELCOME and self._of_server else []
        blobs = tuple(content_of(descriptor) for descriptor in descriptors[len(brought) :])
        if self._of_server:
            ships = DOWN if word in (WELCOME, "released") or content.get("released") is not None else ""
        else:
            ships = UP if word == "push" else ""
        return Said({"word": word, "content": content}, blobs, ships, tuple(brought))

    def say(self, content: Mapping[str, Any], blobs: Sequence[bytes | bytearray], slots: Sequence[int]) -> None:
        """See `Speech`."""
        lying = [memory_with(blob) for blob in blobs]
        try:
            word = content["word"]
            self._wire.send(word, content["content"], [*(slots if word == WELCOME else ()), *lying])
        finally:
            for descriptor in lying:
                os.close(descriptor)

    def hang_up(self) -> None:
        """See `Speech`."""
        self._wire.shut()

    def close(self) -> None:
        """See `Speech`."""
        self._wire.close()


def speech_of(end: socket.socket | Wire, speaks: str, *, of_server: bool) -> Speech:
    """For a local end at which this language is spoken: ``"task"`` or ``"script"``."""
    if speaks == "task":
        assert isinstance(end, socket.socket)
        return TaskSpeech(end, of_server=of_server)
    return ScriptSpeech(end if isinstance(end, Wire) else Wire(end), of_server=of_server)
