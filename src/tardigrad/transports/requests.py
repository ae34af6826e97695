"""Requests: what a worker that runs a script and its server say to each other, over a pair of sockets on one machine.

The worker asks and waits, the server answers. A message is a word and plain data, as JSON; descriptors may travel with
it: of slots, and of what is too long for one message, which then lies in memory of its own. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tardigrad.errors import ProtocolError

LARGEST = 65536  # bytes of a message over a pair of sockets; the kernel takes three times as many
_MOST_DESCRIPTORS = 8
_BESIDE = "beside"  # the word of a message whose content lies in the last descriptor


class Wire:
    """One end of a pair of sockets that keep messages apart; see `tardigrad.transports.slots.ends`."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """To be waited for by a selector: readable where a message or the other end's closing is there."""
        return self._end.fileno()

    def send(self, word: str, content: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()) -> None:
        """Send a message; the descriptors stay the caller's.

        Raises:
            OSError: the other end is closed.
        """
        body = json.dumps([word, dict(content or {})], separators=(",", ":")).encode()
        if len(body) <= LARGEST:
            self._send(body, descriptors)
            return
        lying = memory_with(body)
        try:
            self._send(json.dumps([_BESIDE, {}]).encode(), [*descriptors, lying])
        finally:
            os.close(lying)

    def receive(self) -> tuple[str, dict[str, Any], list[int]]:
        """The next message, waited for: its word, its content, and descriptors that are the caller's now.

        Raises:
            EOFError, OSError: the other end is closed.
            ProtocolError: for bytes that are no message.
        """
        body, descriptors, _, _ = socket.recv_fds(self._end, LARGEST, _MOST_DESCRIPTORS)
        if not body:
            raise EOFError
        try:
            word, content = _read(body)
            if word == _BESIDE and descriptors:
                word, content = _read(content_of(descriptors.pop()))
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return word, content, descriptors

    def shut(self) -> None:
        """Say and hear nothing more; the other end notices, and what was said already still arrives there."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end; the other one notices."""
        self._end.close()

    def _send(self, body: bytes, descriptors: Sequence[int]) -> None:
        if descriptors:
            socket.send_fds(self._end, [body], list(descriptors))
        else:
            self._end.send(body)


def memory_with(content: bytes | bytearray) -> int:
    """The descriptor of a new piece of memory with this content, which may travel."""
    descriptor = os.memfd_create("message", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def content_of(descriptor: int) -> bytes:
    """The content of such a piece of memory, or of any file, whose descriptor is taken over."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def json_of(body: bytes) -> Any:
    """What this JSON says. Raises ProtocolError: it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{len(body)} bytes beginning with {body[:16]!r}, which are no JSON.") from None


def _read(body: bytes) -> tuple[str, dict[str, Any]]:
    match json_of(body):
        case [str(word), dict(content)]:
            return word, content
    raise ProtocolError(f"a message of {len(body)} bytes beginning with {body[:16]!r} is no request.")
