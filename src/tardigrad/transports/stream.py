"""Stream: one end of a connection over which words, plain data and memory travel, in order.

A message is a word, plain data as JSON, and *pieces* of memory. A piece that is sent to a *place*, such as a slot, is
received straight into that place; one without lies in the message, as a blob. Nothing is unpickled, what a message says
of its own size is compared with what is allowed, and memory is taken for it as its bytes come, not before.

On the wire: four bytes that say what this is, the length of the JSON, the JSON ``[word, content, [[place, offset,
bytes], ...]]``, and the pieces' bytes one after the other.

A line is healthy as long as bytes come. Where there is nothing to say each end sends a *beat*, an empty message, so
silence means that the other end, or the way to it, stands still: see `Channel`.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tardigrad.errors import ProtocolError
from tardigrad.transports.connections import Connection, Stalled

__all__ = ["Channel", "Message", "Piece", "Stalled"]

MOST_HEADER = 1 << 30  # bytes of a message's JSON
MOST_BLOBS = 1 << 34  # bytes of the pieces of one message that have no place
_MAGIC = b"tgs1"
_PREFIX = struct.Struct("<4sI")
_BEAT = _PREFIX.pack(_MAGIC, 0)
_AHEAD = 1 << 16  # bytes that are read at once where a header is expected
_GROWS = 1 << 22  # bytes by which memory that is taken for a message grows
_BEATS = 4  # within the patience
_SLOWER = 20.0  # times as long as at the rate measured, after which what still comes is given up
_SLOWEST = 2.0**16  # bytes a second, as long as no rate was measured
_TELLING = 1 << 18  # bytes of pieces from which a rate is measured
_NEW = 0.25  # weight of the last measurement


@dataclass(frozen=True, slots=True)
class Message:
    """What was received.

    Attributes:
        word: what it is about.
        content: plain data.
        blobs: the pieces without a place, in order.
    """

    word: str
    content: dict[str, Any]
    blobs: tuple[bytes | bytearray, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Memory that travels with a message.

    Attributes:
        place: where the other end puts it; empty: into the message, as a blob.
        memory: contiguous.
        offset: in bytes, from the beginning of the place.
    """

    place: str
    memory: bytes | bytearray | memoryview
    offset: int = 0


