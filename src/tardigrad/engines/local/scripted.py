"""The engine of scripts: whoever asks first is answered first. The order of the answers is the schedule."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from tardigrad.engines.base import Meeting, Observer, Stage
from tardigrad.engines.local.beside import JudgeBeside
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.hosting import ScriptHost
from tardigrad.engines.local.pacing import Pace
from tardigrad.engines.local.seat import Seat
from tardigrad.errors import Diverged, ProtocolError
from tardigrad.ledger import Ledger
from tardigrad.records import Commit, Lease, Snapshot
from tardigrad.session.encoding import released_content, tree_of
from tardigrad.session.link import Prepared
from tardigrad.transports.requests import content_of


class ScriptEngine(ScriptHost):
    """Answers the workers of a script as they come.

    Args:
        job, cast, prepared, first, ledger: see `ScriptHost`.
        by_speed: whether leases are to grow and shrink with their workers' speeds.
    """

    def __init__(
        self,
        job: Stage,
        cast: Cast,
        prepared: Prepared,
        first: Seat,
        ledger: Ledger | None,
        *,
        by_speed: bool = False,
    ) -> None:
        super().__init__(job, cast, prepared, first, ledger)
        self._pace = Pace(prepared.batch_size) if by_speed and ledger is not None else None
        self._judge: JudgeBeside | None = None
        self._answers: dict[str, Callable[[Seat, Mapping[str, Any], Sequence[int]], None]] = {
            "prepare": self._prepare,
            "epochs": self._epochs,
            "take": self._take,
            "order": self._order,
            "back": self._back,
            "push": self._push,
            "refresh": self._refresh,
            "scores": self._scores,
            "log": self._log,
            "save": self._save,
            "finish": self._finish,
            "raised": self._raised,
        }

    @classmethod
    def casting(
        cls, meeting: Meeting, observers: Sequence[Observer], stop: Callable[[], bool] | None
    ) -> Callable[..., Cast]:
        """What makes the workers' processes, called as `Cast`.

        Args:
            meeting: how workers of other machines reach the run.
            observers: told how to join.
            stop: asked as long as nobody has prepared anything; True: end that with KeyboardInterrupt.
        """
        return Cast

    def _begin(self) -> None:
        super()._begin()
        if self._judged_beside and self._ledger is not None:
            seat = self._cast.start_judge(self.now)
            self._judge = JudgeBeside(seat, self.job, self._prepared, self._ledger, self._clock, lambda: self.now)
            self._selector.register(seat.end, selectors.EVENT_READ, self._judge.read)  # type: ignore[arg-type]
        self._start_ready()

    def _is_over(self) -> bool:
        if self._stations or self._judge is None:
            return not self._stations
        self._judge.settled(nobody_left=True)
        return self._judge.over

    def _asked(self, seat: Seat, word: str, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        answer = self._answers.get(word)
        if answer is None:
            raise ProtocolError(f"worker {seat.worker} asks {word!r}, which nobody knows.")
        answer(seat, content, descriptors)

    # -- samples ---------------------------------------------------------------------------------------------

    def _take(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        assert self._ledger is not None
        seat.epoch = content["epoch"]
        lease = self._ledger.take(seat.worker, seat.epoch)
        if lease is None and content["wait"] and not self._nothing_comes(seat):
            self._let_wait(seat)
        else:
            self._give(seat, lease, None)

    def _order(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        assert self._ledger is not None
        epoch = content["epoch"]
        if self._ledger.begun(epoch) is None:
            self._ledger.begin(epoch, content["states"])
            for observer in self.job.observers:
                observer.begun(self.now, seat.worker, seat.incarnation, epoch)
        self._go_on(seat, "order", {"states": self._ledger.begun(epoch)})

    def _let_wait(self, seat: Seat) -> None:
        """Nothing is left now, but some may come back: until then nobody waits for this worker."""
        seat.wants, now = "lease", self.now
        seat.waits(now)
        for observer in self.job.observers:
            observer.rested(now, seat.worker, seat.incarnation)
        due = self.job.server.rest(seat.worker)
        if due is not None:
            self._tell_commit(now, due)
        self._start_ready()

    def _nothing_comes(self, seat: Seat) -> bool:
        """Whether there is nothing to wait for: all is done, or the worker itself holds what is left."""
        assert self._ledger is not None
        leases = self._ledger.leases
        return leases.epochs is None or leases.over or self._ledger.holds(seat.worker) > 0

    def _give(self, seat: Seat, lease: Lease | None, snapshot: Snapshot | None) -> None:
        """Answer a question for samples; ``snapshot``: weights that were read anew because it had waited."""
        now, plain = self.now, None if lease is None else [lease.epoch, lease.start, lease.stop]
        seat.wants = ""
        for observer in self.job.observers:
            observer.taken(now, seat.worker, seat.incarnation, lease)
        if snapshot is not None:
            self._tell_pulls(now, [(seat.worker, snapshot)])
        released = None if snapshot is None else released_content(self._released(seat, snapshot, ""))
        self._go_on(seat, "lease", {"lease": plain, "released": released})

    def _serve_waiting(self) -> None:
        """Whoever waits for samples gets some that came back, or hears that all is done."""
        if self._ledger is None:
            return
        if self._judge is not None:
            self._judge.settled()
        for seat in list(self._stations.values()):
            if seat.wants != "lease":
                continue
            lease = self._ledger.take(seat.worker, seat.epoch)
            if lease is not None:
                self._give(seat, lease, self._pulled_again(seat))
            elif self._nothing_comes(seat):
                self._give(seat, None, None)

    def _back(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        assert self._ledger is not None
        leases = [Lease(*plain) for plain in content["leases"]]
        lost = self._ledger.give_back(seat.worker, leases, skipped=content["skipped"])
        self._tell_returned(self.now, seat, leases, lost, "skipped" if content["skipped"] else "unused")
        self._go_on(seat, "ok", {})
        self._serve_waiting()

    # -- gradients and weights -------------------------------------------------------------------------------

    def _prepare(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self._prepared_too(seat, content, descriptors)
        self._start_ready()

    def _push(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """Apply a gradient, let whoever may go on, and record both then."""
        now = self.now
        try:
            push, result, lost = self._taken_in(seat, content)
        except Diverged:
            self._clock.digest()
            raise
        due = None if isinstance(result, Commit) else self.job.server.settle()
        handed = self._hand_out()
        self._told(now, seat, push, result, lost)
        if due is not None:
            self._tell_commit(now, due)
        self._tell_pulls(now, handed)
        self._keep_pace(seat, push.samples, content["seconds"])
        self._serve_waiting()

    def _start_ready(self) -> None:
        self._tell_pulls(self.now, self._hand_out())
        self._serve_waiting()

    def _hand_out(self) -> list[tuple[int, Snapshot]]:
        """Pull for every worker that waits for weights and may read, and let it go on."""
        handed = []
        for worker in self.job.server.ready():
            seat = self._stations.get(worker)
            if seat is not None and seat.wants in ("welcome", "release") and self._may_go_on(seat):
                handed.append((worker, self._release(seat)))
        return handed

    def _may_go_on(self, seat: Seat) -> bool:
        """Whether a worker that waits for weights is to be given any."""
        return True

    def _refresh(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        snapshot = self._pulled_again(seat)
        if snapshot is not None:
            self._tell_pulls(self.now, [(seat.worker, snapshot)])
        if content["evaluation"]:
            self._lend_buffers(seat)
            self._clock.digest()
            seat.draft = self._clock.draft(self.now)
        self._go_on(seat, "released", released_content(self._released(seat, snapshot, "")))

    def _pulled_again(self, seat: Seat) -> Snapshot | None:
        """Another pull between two pushes, where the consistency lets this worker read."""
        try:
            return self.job.server.pull(seat.worker, copy=False)
        except ProtocolError:
            return None

    def _keep_pace(self, seat: Seat, samples: int, seconds: float) -> None:
        """Let leases be as large as their workers are fast."""
        if self._pace is None or self._ledger is None:
            return
        for worker, size in self._pace.pushed(seat.worker, samples, seconds, live=self.job.server.live).items():
            self._ledger.leases.resize(worker, size)
            for observer in self.job.observers:
                observer.sized(self.now, worker, size)

    # -- beside the loop -------------------------------------------------------------------------------------

    def _epochs(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        problem = self._lives.plan(content["number"])
        if problem:
            seat.answer("refused", {"message": problem})
            return
        if self._planned is None:
            self._planned = content["number"]
            for observer in self.job.observers:
                observer.planned(self.now, content["number"])
        self._go_on(seat, "ok", {})

    def _scores(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        if seat.draft is not None:
            self._clock.tell(seat.draft, content["scores"], content["seconds"])
            seat.draft = None
        self._go_on(seat, "ok", {})

    def _log(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        version = self.job.server.read_version(seat.worker)
        for observer in self.job.observers:
            observer.logged(self.now, seat.worker, version, content["values"])
        self._go_on(seat, "ok", {})

    def _save(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self._user_state, self._state_at = tree_of(content_of(os.dup(descriptors[0]))), perf_counter()
        self._go_on(seat, "ok", {})

    def _finish(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        due = self._ended(seat)
        if due is not None:
            self._tell_commit(self.now, due)
        self._start_ready()

    def _raised(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        seat.traceback, seat.mistaken = content["traceback"], content["mistaken"]
