"""Connections: what carries a channel's bytes, a socket as it is or TLS over one.

Both wait in the kernel, with its own time limits, so that a wait costs one system call. TLS runs in memory, beside the
socket: OpenSSL allows one thread at a time in a connection, and a thread that waits for bytes must not be that one.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

CHUNK = 1 << 20  # bytes, about, handed to the kernel in one call; far larger ones are slower, as measured
_RECORDS = 1 << 18  # bytes encrypted, or read to be decrypted, at once
_TIME = struct.Struct("@ll")  # seconds and microseconds


class Stalled(OSError):
    """The other end, or the way to it, stands still: no byte came or could be sent, or far too slowly."""


class Connection(Protocol):
    """What carries the bytes. Calls block; at most one thread sends, and one receives, at a time."""

    peer: str

    def send(self, views: Sequence[memoryview]) -> None:
        """All of these bytes. Raises OSError, and `Stalled` where none could be sent for as long as was set."""

    def beat(self, frame: bytes) -> None:
        """These few bytes, unless others are on their way; never blocks, and raises nothing."""

    def receive(self, view: memoryview) -> int:
        """At least one byte into this memory, and how many: 0 at the end, -1 where none came for as long as was set."""

    def wait_at_most(self, *, send: float, receive: float) -> None:
        """For how many seconds without a byte `send` and `receive` wait, > 0."""

    def deafen(self) -> None:
        """Receive nothing more: whoever waits for bytes comes back. The other end hears nothing of it."""

    def shut(self) -> None:
        """End it both ways: whoever waits comes back."""

    def close(self) -> None:
        """Give it back, after `shut`."""


class Plain:
    """A socket as it is.

    Args:
        connected: a stream socket that blocks; owned by this object from now on.
        peer: the other end's address.
    """

    def __init__(self, connected: socket.socket, peer: str) -> None:
        self.peer = peer
        self._socket = connected
        self._rest = b""  # of a beat that did not go out whole

    def block(self) -> None:
        """Let Python wait for nothing itself."""
        self._socket.settimeout(None)

    def send(self, views: Sequence[memoryview]) -> None:
        """See `Connection`."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._send_batch([memoryview(rest)])
        for batch in batches(views, CHUNK):
            self._send_batch(batch)

    @property
    def is_late(self) -> bool:
        """Whether an earlier beat has not gone out whole."""
        return bool(self._rest)

    def beat(self, frame: bytes) -> None:
        """See `Connection`. What does not go out now goes before what is sent next."""
        self._rest = self._rest or frame
        with suppress(OSError):
            self._rest = self._rest[self._socket.send(self._rest, socket.MSG_DONTWAIT) :]

    def receive(self, view: memoryview) -> int:
        """See `Connection`."""
        try:
            return self._socket.recv_into(view)
        except BlockingIOError:
            return -1

    def wait_at_most(self, *, send: float, receive: float) -> None:
        """See `Connection`."""
        limit_waits(self._socket, send=send, receive=receive)

    def deafen(self) -> None:
        """See `Connection`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def shut(self) -> None:
        """See `Connection`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Connection`."""
        self.shut()
        self._socket.close()

    def _send_batch(self, batch: list[memoryview]) -> None:
        while batch:
            try:
                sent = self._socket.sendmsg(batch)
            except BlockingIOError:
                raise Stalled(f"{self.peer} takes nothing any more") from None
            batch = beyond(batch, sent)


class Sealed:
    """TLS over a socket; its handshake is over.

    Args:
        plain: the socket's connection; owned by this object from now on.
        tls: what encrypts and decrypts, into and out of the two buffers.
        incoming, outgoing: encrypted bytes, read and not yet decrypted; encrypted and not yet sent.
    """

    def __init__(self, plain: Plain, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self.peer = plain.peer
        self._plain, self._tls, self._incoming, self._outgoing = plain, tls, incoming, outgoing
        self._lock = threading.Lock()  # around OpenSSL, never around a wait
        self._read = memoryview(bytearray(_RECORDS))

    def send(self, views: Sequence[memoryview]) -> None:
        """See `Connection`."""
        for batch in batches(views, _RECORDS):
            self._plain.send([memoryview(self._encrypted(batch))])

    def beat(self, frame: bytes) -> None:
        """See `Connection`."""
        self._plain.beat(b"" if self._plain.is_late else self._encrypted([memoryview(frame)]))

    def receive(self, view: memoryview) -> int:
        """See `Connection`."""
        while (count := self._decrypted(view)) < 0:
            arrived = self._plain.receive(self._read)
            if arrived < 0:
                return -1
            with self._lock:
                if arrived:
                    self._incoming.write(self._read[:arrived])
                else:
                    self._incoming.write_eof()
        return count

    def wait_at_most(self, *, send: float, receive: float) -> None:
        """See `Connection`."""
        self._plain.wait_at_most(send=send, receive=receive)

    def deafen(self) -> None:
        """See `Connection`."""
        self._plain.deafen()

    def shut(self) -> None:
        """See `Connection`."""
        self._plain.shut()

    def close(self) -> None:
        """See `Connection`."""
        self._plain.close()

    def _encrypted(self, batch: Sequence[memoryview]) -> bytes:
        with self._lock:
            for view in batch:
                self._tls.write(view)
            return self._outgoing.read()

    def _decrypted(self, view: memoryview) -> int:
        """Bytes that are here already; 0 at the end, also one that was cut off; -1: none yet."""
        with self._lock:
            try:
                return self._tls.read(len(view), view)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                return -1
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0


def limit_waits(connected: socket.socket, *, send: float, receive: float) -> None:
    """Have the kernel end a wait of this socket after so many seconds, with EAGAIN; at least a microsecond."""
    for option, seconds in ((socket.SO_SNDTIMEO, send), (socket.SO_RCVTIMEO, receive)):
        whole, rest = divmod(max(1, round(seconds * 1e6)), 1_000_000)
        connected.setsockopt(socket.SOL_SOCKET, option, _TIME.pack(whole, rest))


def batches(views: Sequence[memoryview], most: int) -> Iterator[list[memoryview]]:
    """These bytes in order, in lists as long as each other, of about ``most`` bytes: less than half more.

    A short rest costs a call, and a wait of whoever receives, as a whole list does: so there is none.
    """
    whole = sum(map(len, views))
    most = -(-whole // max(1, round(whole / most)))
    batch: list[memoryview] = []
    left = most
    for view in views:
        start = 0
        while start < len(view):
            batch.append(view[start : start + left])
            start += len(batch[-1])
            left -= len(batch[-1])
            if left == 0:
                yield batch
                batch, left = [], most
    if batch:
        yield batch


def beyond(batch: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of a batch of which so many bytes are gone."""
    for number, view in enumerate(batch):
        if sent < len(view):
            return [view[sent:], *batch[number + 1 :]]
        sent -= len(view)
    return []