class Channel:
    """One end of a connection: messages in order.

    Any thread may send; one at a time receives, and whoever receives keeps the line alive by beats. The other end
    counts as stalled after ``patience`` seconds without a byte, in either direction; and where pieces take longer than
    both that and 20 times what so many bytes take at the rate that was measured here before.

    Args:
        connection: authenticated already; owned by this object from now on.
        patience: in seconds, > 0; the same at both ends.

    Attributes:
        peer: the other end's address, such as ``"10.0.0.2:41234"``.
        patience: as given.
        pause: in seconds; who has said nothing for longer sends a beat.
    """

    def __init__(self, connection: Connection, *, patience: float = 20.0) -> None:
        self.peer, self.patience, self.pause = connection.peer, patience, patience / _BEATS
        self._connection = connection
        self._places: dict[str, memoryview] = {}
        self._sending = threading.Lock()
        self._ahead = memoryview(bytearray(_AHEAD))
        self._start = self._end = 0  # of what was read ahead
        self._said = monotonic()
        self._seconds_a_byte = 0.0
        self._due = float("inf")
        self._closed = False
        connection.wait_at_most(send=patience, receive=self.pause)

    def place(self, name: str, memory: memoryview) -> None:
        """Receive pieces for this place straight into this memory from now on.

        A piece beyond its bounds, or for a place that nobody has named, is an error.
        """
        self._places[name] = memory.cast("B")

    def send(self, word: str, content: Mapping[str, Any] | None = None, pieces: Sequence[Piece] = ()) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone; `Stalled`: nothing could be sent for `patience` seconds.
            ProtocolError: for content that is too long; nothing is sent.
        """
        views = [memoryview(piece.memory).cast("B") for piece in pieces]
        sizes = [(piece.place, piece.offset, len(view)) for piece, view in zip(pieces, views, strict=True)]
        body = json.dumps([word, dict(content or {}), sizes], separators=(",", ":")).encode()
        if len(body) > MOST_HEADER:
            raise ProtocolError(f"a message {word!r} has {len(body)} bytes of content; at most {MOST_HEADER} travel.")
        with self._sending:
            self._connection.send([memoryview(_PREFIX.pack(_MAGIC, len(body)) + body), *views])
            self._said = monotonic()

    def receive(self) -> Message:
        """The next message, waited for.

        Raises:
            EOFError, OSError: the other end is gone; `Stalled`: it, or the way to it, stands still.
            ProtocolError: for bytes that are no message.
        """
        while True:
            magic, length = _PREFIX.unpack(self._read(_PREFIX.size))
            if magic != _MAGIC or length > MOST_HEADER:
                raise ProtocolError(f"{self.peer} sends {magic!r} and {length}, which begin no message.")
            if length:
                word, content, sizes = _header(self._read(length), self.peer)
                return Message(word, content, self._pieces(sizes))

    def keep_alive(self) -> None:
        """Beat if that is due; for the thread that receives, where it has something else to wait for."""
        self._beat(monotonic())

    def give_up(self) -> None:
        """Receive nothing more: whoever waits in `receive` comes back with an error. The other end hears nothing."""
        self._closed = True
        self._connection.deafen()

    def close(self) -> None:
        """End the connection; whoever waits in `receive` or `send` comes back with an error."""
        self._closed = True
        self._connection.close()
        self._places = {}

    # -- receiving -------------------------------------------------------------------------------------------

    def _pieces(self, sizes: Sequence[tuple[str, int, int]]) -> tuple[bytes | bytearray, ...]:
        """Take the pieces in, each where it belongs."""
        places = self._places
        if self._closed:  # looked at after the places, which are taken away after it is set
            raise EOFError("the connection was closed here")
        if unknown := {place for place, *_ in sizes if place and place not in places}:
            raise ProtocolError(f"{self.peer} sends something to {min(unknown)!r}, which is no place here.")
        whole = sum(size for *_, size in sizes)
        loose = sum(size for place, _, size in sizes if not place)
        if loose > MOST_BLOBS:
            raise ProtocolError(f"{self.peer} sends {loose} bytes for no place; at most {MOST_BLOBS} are taken.")
        since = monotonic()
        self._due = since + max(self.patience, _SLOWER * whole * (self._seconds_a_byte or 1.0 / _SLOWEST))
        blobs: list[bytes | bytearray] = []
        for place, offset, size in sizes:
            if not place:
                blobs.append(self._read(size))
                continue
            memory = places[place]
            if offset + size > len(memory):
                raise ProtocolError(f"{self.peer} sends {size} bytes to {offset} of {place!r}, of {len(memory)}.")
            self._read_into(memory[offset : offset + size])
        self._due = float("inf")
        if whole >= _TELLING:
            self._measured((monotonic() - since) / whole)
        return tuple(blobs)

    def _measured(self, seconds: float) -> None:
        """What a byte took: the first time as it is, then a running mean."""
        before = self._seconds_a_byte or seconds
        self._seconds_a_byte = before + _NEW * (seconds - before)

    def _read(self, size: int) -> bytes | bytearray:
        if self._end - self._start >= size:
            self._start += size
            return bytes(self._ahead[self._start - size : self._start])
        if size <= _AHEAD:
            self._fill(size)
            return self._read(size)
        memory = bytearray()
        while (start := len(memory)) < size:
            memory += bytes(min(_GROWS, size - start))
            with memoryview(memory) as whole, whole[start:] as view:
                self._read_into(view)
        return memory

    def _fill(self, size: int) -> None:
        """Read ahead until so many bytes are here."""
        left = self._end - self._start
        self._ahead[:left] = bytes(self._ahead[self._start : self._end])
        self._start, self._end = 0, left
        while self._end < size:
            self._end += self._wait_for(self._ahead[self._end :])

    def _read_into(self, view: memoryview) -> None:
        done = min(len(view), self._end - self._start)
        view[:done] = self._ahead[self._start : self._start + done]
        self._start += done
        while done < len(view):
            done += self._wait_for(view[done:])

    def _wait_for(self, view: memoryview) -> int:
        """At least one byte, and how many. What is silent is counted in waits: this process may have stood still."""
        for _ in range(_BEATS):
            count = self._connection.receive(view)
            now = monotonic()
            self._beat(now)
            if count == 0 or self._closed:
                raise EOFError(f"{self.peer} has ended the connection")
            if now > self._due:
                raise Stalled(f"{self.peer} sends far more slowly than before")
            if count > 0:
                return count
        raise Stalled(f"nothing came from {self.peer} for {self.patience:g} seconds")

    def _beat(self, now: float) -> None:
        """Say that this end lives, if it is time, unless it is sending anyway."""
        if now - self._said > self.pause and self._sending.acquire(blocking=False):
            try:
                self._connection.beat(_BEAT)
                self._said = now
            finally:
                self._sending.release()


def _header(body: bytes | bytearray, peer: str) -> tuple[str, dict[str, Any], list[tuple[str, int, int]]]:
    """Word, content, and (place, offset, bytes) of each piece.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        word, content, sizes = json.loads(body)
        pieces = [(str(place), int(offset), int(size)) for place, offset, size in sizes]
    except (ValueError, TypeError, OverflowError, RecursionError):
        begin = bytes(body[:16])
        raise ProtocolError(f"{peer} sends {len(body)} bytes beginning with {begin!r}: no message.") from None
    if not isinstance(word, str) or not isinstance(content, dict) or any(min(each[1:]) < 0 for each in pieces):
        raise ProtocolError(f"{peer} sends a message whose parts are not a word, data and pieces.")
    return word, content, pieces
