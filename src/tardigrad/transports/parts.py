"""Parts: of a worker's slots, the ranges that other shards hold travel on connections of their own.

The bridge of a worker carries its messages, and what the first shard holds. Every other shard has one more connection
with the worker's machine, over which its range comes and goes, each time with the number of the bridge's message that
it belongs to. A message is handed on only when all parts of its number are there: so the server never sees a push of
which a part is missing, and a worker never computes on weights of two versions.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tardigrad.errors import ProtocolError
from tardigrad.transports.connections import Stalled
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import dial, parse_address
from tardigrad.transports.speech import DOWN, UP
from tardigrad.transports.stream import Channel, Piece

_PARTS, _READY, _PART = "parts", "ready", "part"
_DIALLING = 10.0  # seconds for one attempt
_EXPECTING = 5.0  # seconds by which a worker may be here before what the server says of it


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Bytes ``[start, stop)`` of a slot travel to and from another shard.

    Attributes:
        address: where that shard listens; without a host, on the machine where the server was dialled.
        start, stop: of the range.
    """

    address: str
    start: int
    stop: int

    def reached_by(self, peer: str) -> str:
        """The address to dial, where the server was reached at ``peer``."""
        host, port = parse_address(self.address)
        server, _ = parse_address(peer)
        chosen = host or server
        return f"[{chosen}]:{port}" if ":" in chosen else f"{chosen}:{port}"


