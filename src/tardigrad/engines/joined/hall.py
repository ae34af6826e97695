"""Hall: which worker lives with which agent now. Everything here runs in the engine's thread."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Protocol

from tardigrad.engines.base import Meeting
from tardigrad.engines.joined.facts import Facts
from tardigrad.engines.joined.greeting import DRAIN
from tardigrad.engines.joined.lodging import Placed
from tardigrad.engines.joined.office import Office
from tardigrad.engines.joined.reception import Arrival, Mailbox, Reception, over_content, say_over
from tardigrad.engines.joined.recruiting import Recruiter
from tardigrad.errors import ShardLost
from tardigrad.invitation import Invitation
from tardigrad.transports.credentials import Credentials

PATIENCE = 20.0  # seconds of silence after which an agent counts as cut off


class Host(Protocol):
    """Whoever runs the workers now."""

    def arrived(self, arrival: Arrival) -> None:
        """An agent offers a place: seat it, or let it wait."""

    def missed(self, worker: int) -> None:
        """This worker is cut off."""

    def reached(self, worker: int, seconds: float, *, moved: bool) -> None:
        """This worker was cut off for so long, and is no more; ``moved``: something had come since the time before."""

    def broken(self, worker: int, why: str) -> None:
        """What its agent sent cannot be understood: this worker's life ends."""

    def leaves(self, worker: int) -> None:
        """The agent of this worker wants to leave."""


