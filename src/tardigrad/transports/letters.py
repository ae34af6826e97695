"""Letters: what one side of a bridge has written, kept until the other confirms it, so that it may be sent again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tardigrad.errors import ProtocolError
from tardigrad.transports.speech import Said


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to the other bridge.

    Attributes:
        number: from 1 on, over all channels.
        word, said: what it says.
        due: the moment before which it is not sent.
    """

    number: int
    word: str
    said: Said
    due: float = 0.0


class Letters:
    """Those that the other side has not confirmed, in order.

    Attributes:
        written: how many there were in all.
    """

    def __init__(self) -> None:
        self.written = 0
        self._kept: deque[Letter] = deque()

    def write(self, word: str, said: Said, *, due: float = 0.0) -> None:
        """Keep another one."""
        self.written += 1
        self._kept.append(Letter(self.written, word, said, due))

    def confirm(self, number: int) -> None:
        """The other side has received all up to this one.

        Raises:
            ProtocolError: it was never written, or one before it is not kept any more.
        """
        first = self.written - len(self._kept)
        if not first <= number <= self.written:
            raise ProtocolError(f"the other side says it received {number} of {self.written} messages.")
        while self._kept and self._kept[0].number <= number:
            self._kept.popleft()

    def after(self, number: int) -> Letter | None:
        """The next one."""
        place = len(self._kept) - (self.written - number)
        return self._kept[max(0, place)] if number < self.written else None


class Parts(Protocol):
    """What of a slot travels elsewhere: on connections of its own, straight to and from other shards."""

    def mine(self, size: int) -> Sequence[slice]:
        """The ranges of a slot of this many bytes that the bridge itself ships."""

    def ship(self, number: int) -> None:
        """Letter ``number``, with a slot, is being sent, perhaps again: ship the other ranges. May block."""

    def arrived(self, number: int, meanwhile: Callable[[], None], every: float) -> bool:
        """Wait until the other ranges of letter ``number`` are in the slot; False: closing.

        As long as they are not, ``meanwhile`` is called: first, after `wake`, and every so many seconds. What it raises
        ends the wait.
        """

    def wake(self) -> None:
        """Have who waits in `arrived` call its ``meanwhile`` at once; from any thread."""

    def close(self) -> None:
        """Give up; who waits in `arrived` comes back."""
