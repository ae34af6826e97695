"""The replay of a script's run: the user's program runs again, and is answered in the order that the log has.

What a script computes is known to the script alone, so a worker's life is replayed by living it again, from its
beginning, in a process of its own. Each asks as it did; whose turn it is, the log says. So every worker reads the same
versions and gets the same samples, and a life that ended in the middle is ended there again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tardigrad.engines.base import Stage
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.hosting import ScriptHost
from tardigrad.engines.local.seat import Seat
from tardigrad.engines.parting import Parting
from tardigrad.errors import InvalidArgument, ProtocolError, ReplayError
from tardigrad.ledger import Ledger
from tardigrad.records import Commit, Contribution, Failure, Held, Lease, Rejected, lease_of, plain_lease
from tardigrad.session.encoding import released_content
from tardigrad.session.link import Prepared

_AT_ONCE = ("epochs", "scores", "log", "save")  # they change nothing that others see
_WORDS = ("digest", "note", "plan", "log")


class ObeyingEngine(ScriptHost):
    """Answers the workers of a script as a log says. What it computes is compared; a difference is noted.

    Args:
        job, cast, prepared, first, ledger: see `ScriptHost`.
        events: of the log, in order, without the header.
        until: end after the commit that makes this version; None: at the log's end.

    Attributes:
        parting: what was compared.

    Raises:
        ReplayError: from `run`: a worker asks something else than it did in the run, or ends where it did not.
    """

    def __init__(
        self,
        job: Stage,
        cast: Cast,
        prepared: Prepared,
        first: Seat,
        ledger: Ledger | None,
        events: Iterable[Sequence[Any]],
        *,
        until: int | None = None,
    ) -> None:
        super().__init__(job, cast, prepared, first, ledger)
        self.parting = Parting()
        self._events, self._until = iter(events), until
        self._asks: dict[int, tuple[str, Mapping[str, Any]]] = {}
        self._gone: dict[int, str] = {}  # workers whose process has ended by itself
        self._held: set[int] = set()
        self._read_already: set[int] = set()
        self._due: Commit | None = None
        self._obey: dict[str, tuple[int, Callable[..., None]]] = {
            "pull": (5, self._pull),
            "take": (4, self._take),
            "begin": (4, self._begin_epoch),
            "rest": (3, self._rest),
            "commit": (6, self._commit),
            "held": (8, self._hold),
            "reject": (7, self._reject),
            "return": (6, self._back),
            "size": (3, self._size),
            "join": (3, self._join),
            "leave": (4, self._leave),
            "fail": (7, self._fail),
            "finish": (3, self._finish),
            "digest": (2, self._digest),
            "note": (2, self._pass),
            "plan": (2, self._plan),
            "log": (4, self._pass),
        }

    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Replay to the log's end, or to ``until``."""
        try:
            self._begin()
            for event in self._events:
                self._take_event(event)
                if self._until is not None and self.job.server.version >= self._until:
                    break
            return True
        finally:
            self._close()

    def only_words_left(self) -> bool:
        """Whether all that is left of the log are digests, notes and numbers."""
        return all(event[0] in _WORDS for event in self._events)

    def _take_event(self, event: Sequence[Any]) -> None:
        self.parting.line += 1
        columns, obey = self._obey.get(event[0], (0, None))
        if obey is None or len(event) != 1 + columns:
            raise self._contradiction(f"{event[0]!r} with {len(event) - 1} columns is no event that is known")
        try:
            obey(*event[1:])
        except (InvalidArgument, ProtocolError) as error:
            raise self._contradiction(str(error)) from error

    # -- questions -------------------------------------------------------------------------------------------

    def _asked(self, seat: Seat, word: str, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        if word == "prepare":
            self._prepared_too(seat, content, descriptors)
        elif word == "raised":
            seat.traceback = content["traceback"]
        elif word in _AT_ONCE:
            self._go_on(seat, "ok", {})
        else:
            self._asks[seat.worker] = word, content
            self._tell_orders()

    def _tell_orders(self) -> None:
        """Answer whoever asks for the order of an epoch that was begun; the others wait until it is."""
        for worker, (word, content) in list(self._asks.items()):
            states = None if word != "order" or self._ledger is None else self._ledger.begun(content["epoch"])
            if states is not None:
                del self._asks[worker]
                self._go_on(self._seat(worker), "order", {"states": states})

    def _start_ready(self) -> None:
        """Whoever may read does when the log says so."""

    def _look(self) -> None:
        """Nobody hangs in a replay: a worker may wait for its turn as long as it takes."""

    def _lost(self, station: Seat) -> None:
        self._stop(station, at_once=False)
        if not station.finished:
            self._gone[station.worker] = station.traceback or "its process ended"

    def _awaited(self, worker: int, word: str) -> tuple[Seat, Mapping[str, Any]]:
        """Wait until this worker asks this."""
        seat = self._seat(worker)
        while worker not in self._asks:
            self._require_there(worker)
            self._turn()
        asked, content = self._asks.pop(worker)
        if asked == "refresh" and word != "refresh" and self._unread(seat):
            return self._awaited(worker, word)
        if asked != word:
            raise self._contradiction(f"worker {worker} asks {asked!r} where it asked {word!r} in the run")
        return seat, content

    def _unread(self, seat: Seat) -> bool:
        """Whether it wished to read anew where the consistency does not let it: it goes on with what it has."""
        try:
            self.job.server.pull(seat.worker, copy=False)
        except ProtocolError:
            self._go_on(seat, "released", released_content(self._released(seat, None, "")))
            return True
        return False

    def _seat(self, worker: int) -> Seat:
        seat = self._stations.get(worker)
        if seat is None:
            raise self._contradiction(f"worker {worker} takes no part")
        return seat

    def _require_there(self, worker: int) -> None:
        if worker in self._gone:
            raise self._contradiction(f"worker {worker} has ended, where it went on in the run: {self._gone[worker]}")

    # -- events ----------------------------------------------------------------------------------------------

    def _pull(self, time: float, worker: int, incarnation: int, version: int, lease: None) -> None:
        if worker in self._read_already:
            self._read_already.remove(worker)
            return
        seat = self._seat(worker)
        while not seat.wants and worker not in self._asks:
            self._require_there(worker)
            self._turn()
        self._same("version", version, self.job.server.version, worker)
        if seat.wants:
            self._same("incarnation", incarnation, self._release(seat).incarnation, worker)
            return
        seat, content = self._awaited(worker, "refresh")
        snapshot = self.job.server.pull(worker, copy=False)
        if content["evaluation"]:
            self._lend_buffers(seat)
        self._go_on(seat, "released", released_content(self._released(seat, snapshot, "")))

    def _take(self, time: float, worker: int, incarnation: int, lease: Sequence[int] | None) -> None:
        seat = self._seat(worker)
        waited = seat.wants == "lease"
        if not waited:
            seat, content = self._awaited(worker, "take")
            seat.epoch = content["epoch"]
        assert self._ledger is not None
        mine = self._ledger.take(worker, seat.epoch)
        self._same("lease", lease, plain_lease(mine), worker)
        released, seat.wants = None, ""
        if waited and mine is not None and not self._cannot_read(worker):
            self._read_already.add(worker)
            released = released_content(self._released(seat, None, ""))
        self._go_on(seat, "lease", {"lease": plain_lease(mine), "released": released})

    def _begin_epoch(self, time: float, worker: int, incarnation: int, epoch: int) -> None:
        seat, content = self._awaited(worker, "order")
        assert self._ledger is not None
        if content["epoch"] != epoch:
            raise self._contradiction(f"worker {worker} begins epoch {content['epoch']} where it began {epoch}")
        self._ledger.begin(epoch, content["states"])
        self._go_on(seat, "order", {"states": content["states"]})
        self._tell_orders()

    def _cannot_read(self, worker: int) -> bool:
        try:
            self.job.server.pull(worker, copy=False)
        except ProtocolError:
            return True
        return False

    def _rest(self, time: float, worker: int, incarnation: int) -> None:
        seat, content = self._awaited(worker, "take")
        seat.epoch, seat.wants = content["epoch"], "lease"
        self._settled(self.job.server.rest(worker))

    def _settled(self, due: Commit | None) -> None:
        if due is not None:
            self._tell_commit(self.now, due)

    def _tell_commit(self, now: float, commit: Commit) -> None:
        super()._tell_commit(now, commit)
        self._due = commit

    def _commit(
        self, time: float, version: int, lr: float, live: int, parts: Sequence[Sequence[Any]], ratio: float | None
    ) -> None:
        for worker in [part[0] for part in parts if part[0] not in self._held]:
            seat, content = self._awaited(worker, "push")
            self._told(time, seat, *self._taken_in(seat, content))
        if self._due is None:
            self._settled(self.job.server.settle())
        mine, self._due = self._due, None
        if mine is None:
            raise self._contradiction("a commit is due only later")
        self._held.difference_update(part.worker for part in mine.contributions)
        self.parting.check("version", version, mine.version, version=mine.version)
        self.parting.committed(mine, lr=lr, live=live, parts=[_contribution(part) for part in parts])

    def _hold(self, time: float, worker: int, incarnation: int, read: int, *rest: Any) -> None:
        seat, content = self._awaited(worker, "push")
        push, result, _ = self._taken_in(seat, content)
        if not isinstance(result, Held):
            raise self._contradiction(f"worker {worker}'s push waits, but it completes a commit")
        version = self.job.server.read_version(worker)
        mine = Contribution(worker, push.incarnation, version, push.lease, push.samples, push.loss, push.norm)
        logged = _contribution((worker, incarnation, read, *rest))
        self.parting.contributed(logged, mine, version=self.job.server.version)
        self._held.add(worker)

    def _reject(
        self, time: float, worker: int, incarnation: int, read: int, lease: Any, reason: str, lost: bool
    ) -> None:
        seat, content = self._awaited(worker, "push")
        if reason == "non-finite" and math.isfinite(content["norm"]) and seat.up is not None:
            seat.up.flat[0] = math.nan  # as the run's chaos did
            content = {**content, "norm": math.nan}
        _, result, _ = self._taken_in(seat, content)
        if not isinstance(result, Rejected):
            raise self._contradiction(f"worker {worker}'s push is refused as {reason}, but nothing is wrong with it")
        self._same("rejection", (reason, lost), (result.reason, result.lost), worker)

    def _back(
        self, time: float, worker: int, incarnation: int, leases: Sequence[Any], lost: Sequence[Any], reason: str
    ) -> None:
        if reason not in ("unused", "skipped"):
            return  # they came back with the push that was refused
        seat, content = self._awaited(worker, "back")
        assert self._ledger is not None
        self._same("lease", list(leases), content["leases"], worker)
        given = [Lease(*plain) for plain in content["leases"]]
        gone = self._ledger.give_back(worker, given, skipped=content["skipped"])
        self._same("rejection", list(lost), [plain_lease(one) for one in gone], worker)
        self._go_on(seat, "ok", {})

    def _size(self, time: float, worker: int, samples: int) -> None:
        assert self._ledger is not None
        self._ledger.leases.resize(worker, samples)

    def _plan(self, time: float, epochs: int) -> None:
        if self._ledger is not None and self._ledger.leases.epochs is None:
            self._ledger.leases.epochs = epochs

    def _finish(self, time: float, worker: int, incarnation: int) -> None:
        seat, _ = self._awaited(worker, "finish")
        self._settled(self._ended(seat))

    def _join(self, time: float, worker: int, incarnation: int) -> None:
        self._same("incarnation", incarnation, self._lives.join(time, worker), worker)
        self._start(worker)

    def _leave(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        seat = self._stations.get(worker)
        if seat is not None:
            self._stop(seat, at_once=True)
        self._asks.pop(worker, None)
        self._gone.pop(worker, None)
        self._lives.leave(time, worker, incarnation, reason)

    def _fail(self, time: float, worker: int, incarnation: int, version: int, kind: Any, *rest: Any) -> None:
        for observer in self.job.observers:
            observer.failed(time, Failure(worker, incarnation, kind, version, *rest))

    def _digest(self, version: int, digests: Mapping[str, str]) -> None:
        server = self.job.server
        if version == server.version:  # one that was noted later than its version is passed over
            self.parting.digested(version, digests, server.layout.digests(server.flat))

    def _pass(self, *columns: Any) -> None:
        """Of no consequence for the weights."""

    # -- comparing -------------------------------------------------------------------------------------------

    def _same(self, kind: str, logged: object, computed: object, worker: int) -> None:
        self.parting.check(kind, logged, computed, version=self.job.server.version, worker=worker)

    def _contradiction(self, words: str) -> ReplayError:
        return ReplayError(f"line {self.parting.line} of the log cannot follow the ones before it: {words}.")


def _contribution(plain: Sequence[Any]) -> Contribution:
    worker, incarnation, read, lease, *rest = plain
    return Contribution(worker, incarnation, read, lease_of(lease), *rest)
