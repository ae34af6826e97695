"""`tardigrad join`: this machine works for a run that another one serves."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

import tyro
from rich.console import Console
from rich.status import Status

from tardigrad.commands.run import split_script
from tardigrad.options import JoinOptions
from tardigrad.signals import StopSignals

if TYPE_CHECKING:
    from tardigrad.engines.joined.place import PlaceView

_EVERY = 1.0  # seconds over which a pace is measured


def join(words: list[str]) -> int:
    """``tardigrad join``; the exit status."""
    before, script, after = _split(words)
    options = tyro.cli(JoinOptions, args=before, prog="tardigrad join")
    from threading import Event

    from tardigrad import joining

    drain = Event()
    with StopSignals("handing in what is being computed") as signals, _Shown() as shown:

        def watch(views: Sequence[PlaceView]) -> None:
            if signals.asked():
                drain.set()
            shown.look(views)

        return joining.join(
            options.address,
            secret_file=options.secret_file,
            trusted_network=options.trusted_network,
            workers=options.workers,
            device=options.device,
            data_dir=options.data_dir,
            imports=options.imports,
            script=script or "",
            args=after,
            keep_trying=options.keep_trying,
            again=options.again,
            overlap=options.overlap,
            drain=drain,
            tell=shown.say,
            watch=watch,
        )


def _split(words: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Options, script and its arguments. A file after --imports is no script."""
    start = 0
    for place, word in enumerate(words):
        if word == "--imports":
            start = place + 1
            while start < len(words) and not words[start].startswith("-"):
                start += 1
    before, script, after = split_script(words[start:])
    return [*words[:start], *before], script, after


class _Shown:
    """Lines that stay for what happens; on a terminal below them a live one: what each place does, and how fast."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = Status("dialling", console=self._console) if self._console.is_terminal else None
        self._seen, self._since = 0, monotonic()

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def say(self, words: str) -> None:
        """A line that stays."""
        self._console.print(words, highlight=False, soft_wrap=True, markup=False)

    def look(self, views: Sequence[PlaceView]) -> None:
        """Refresh the live line, once a second."""
        now = monotonic()
        if self._live is None or now < self._since + _EVERY:
            return
        received = sum(view.received for view in views)
        pace = max(0, received - self._seen) / (now - self._since)
        self._seen, self._since = received, now
        self._live.update(f"{', '.join(in_words(view) for view in views)}  {pace:.1f} messages/s")


def in_words(view: PlaceView) -> str:
    """What a place does."""
    return view.state if view.worker is None or view.state == "waiting" else f"worker {view.worker} {view.state}"
