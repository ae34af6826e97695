"""Reception: where agents come in. It lets in those that hold the secret and run the same code, and says to the others
why not; who becomes which worker is the engine's to say.

What happens here happens in threads, one for each that comes; the engine hears of it through a queue, and is woken.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tardigrad.engines.base import Meeting
from tardigrad.engines.joined.facts import Facts, compare
from tardigrad.engines.joined.greeting import HELLO, OVER, REFUSED, WAIT, Hello
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.invitation import SECRET, SECRET_VARIABLE, Invitation, reachable, withdraw
from tardigrad.transports.credentials import Credentials, new_secret, read_secret, require_secret, write_secret
from tardigrad.transports.meeting import Listener
from tardigrad.transports.stream import Channel

_HELD = 3.0  # seconds for which an agent for which there is no room now is kept at the door before it asks again


@dataclass(frozen=True, slots=True)
class Arrival:
    """An agent offers a place, or wants to go on with what it was.

    Attributes:
        channel: to it.
        hello: what it said first.
        until: when it is to be told something at the latest, by `time.monotonic`.
    """

    channel: Channel
    hello: Hello
    until: float = field(default_factory=lambda: monotonic() + _HELD)

    def is_given_up(self, patience: float) -> bool:
        """Whether the agent has waited for so many seconds, and is not there any more."""
        return monotonic() - (self.until - _HELD) > patience

    def ask_again(self) -> None:
        """There is no room now: it asks again at once, which shows that it is still there."""
        answer(self.channel, WAIT, {"seconds": 0.0})


def answer(channel: Channel, word: str, content: Mapping[str, Any]) -> None:
    """Say a last word, and close."""
    with suppress(OSError):
        channel.send(word, content)
    channel.close()


class Mailbox:
    """What threads have to say to the engine, in order; readable where there is something."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # nobody rings a bell that is closed

    def fileno(self) -> int:
        """To be waited for by a selector."""
        return self._bell

    def post(self, action: Callable[[], None]) -> None:
        """Have the engine do this; after `close` nothing is done."""
        with self._lock:
            if self._bell >= 0:
                self._waiting.append(action)
                os.eventfd_write(self._bell, 1)

    def empty(self) -> None:
        """Do what is there."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while self._waiting:
            self._waiting.popleft()()

    def close(self) -> None:
        """Take nothing more."""
        with self._lock:
            os.close(self._bell)
            self._bell = -1


class Reception:
    """Listens for agents.

    Args:
        meeting: where, and with which secret.
        facts: what a worker of this machine would compute with; an agent with others is refused.
        arrived: called with each that may come in, in a thread of its own.
        patience: seconds of silence after which a channel counts as stalled.

    Attributes:
        invitation: how to join.
        secret: what agents prove themselves with.

    Raises:
        InvalidArgument: the address cannot be listened on, or the secret cannot be used.
    """

    def __init__(
        self, meeting: Meeting, facts: Facts, arrived: Callable[[Arrival], None], *, patience: float = 20.0
    ) -> None:
        self._meeting, self._facts, self._arrived = meeting, facts, arrived
        self._turned_away: dict[str, str] = {}
        self._file = Path(meeting.secret_file).absolute() if meeting.secret_file else meeting.directory / SECRET
        self.secret = self._found_secret()
        credentials = Credentials(self.secret, meeting.trusted_network)
        try:
            self._listener = Listener(meeting.listen, credentials, met=self._met, patience=patience)
        except OSError as error:
            raise InvalidArgument(
                f"listen={meeting.listen!r}: nobody can be waited for there ({error}). Name an address of this "
                "machine and a port that is free, such as :7070; port 0 stands for any."
            ) from error
        script = "" if facts.script is None else facts.script.path
        address = reachable(self._listener.address)
        self.invitation = Invitation(address, str(self._file), meeting.trusted_network, script)
        meeting.directory.mkdir(parents=True, exist_ok=True)
        self.invitation.write(meeting.directory)

    def turn_away(self, place: str, why: str) -> None:
        """Let this place in no more."""
        self._turned_away[place] = why

    def close(self, *, finished: bool) -> None:
        """Let nobody in any more. ``finished``: the run has ended, so that its secret is of no use."""
        self._listener.close()
        withdraw(self._meeting.directory)
        if finished and not self._meeting.secret_file:
            self._file.unlink(missing_ok=True)

    def _found_secret(self) -> str:
        """The secret of the file that was named; else of this run, made when it begins or found in the environment."""
        if self._meeting.secret_file or self._file.exists():
            return read_secret(self._file)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        secret = require_secret(os.environ[SECRET_VARIABLE]) if SECRET_VARIABLE in os.environ else new_secret()
        write_secret(self._file, secret)
        return secret

    def _met(self, channel: Channel) -> None:
        try:
            message = channel.receive()
            if message.word != HELLO:
                raise ProtocolError(f"an agent says {message.word!r} first, which is no {HELLO!r}.")
            hello = Hello.from_json(message.content)
        except (EOFError, OSError):
            channel.close()
            return
        except ProtocolError as error:
            answer(channel, REFUSED, {"message": str(error)})
            return
        why = self._turned_away.get(hello.place) or compare(self._facts, hello.facts)
        if why:
            answer(channel, REFUSED, {"message": why})
        else:
            self._arrived(Arrival(channel, hello))


def say_over(channel: Channel, *, finished: bool) -> None:
    """Tell somebody who came too late."""
    answer(channel, OVER, over_content(finished=finished))


def over_content(*, finished: bool) -> dict[str, Any]:
    """What agents are told at the end."""
    words = "the run has ended" if finished else "the run was stopped"
    return {"words": words, "finished": finished}
