"""Routes: a channel that a bridge uses, how far its other end has been served, and how it came to its end."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tardigrad.transports.stream import Channel, Stalled


@dataclass(slots=True)
class Route:
    """A channel in use.

    Attributes:
        channel: see above.
        passed: number of the last letter that was sent over it.
        receiving: the thread that takes in what comes.
        why: it is given up: ``"ended"`` or ``"stalled"``; empty: it is not.
        words: what ended it, in words; empty where the other end just went away.
        quiet: it was given up for another one, or for good: nobody is to hear of it.
    """

    channel: Channel
    passed: int
    receiving: threading.Thread | None = None
    why: str = ""
    words: str = ""
    quiet: bool = False

    def keep(self) -> None:
        """Keep it alive, where the thread that receives has something else to wait for.

        Raises:
            EOFError: it was given up.
        """
        if self.quiet or self.why:
            raise EOFError("given up")
        self.channel.keep_alive()

    def ends(self, error: Exception) -> None:
        """This is what ended it, unless something did before."""
        if not self.why:
            self.why = "stalled" if isinstance(error, Stalled) else "ended"
            self.words = "" if isinstance(error, EOFError) else str(error) or repr(error)

    def join(self) -> None:
        """Wait until nothing comes any more; in the thread that receives this does nothing."""
        if self.receiving is not None and self.receiving is not threading.current_thread():
            self.receiving.join()
