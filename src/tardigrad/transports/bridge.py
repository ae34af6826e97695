"""Bridge: what a server and a worker of two machines say to each other, carried from one world of slots to the other.

On the server's machine a bridge holds the end that a local worker would hold; on the worker's machine another one
holds the end that a local server would hold. So neither knows of the network. What is said on one side is said on the
other, in order and once, and what a slot holds travels with the message that hands it over.

Messages are *letters* with numbers. Each side keeps the letters that the other has not confirmed, and a letter that
hands a slot over is sent from the slot, also the second time: until it has arrived nobody writes there, since whose
turn a slot is changes with messages only. So when a channel is lost the bridges go on over the next one, and what was
half received is received again.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Literal

from tardigrad.errors import ProtocolError
from tardigrad.transports.letters import Letter, Letters, Parts
from tardigrad.transports.lying import Lying
from tardigrad.transports.packing import Flat, Packed
from tardigrad.transports.requests import Wire
from tardigrad.transports.routes import Route
from tardigrad.transports.slots import Slot
from tardigrad.transports.speech import DOWN, UP, Said, speech_of
from tardigrad.transports.stream import MOST_BLOBS, Channel, Message, Piece

_RELAY, _TELL, _END, _FURNISH = "relay", "tell", "end", "furnish"
_PARTING = 1.0  # seconds that letters may take to go out when a bridge is closed


class Bridge:
    """Relays between a local end, with its slots, and the other bridge.

    Args:
        end: ``side="server"``: the end that a worker would hold; ``"worker"``: the one that a server would hold, a
            `Wire` where several processes are one worker. Owned by this object from now on.
        side: on whose machine this bridge is.
        down, up: the slots; None where a script has not prepared yet. They stay the caller's.
        speaks: ``"task"``: orders and answers of `tardigrad.transports.slots`; ``"script"``: words of
            `tardigrad.transports.requests`.
        told: called with each control word that the other bridge's owner told, in a thread of this object; with
            ``"ended"``, and what ``ended`` returned there, before a server's bridge closes its end.
        lost: called when a channel is lost, in the receiving thread: ``"ended"`` or ``"stalled"``, and in words what
            was wrong, empty where the other end just went away. Not after `detach`, `attach` or `close`, which give a
            channel up themselves.
        wire: how gradients travel: ``"float32"`` (as they are) or ``"bfloat16"``: rounded to it already, in 2 bytes a
            number, where no parts travel elsewhere.
        parts: what of the slots travels elsewhere; None: nothing.
        ended: asked once when the local end is at its end, in the sending thread; what it returns goes to `told` there.
        heard: shown each message of a task's worker; those for which it returns False are thrown away.

    Attributes:
        received: how many letters have come in over all channels.
    """

    def __init__(
        self,
        end: socket.socket | Wire,
        *,
        side: Literal["server", "worker"],
        down: Slot | None,
        up: Slot | None,
        speaks: Literal["task", "script"],
        told: Callable[[str, dict[str, Any]], None],
        lost: Callable[[str, str], None],
        wire: str = "float32",
        parts: Parts | None = None,
        ended: Callable[[], Mapping[str, Any]] | None = None,
        heard: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.received = 0
        self._speech = speech_of(end, speaks, of_server=side == "server")
        self._told, self._lost, self._parts, self._ended, self._heard = told, lost, parts, ended, heard
        self._of_server = side == "server"
        self._incoming_slot = UP if side == "server" else DOWN
        self._lying: dict[str, Lying] = {}
        self._packs = wire == "bfloat16" and parts is None
        self._flat: Flat | None = None
        self._packed: Packed | None = None
        self._lock = threading.Lock()
        self._letters = Letters()
        self._arrived: deque[tuple[float, Message]] = deque()  # to be handed on later, each at its moment
        self._late = 0.0
        self._route: Route | None = None
        self._listening, self._closing = True, False
        self._wake = os.eventfd(0)
        if down is not None and up is not None:
            self._flat = Flat.of(up)
            self._furnish([Lying.of(down), Lying.of(up)])
        self._sending = threading.Thread(target=self._send, name=f"bridge-{side}", daemon=True)
        self._sending.start()

    # -- for the owner ---------------------------------------------------------------------------------------

    def attach(self, channel: Channel, *, received: int = 0) -> None:
        """Begin, or go on: what the other bridge has not received, by number, is sent (again). Exactly once, in order.

        Raises:
            ProtocolError: what it says it received was never sent, or is not kept any more.
        """
        self.detach()
        with self._lock:
            self._letters.confirm(received)
            self._route = route = Route(channel, received)
            self._place(channel)
            name = f"{self._sending.name}-from-{channel.peer}"
            route.receiving = threading.Thread(target=self._receive, args=(route,), name=name, daemon=True)
            route.receiving.start()
        self._wake_up()

    def detach(self) -> int:
        """Give up the present channel, if there is one; how many letters have come in, now for certain."""
        with self._lock:
            route, self._route = self._route, None
        if route is not None:
            route.quiet = True
            route.channel.close()
            self._stop_waiting()
            route.join()
        return self.received

    def tell(self, word: str, content: Mapping[str, Any] | None = None) -> None:
        """A control word for the other bridge's owner, in order with messages, and kept as they are. Never blocks."""
        self._write(_TELL, Said({"word": word, "content": dict(content or {})}))
        self._wake_up()

    def slow_down(self, seconds: float) -> None:
        """From now on whatever this bridge sends or hands on is so many seconds late, in order; 0.0: no more."""
        self._late = seconds

    def cut(self) -> None:
        """As if the cable were cut: the channel is given up without a word; `lost` hears ``"stalled"``."""
        with self._lock:
            route = self._route
        if route is not None:
            route.why = route.why or "stalled"
            route.channel.close()
            self._stop_waiting()

    def close(self) -> None:
        """Close the end and the channel; what was told still goes out if it can at once. Leaves no thread behind."""
        self._closing = True
        self._wake_up()
        if self._sending is not threading.current_thread():
            self._sending.join(_PARTING)
        if self._parts is not None:
            self._parts.close()
        self._speech.hang_up()
        self.detach()
        if self._sending is not threading.current_thread():
            self._sending.join()
        with self._lock:
            self._speech.close()
            for lying in self._lying.values():
                lying.close()
            self._lying = {}
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    # -- the sending thread ----------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send letters, hear the local end, and hand on what is late, until the bridge is closed."""
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        waiting.register(self._speech.fileno(), select.POLLIN)
        while not (self._closing and not self._unsent(hurry=True)):
            if self._send_one() or self._hand_on_late():
                continue
            for descriptor, _ in waiting.poll(self._milliseconds()):
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif not self._listening or not self._hear():
                    waiting.unregister(descriptor)

    def _unsent(self, *, hurry: bool = False) -> tuple[Route, Letter] | None:
        """The next letter, if there is a channel to send it over and it is time."""
        with self._lock:
            route = self._route
            letter = None if route is None or route.why else self._letters.after(route.passed)
        if route is None or letter is None or (letter.due > monotonic() and not hurry):
            return None
        return route, letter

    def _send_one(self) -> bool:
        """Whether there was a letter to send."""
        unsent = self._unsent(hurry=self._closing)
        if unsent is None:
            return False
        route, letter = unsent
        said = letter.said
        content = {"number": letter.number, "got": self.received, "said": said.content, "ships": said.ships}
        try:
            if said.ships and self._parts is not None:
                self._parts.ship(letter.number)
            blobs = [Piece("", blob) for blob in said.blobs]
            route.channel.send(letter.word, content, [*blobs, *self._shipped(said.ships)])
            route.passed = letter.number
        except Exception as error:  # whoever receives tells of it
            self._break(route, error)
        return True

    def _shipped(self, ships: str) -> list[Piece]:
        """What travels of a slot."""
        if not ships:
            return []
        if ships == UP and self._packed is not None:
            self._packed.pack()
            return [Piece(ships, self._packed.memory)]
        memory = self._lying[ships].memory
        ranges = [slice(0, len(memory))] if self._parts is None else self._parts.mine(len(memory))
        return [Piece(ships, memory[each], each.indices(len(memory))[0]) for each in ranges]

    def _hear(self) -> bool:
        """Take in what the local end says; whether there will be more. What cannot be taken in is its end."""
        try:
            said = self._speech.hear()
            if self._heard is None or self._heard(said.blobs[0]):
                self._relay(said)
        except Exception:
            self._listening = False
            self._write(_END, Said({} if self._ended is None else self._ended()))
            return False
        return True

    def _relay(self, said: Said) -> None:
        try:
            if said.brought:
                self._furnish([Lying.copied(descriptor) for descriptor in said.brought])
                self._write(_FURNISH, Said({"bytes": len(self._lying[DOWN].memory)}))
        finally:
            for descriptor in said.brought:
                os.close(descriptor)
        self._note(said.content)
        self._write(_RELAY, said)

    def _note(self, content: Mapping[str, Any]) -> None:
        """A script that prepares says what its slots will begin with."""
        if self._packs and content.get("word") == "prepare":
            self._flat = Flat.prepared(content["content"])

    def _write(self, word: str, said: Said) -> None:
        with self._lock:
            if not self._closing:
                self._letters.write(word, said, due=monotonic() + self._late if self._late else 0.0)

    def _milliseconds(self) -> float | None:
        """Until the next letter or message is due; None: none waits."""
        with self._lock:
            due = [moment for moment, _ in self._arrived]
            if self._route is not None and not self._route.why:
                letter = self._letters.after(self._route.passed)
                due += [letter.due] if letter is not None else []
        return max(0.0, 1e3 * (min(due) - monotonic())) if due else None

    def _hand_on_late(self) -> bool:
        """Whether a message was due."""
        with self._lock:
            if not self._arrived or self._arrived[0][0] > monotonic():
                return False
            _, message = self._arrived[0]
            route = self._route
        try:
            self._hand_on(message)
        except Exception as error:  # it was counted, so it will not come again: that is the end
            self._speech.hang_up()
            if route is not None:
                self._break(route, error)
        with self._lock:
            self._arrived.popleft()
        return True

    # -- the receiving thread --------------------------------------------------------------------------------

    def _receive(self, route: Route) -> None:
        """Take in what comes over one channel, until its end, whatever that is.

        One that stalls stays open until the next comes: its end, arriving late, would look like a death over there.
        """
        try:
            while True:
                self._take(route, route.channel.receive())
        except Exception as error:
            route.ends(error)
        if route.why == "ended":
            route.channel.close()
        if not route.quiet and not self._closing:
            self._lost(route.why, route.words)

    def _take(self, route: Route, message: Message) -> None:
        """Count a letter, and hand on what it says; now, or late where that is wanted."""
        try:
            number, got, ships = int(message.content["number"]), int(message.content["got"]), message.content["ships"]
            said = dict(message.content["said"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ProtocolError(f"a message {message.word!r} without what a bridge adds to it.") from None
        with self._lock:
            if number != self.received + 1:
                raise ProtocolError(f"message {number} came after message {self.received}.")
            self._letters.confirm(got)
        if ships:
            self._came_in(route, number)
        self.received = number
        message = Message(message.word, said, message.blobs)
        if self._late or self._arrived:
            with self._lock:
                self._arrived.append((monotonic() + self._late, message))
            self._wake_up()
            return
        try:
            self._hand_on(message)
        except Exception:
            self.received = number - 1  # nobody has it
            raise

    def _came_in(self, route: Route, number: int) -> None:
        """What letter ``number`` ships of the other side's slot lies in this side's, but for what travels elsewhere."""
        if self._parts is not None and not self._parts.arrived(number, route.keep, route.channel.pause):
            raise EOFError("closing")
        if self._of_server and self._packed is not None:
            self._packed.unpack()

    def _hand_on(self, message: Message) -> None:
        """Do what a letter says."""
        word = message.word
        try:
            if word == _TELL:
                self._told(message.content["word"], message.content["content"])
            elif word == _END:
                if self._of_server:
                    self._told("ended", message.content)
                self._listening = False
                self._speech.hang_up()
            elif word == _FURNISH:
                self._furnish([Lying.new(name, _size(message.content["bytes"])) for name in (DOWN, UP)])
            elif word == _RELAY:
                self._note(message.content)
                slots = [self._lying[name].descriptor for name in (DOWN, UP) if name in self._lying]
                with suppress(BrokenPipeError, ConnectionResetError):  # that is heard where the end is read
                    self._speech.say(message.content, message.blobs, slots)
            else:
                raise ProtocolError(f"{word!r} is no word of a bridge.")
        except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
            raise ProtocolError(f"a letter {word!r} that cannot be read: {error!r}.") from None
        except OSError as error:
            raise ProtocolError(f"a letter {word!r} that cannot be handed on: {error}.") from error

    def _furnish(self, slots: Sequence[Lying]) -> None:
        """A script has prepared: its slots are here."""
        with self._lock:
            for lying in self._lying.values():
                lying.close()
            self._lying = dict(zip((DOWN, UP), slots, strict=True))
            if self._packs and self._flat is not None:
                self._packed = Packed(self._lying[UP].memory, self._flat)
            if self._route is not None:
                self._place(self._route.channel)

    # -- both ------------------------------------------------------------------------------------------------

    def _place(self, channel: Channel) -> None:
        if self._incoming_slot in self._lying:
            packed = self._packed if self._incoming_slot == UP else None
            memory = self._lying[self._incoming_slot].memory if packed is None else packed.memory
            channel.place(self._incoming_slot, memory)

    def _break(self, route: Route, error: Exception) -> None:
        """Nothing goes on over this one; the thread that receives comes back, and tells of it."""
        route.ends(error)
        route.channel.give_up()
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        """Of a channel that was given up nobody awaits parts."""
        if self._parts is not None:
            self._parts.wake()

    def _wake_up(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)


def _size(size: Any) -> int:
    if not 0 < int(size) <= MOST_BLOBS:
        raise ValueError(f"a slot of {size} bytes")
    return int(size)