class Hall:
    """Agents that are workers, and the reception where others come in.

    Args:
        meeting: where to listen.
        facts: what a worker would compute with; see `Reception`.
        recruiter: who brings workers; None: people do.
        wanted: how many there are to be.

    Attributes:
        meeting: see above.
        patience: seconds of silence after which an agent counts as cut off.
        host: whoever runs the workers now; None: nobody is let in.
        invitation: how to join.
        recruiter: see above.
        office: through which parts of slots travel to and from other shards; None: all of them travels here.
    """

    def __init__(self, meeting: Meeting, facts: Facts, recruiter: Recruiter | None, wanted: int) -> None:
        self.meeting, self.patience = meeting, PATIENCE
        self.host: Host | None = None
        self._places: dict[int, Placed] = {}
        self._ever: set[str] = set()  # places that were seated
        self._spent: set[str] = set()
        self._waiting: list[Arrival] = []
        self._finished = False
        self._failures: dict[str, int] = {}
        self._mailbox = Mailbox()
        self.recruiter = recruiter
        self._next_tick = 0.0
        self._open = True
        self.office: Office | None = None
        with ExitStack() as undone:
            undone.callback(self._mailbox.close)
            self._reception = self._opened(facts)
            undone.callback(self._reception.close, finished=False)
            self.invitation: Invitation = self._reception.invitation
            if recruiter is not None:
                undone.callback(recruiter.close)
                recruiter.begin(self.invitation.address, self._reception.secret, wanted)
            undone.pop_all()

    def _opened(self, facts: Facts) -> Reception:
        post = self._mailbox.post
        return Reception(
            self.meeting, facts, lambda arrival: post(partial(self._arrived, arrival)), patience=self.patience
        )

    @property
    def credentials(self) -> Credentials:
        """What whoever comes has to prove."""
        return Credentials(self._reception.secret, self.meeting.trusted_network)

    def fileno(self) -> int:
        """To be waited for by a selector: readable where `attend` has something to do."""
        return self._mailbox.fileno()

    def attend(self) -> None:
        """See to whoever has come, or is lost, or wants to leave."""
        self._mailbox.empty()

    def lose_shard(self, number: int) -> None:
        """A shard is gone: `attend` raises ShardLost. From any thread."""
        self._mailbox.post(partial(self._shard_lost, number))

    def tick(self, wanted: int) -> list[str]:
        """To be called often: offer those that wait once more, and tell the recruiter how many workers are wanted.

        Returns:
            What the recruiter has to say.
        """
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            self._arrived(arrival)
        if self.recruiter is None:
            return []
        if monotonic() >= self._next_tick:
            self._next_tick = monotonic() + 1.0
            self.recruiter.tick(wanted)
        words, self.recruiter.words = self.recruiter.words, []
        return words

    def keep_waiting(self, arrival: Arrival) -> None:
        """There is no room now; as long as it waits here it hears of the run's end."""
        if monotonic() < arrival.until:
            self._waiting.append(arrival)
        else:
            arrival.ask_again()

    # -- places ----------------------------------------------------------------------------------------------

    def placed(self, worker: int) -> Placed | None:
        """Where this worker lives; None where with no agent."""
        return self._places.get(worker)

    def seat(self, arrival: Arrival, worker: int, *, layout: str = "") -> None:
        """Let the next life of this worker be lived with this agent; ``layout``: see `Placed`."""
        told = self._mailbox.post
        self._ever.add(arrival.hello.place)
        self._places[worker] = Placed(
            arrival,
            worker,
            layout,
            lambda placed, word, number: told(partial(self._told, placed, word, number)),
            office=self.office,
        )

    def release(self, worker: int) -> None:
        """This life has ended."""
        self._places.pop(worker, None)

    def is_spent(self, arrival: Arrival) -> bool:
        """Whether this place has done what it could."""
        return arrival.hello.place in self._spent

    def spend(self, placed: Placed) -> None:
        """Seat this place no more; it waits for the run's end."""
        self._spent.add(placed.place)

    @property
    def all_spent(self) -> bool:
        """Whether of all places that were ever seated none will be again."""
        return self._ever <= self._spent

    def failed(self, placed: Placed) -> int:
        """A worker failed there while its agent lived; return how often that was so by now."""
        self._failures[placed.place] = self._failures.get(placed.place, 0) + 1
        return self._failures[placed.place]

    def turn_away(self, placed: Placed, why: str) -> None:
        """Seat this place no more."""
        self._spent.add(placed.place)
        self._reception.turn_away(placed.place, why)

    def is_given_up(self, placed: Placed) -> bool:
        """Whether it was cut off for longer than it may be."""
        since = placed.cut_since
        return since is not None and monotonic() - since > self.meeting.reconnect_within

    # -- the end ---------------------------------------------------------------------------------------------

    def dismiss(self, *, finished: bool) -> None:
        """Tell every agent that is a worker that it is needed no more."""
        self.host, self._finished = None, finished
        for placed in self._places.values():
            placed.say_over(over_content(finished=finished))
        for arrival in self._waiting:
            say_over(arrival.channel, finished=finished)
        self._waiting = []

    def close(self, *, finished: bool) -> None:
        """Let nobody in any more. ``finished``: the run has come to its end."""
        if not self._open:
            return
        self._open = False
        self.dismiss(finished=finished)
        try:
            if self.recruiter is not None:
                self.recruiter.close()
        finally:
            self._reception.close(finished=finished)
            if self.office is not None:
                self.office.close()
            self._mailbox.empty()
            self._mailbox.close()
            self._places = {}

    # -- what threads have told ------------------------------------------------------------------------------

    def _arrived(self, arrival: Arrival) -> None:
        if self.host is None:
            say_over(arrival.channel, finished=self._finished)
            return
        if arrival.is_given_up(self.patience):  # the engine was busy for so long; the agent dials again
            arrival.channel.close()
            return
        known = next((one for one in self._places.values() if one.place == arrival.hello.place), None)
        if known is None:
            self.host.arrived(arrival)
        elif known.goes_on(arrival):
            assert arrival.hello.resumes is not None
            seconds = known.go_on(arrival.channel, arrival.hello.resumes.received)
            if seconds is not None:
                self.host.reached(known.worker, seconds, moved=known.moved)
        else:  # its worker's life is over, which the engine has not read yet
            known.hang_up()
            self.keep_waiting(arrival)

    def _told(self, placed: Placed, word: str, connection: int) -> None:
        if self._places.get(placed.worker) is not placed or self.host is None:
            return
        if word == DRAIN:
            placed.leaving = True
            self.host.leaves(placed.worker)
        elif connection != placed.connection:
            return
        elif word == "ended":
            if placed.why:
                self.host.broken(placed.worker, placed.why)
            placed.hang_up()
        elif placed.cut_since is None:
            placed.cut_since = monotonic()
            self.host.missed(placed.worker)

    def _shard_lost(self, number: int) -> None:
        if self.host is not None:
            raise ShardLost(number, "its connection has ended")