class Tally:
    """Which parts have come in, up to which number; several threads note, one waits.

    Args:
        keys: of the shards.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        self._numbers = dict.fromkeys(keys, 0)
        self._lost: set[int] = set()
        self._closed = False
        self._changed = threading.Condition()

    def note(self, key: int, number: int) -> None:
        """The part of this shard is there, up to this number."""
        with self._changed:
            self._numbers[key] = max(self._numbers[key], number)
            self._changed.notify_all()

    def lose(self, key: int, *, lost: bool = True) -> None:
        """The connection with this shard is lost, or is there again."""
        with self._changed:
            (self._lost.add if lost else self._lost.discard)(key)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Whoever waits looks again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, number: int, meanwhile: Callable[[], None] = lambda: None, every: float | None = None) -> bool:
        """Wait until all parts of this number are there; False: closed.

        Args:
            number: see above.
            meanwhile: called before each wait, under a lock: it must not wait itself. What it raises is raised here.
            every: seconds that one wait takes at most; None: until something changes.

        Raises:
            Stalled: a connection is lost on which one is missing.
        """
        with self._changed:
            while not self._closed:
                missing = {key for key, came in self._numbers.items() if came < number}
                if not missing:
                    return True
                if missing & self._lost:
                    raise Stalled(f"the connection with shard {min(missing & self._lost)} is lost")
                meanwhile()
                self._changed.wait(every)
        return False


class Line:
    """One connection with one shard, at either end: sends a range of one slot, receives that of the other.

    Args:
        channel: that is authenticated and says whose it is; owned by this object from now on.
        outgoing: memory that is sent.
        came: told of each number that came in, in the receiving thread.
        lost: told, in that thread, that the connection is gone; not after `close`.
    """

    def __init__(
        self,
        channel: Channel,
        outgoing: tuple[str, memoryview],
        *,
        came: Callable[[int], None],
        lost: Callable[[], None],
    ) -> None:
        self._channel, self._outgoing, self._came, self._lost = channel, outgoing, came, lost
        self._numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._closing = False
        name = f"part-{channel.peer}"
        self._threads = [
            threading.Thread(target=run, name=f"{name}-{what}", daemon=True)
            for run, what in ((self._send, "out"), (self._receive, "in"))
        ]
        for thread in self._threads:
            thread.start()

    def ship(self, number: int) -> None:
        """Send the range, under this number. Never blocks: nobody writes it before the other end has answered."""
        self._numbers.put(number)

    def close(self) -> None:
        """Close the connection; leaves no thread behind."""
        self._closing = True
        self._numbers.put(None)
        self._channel.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _send(self) -> None:
        place, memory = self._outgoing
        while (number := self._numbers.get()) is not None:
            try:
                self._channel.send(_PART, {"number": number}, [Piece(place, memory)])
            except OSError:
                self._channel.give_up()  # whoever receives tells of it
                return

    def _receive(self) -> None:
        with suppress(EOFError, OSError, ProtocolError, KeyError, TypeError, ValueError):
            while True:
                message = self._channel.receive()
                if message.word == _PART:
                    self._came(int(message.content["number"]))
        self._channel.close()
        if not self._closing:
            self._lost()


class WorkerParts:
    """The worker's side: connections with every other shard. A `tardigrad.transports.bridge.Parts`.

    Args:
        down, up: memory of the worker's slots, from the first byte.
        elsewhere: what travels to other shards; in order, without gaps.
        life: of the worker, as the server told it.
        credentials: to be proven.
    """

    def __init__(
        self,
        down: memoryview,
        up: memoryview,
        elsewhere: Sequence[Elsewhere],
        life: str,
        credentials: Credentials,
    ) -> None:
        self._down, self._up, self._elsewhere = down, up, list(elsewhere)
        self._life, self._credentials = life, credentials
        self._tally = Tally(range(len(self._elsewhere)))
        self._lines: dict[int, Line] = {}
        self._lock = threading.Lock()

    def connect(self, peer: str, *, timeout: float = _DIALLING) -> str:
        """Dial every shard, again where there was a connection before; what cannot be reached counts as lost.

        Returns:
            Which cannot be reached, where that would be, and why; empty where all were.
        """
        self._hang_up()
        missing = []
        for key, each in enumerate(self._elsewhere):
            self._tally.lose(key)
            address = each.reached_by(peer)
            try:
                self._begin(key, each, dial(address, self._credentials, timeout=timeout))
                self._tally.lose(key, lost=False)
            except (OSError, EOFError, ProtocolError) as error:
                missing.append(f"shard {key + 1} at {address} cannot be reached ({str(error) or 'it hung up'})")
        return ", ".join(missing)

    def mine(self, size: int) -> list[slice]:
        """See `Parts`."""
        return bytes_of_first(self._elsewhere, size)

    def ship(self, number: int) -> None:
        """See `Parts`."""
        with self._lock:
            for line in self._lines.values():
                line.ship(number)

    def arrived(self, number: int, meanwhile: Callable[[], None] = lambda: None, every: float | None = None) -> bool:
        """See `Parts`."""
        return self._tally.wait(number, meanwhile, every)

    def wake(self) -> None:
        """See `Parts`."""
        self._tally.wake()

    def close(self) -> None:
        """See `Parts`."""
        self._tally.close()
        self._hang_up()

    def _begin(self, key: int, each: Elsewhere, channel: Channel) -> None:
        channel.place(DOWN, self._down[each.start : each.stop])
        channel.send(_PARTS, {"life": self._life})
        if channel.receive().word != _READY:
            channel.close()
            raise ProtocolError("a shard knows nothing of this worker.")
        outgoing = UP, self._up[each.start : each.stop]
        with self._lock:
            self._lines[key] = Line(
                channel,
                outgoing,
                came=lambda number: self._tally.note(key, number),
                lost=lambda: self._tally.lose(key),
            )

    def _hang_up(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, {}
        for line in lines.values():
            line.close()


class Told(Protocol):
    """Carries what the server says to a desk, and what that reports; a `tardigrad.shards.far.Post` does."""

    def send(self, word: str, content: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        """Send a message; from any thread. Raises OSError."""

    def receive(self) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
        """The next message, waited for. Raises EOFError, OSError, ProtocolError."""


class Desk:
    """A shard's side: one connection for each life of a worker that the server has told of.

    Args:
        memory_of: the shard's range of a worker's slots, down and up.
        post: to the server, which is told ``"in"`` {life, number}, ``"came"`` or ``"lost"`` {life}; stays the caller's.
    """

    def __init__(self, memory_of: Callable[[int], tuple[memoryview, memoryview]], post: Told) -> None:
        self._memory_of, self._post = memory_of, post
        self._expected: dict[str, tuple[memoryview, memoryview]] = {}
        self._wanted: dict[str, int] = {}  # life -> the last number that was to be shipped
        self._lines: dict[str, Line] = {}
        self._lock = threading.Condition()

    def serve(self) -> None:
        """Hear what the server says of workers, until it is gone."""
        with suppress(EOFError, OSError, ProtocolError):
            while True:
                word, content, _ = self._post.receive()
                self.hear(word, content)

    def hear(self, word: str, content: Mapping[str, Any]) -> None:
        """What the server says: ``expect`` {life, worker}, ``ship`` {life, number}, ``forget`` {life}."""
        life = content["life"]
        if word == "expect":
            with self._lock:
                self._expected[life] = self._memory_of(content["worker"])
                self._lock.notify_all()
        elif word == "ship":
            with self._lock:
                self._wanted[life] = content["number"]
                line = self._lines.get(life)
            if line is not None:
                line.ship(content["number"])
        elif word == "forget":
            with self._lock:
                self._expected.pop(life, None)
                self._wanted.pop(life, None)
                line = self._lines.pop(life, None)
            if line is not None:
                line.close()

    def met(self, channel: Channel) -> None:
        """Somebody who holds the secret has dialled: take it for the worker that it says it is."""
        try:
            message = channel.receive()
            life = str(message.content.get("life"))
            with self._lock:
                self._lock.wait_for(lambda: life in self._expected, _EXPECTING)
                memory, before = self._expected.get(life), self._lines.pop(life, None)
            if before is not None:
                before.close()  # the worker has come again
            if message.word != _PARTS or memory is None:
                channel.close()
                return
            self._begin(channel, life, *memory)
        except (EOFError, OSError, ProtocolError):
            channel.close()

    def close(self) -> None:
        """Close every connection; leaves no thread behind."""
        with self._lock:
            lines, self._lines = self._lines, {}
            self._expected.clear()
        for line in lines.values():
            line.close()

    def _report(self, word: str, content: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the server is gone, and with it this shard
            self._post.send(word, content, {})

    def _begin(self, channel: Channel, life: str, down: memoryview, up: memoryview) -> None:
        channel.place(UP, up)
        channel.send(_READY)
        with self._lock:
            line = self._lines[life] = Line(
                channel,
                (DOWN, down),
                came=lambda number: self._report("in", {"life": life, "number": number}),
                lost=lambda: self._report("lost", {"life": life}),
            )
            wanted = self._wanted.get(life)
        self._report("came", {"life": life})
        if wanted is not None:
            line.ship(wanted)


def bytes_of_first(elsewhere: Sequence[Elsewhere], size: int) -> list[slice]:
    """What of a slot of so many bytes the first shard holds: the beginning, and the model's buffers behind."""
    return [slice(0, elsewhere[0].start), slice(elsewhere[-1].stop, size)]
