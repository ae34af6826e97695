"""Reaching: an agent's way to a server that may not be there yet, or not any more, or be somewhere else now."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from tardigrad.engines.joined.greeting import HELLO, Hello
from tardigrad.errors import ProtocolError, Unreachable
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import dial
from tardigrad.transports.stream import Channel

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWS = 0.1, 5.0, 1.6
_DIALLING = 10.0  # seconds for one attempt
Answer = tuple[Channel, str, dict[str, Any]]
"""The channel on which a server answered, its word and its content."""


class Reach:
    """One place's way to the server.

    Args:
        address: of the server; asked anew before every attempt, empty where it is not known yet.
        credentials: to be proven.
        keep_trying: seconds without an answer after which it is given up, >= 0.
        afterwards: the same, once it has answered.
        tell: told in words where the server cannot be reached, once in a while.

    Attributes:
        credentials: see above.
    """

    def __init__(
        self,
        address: Callable[[], str],
        credentials: Credentials,
        *,
        keep_trying: float,
        afterwards: float,
        tell: Callable[[str], None],
    ) -> None:
        self._address, self.credentials, self._keep_trying, self._tell = address, credentials, keep_trying, tell
        self._afterwards, self._last = afterwards, ""
        self._pause = _FIRST_PAUSE  # after a connection over which nothing came
        self._woken = threading.Event()
        self._asking: Channel | None = None  # on which an answer is waited for
        self._random = random.Random()  # so that agents that lost the same server do not come back in one moment

    def wake(self, *, at_once: bool) -> None:
        """End a pause, and with ``at_once`` the wait for an answer too; from any thread."""
        self._woken.set()
        channel = self._asking
        if at_once and channel is not None:
            channel.close()

    def rest(self, seconds: float) -> None:
        """Pause for half to one and a half times as long, unless it is woken."""
        self._woken.wait(seconds * self._random.uniform(0.5, 1.5))
        self._woken.clear()

    def lost(self, *, moved: bool) -> None:
        """A connection that was there is lost. Where nothing had come over it, pause, for longer each time."""
        if moved:
            self._pause = _FIRST_PAUSE
            return
        self.rest(self._pause)
        self._pause = min(_LONGEST_PAUSE, self._pause * _GROWS)

    def ask(self, hello: Callable[[], Hello], gives_up: Callable[[], bool]) -> Answer | None:
        """Dial until somebody answers; None: given up.

        Args:
            hello: what is said at an attempt.
            gives_up: asked before each.

        Raises:
            Unreachable: nobody answered in time.
            CredentialsRefused, MissingDependencyError: see `dial`.
        """
        until, pause = monotonic() + self._keep_trying, _FIRST_PAUSE
        while not gives_up():
            answer, why = self._attempt(hello, gives_up)
            if answer is not None:
                self._keep_trying = self._afterwards
                return answer
            if monotonic() >= until:
                raise Unreachable(self._last or "an address that is not known yet", self._keep_trying, why)
            if pause == _FIRST_PAUSE:
                self._tell(f"{self._last or 'the server'}: {why}; trying again for {self._keep_trying:g} s")
            self.rest(pause)
            pause = min(_LONGEST_PAUSE, pause * _GROWS)
        return None

    def _attempt(self, hello: Callable[[], Hello], gives_up: Callable[[], bool]) -> tuple[Answer | None, str]:
        """One attempt: the answer, or why there was none."""
        self._last = self._address()
        if not self._last:
            return None, "its address is not known yet"
        try:
            self._asking = channel = dial(self._last, self.credentials, timeout=_DIALLING)
        except OSError as error:
            return None, _why(error)
        try:
            if gives_up():  # since when nobody may have known which channel to close
                raise EOFError
            channel.send(HELLO, hello().as_json())
            message = channel.receive()
        except (OSError, EOFError, ProtocolError) as error:
            with suppress(OSError):
                channel.close()
            return None, _why(error)
        finally:
            self._asking = None
        return (channel, message.word, message.content), ""


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or "it hung up"
