"""Agent: the process of ``tardigrad join``: it offers places for workers on its machine, and dials in for each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from tardigrad.engines.joined.greeting import Hello
from tardigrad.engines.joined.household import make_ready_for_scripts
from tardigrad.engines.joined.place import Place, PlaceView
from tardigrad.engines.joined.reaching import Reach
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.joined.wishes import Wishes
from tardigrad.engines.local.places import require_no_child
from tardigrad.engines.local.turns import Turn
from tardigrad.errors import InvalidArgument
from tardigrad.transports.credentials import Credentials

_TICK = 0.1  # seconds between two questions whether the agent is to stop


class Agent:
    """Places for workers on this machine. It sets no signal handlers, and runs in any thread.

    Args:
        address: of the server, or what says it: asked before every attempt, empty where it is not known yet.
        credentials: what this end proves itself with.
        means: what it has for its workers.
        places: for how many workers, >= 1.
        keep_trying: seconds without an answer after which the server is given up, >= 0.
        afterwards: the same, once it has answered; None: as long.
        again: whether another run is waited for when one has ended.
        overlap: whether each of these places is two, whose workers compute in turn: while one computes, what the other
            hands in and gets travels. For tasks only.
        tell: told in words what happens, in any thread.

    Attributes:
        wishes: by which any thread asks it to drain or to leave.
    """

    def __init__(
        self,
        address: str | Callable[[], str],
        credentials: Credentials,
        means: Means,
        *,
        places: int = 1,
        keep_trying: float = 600.0,
        afterwards: float | None = None,
        again: bool = False,
        overlap: bool = False,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        require_no_child()
        self._turns = _turns(means, places) if overlap else ()
        means, places = replace(means, turns=self._turns), places * (2 if overlap else 1)
        self.wishes = Wishes()
        self._means, self._errors = means, list[BaseException]()
        hello = Hello.own("", means.facts)
        asked = address if callable(address) else lambda: address
        later = keep_trying if afterwards is None else afterwards
        reaches = [
            Reach(asked, credentials, keep_trying=keep_trying, afterwards=later, tell=tell) for _ in range(places)
        ]
        self._places = [
            Place(number, means, hello, reach, self.wishes, again=again, tell=tell)
            for number, reach in enumerate(reaches)
        ]

    def run(self, tick: Callable[[], None] = lambda: None) -> None:
        """Offer the places until the run is over, or they are wished to leave.

        Args:
            tick: called ten times a second, in this thread.

        Raises:
            InvalidArgument: the server refuses this machine; the sentence says why.
            Unreachable, CredentialsRefused, MissingDependencyError: see `Reach.ask`.
        """
        if self._means.runs_script:
            make_ready_for_scripts()
        threads = [threading.Thread(target=self._live, args=(place,), daemon=True) for place in self._places]
        try:
            for thread in threads:
                thread.start()
            while living := [thread for thread in threads if thread.is_alive()]:
                tick()
                living[0].join(_TICK)
        finally:
            self.wishes.leave()
            for thread in threads:
                thread.join()
            for turn in self._turns:
                turn.close()
        if self._errors:
            raise self._errors[0]

    def views(self) -> list[PlaceView]:
        """What is known of each place."""
        return [place.view for place in self._places]

    def _live(self, place: Place) -> None:
        """One place's life. Where one is refused, all are."""
        try:
            place.live()
        except BaseException as error:
            self._errors.append(error)
            self.wishes.leave()


def _turns(means: Means, places: int) -> tuple[Turn, ...]:
    """One for each place that is to be two."""
    if means.runs_script:
        raise InvalidArgument(
            "overlap is for tasks: when a script computes is its own to say. Join with twice as many workers, each of "
            "half the threads."
        )
    return tuple(Turn.make() for _ in range(places))
