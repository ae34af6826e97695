"""The replay: a run computed again in one process, as its log says.

The log is the schedule: who read which version, who pushed when, who came and went. The engine obeys it, and compares
what it computes on the way. A worker's snapshot is the server's own backup, as in the simulator, so nothing is copied
but what the server copies anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from tardigrad.engines.base import Engine, Job
from tardigrad.engines.clock import EvaluationClock
from tardigrad.engines.parting import Parting
from tardigrad.engines.probing import computed_push
from tardigrad.errors import Diverged, InvalidArgument, ProtocolError, ReplayError
from tardigrad.records import (
    Commit,
    Contribution,
    Failure,
    Held,
    Lease,
    Push,
    PushResult,
    Rejected,
    Snapshot,
    probe_columns,
)

_PUSHES = ("commit", "held", "reject")


class ReplayedEngine(Engine):
    """Obeys a log. What it computes is compared; a difference is noted, not raised.

    Args:
        job: server, body and evaluator as they were in the run; another rule asks what if.
        events: of the log, in order, without the header.
        until: end after the commit that makes this version; None: at the log's end.
        evaluate_at: versions to evaluate beside the last; none of them: nothing is evaluated. None: every
            ``job.evaluate_every`` epochs and at the end.
        line: of the log, of its first event.

    Attributes:
        parting: what was compared.

    Raises:
        ReplayError: from `run`: the log is not one that a run can have written; the message names the line.
    """

    def __init__(
        self,
        job: Job,
        events: Iterable[Sequence[Any]],
        *,
        until: int | None = None,
        evaluate_at: Collection[int] | None = None,
        line: int = 2,
    ) -> None:
        super().__init__(job)
        self.parting = Parting()
        self._events = iter(events)
        self._until, self._evaluate_at = until, evaluate_at
        self._first_line, self._read = line, 0
        self._begun = False
        self._snapshots: dict[int, Snapshot] = {}
        self._held: set[int] = set()
        self._now = 0.0
        self._clock = EvaluationClock(job)
        if evaluate_at is not None:
            self._clock.load_state_dict({**self._clock.state_dict(), "next": math.inf})  # never by itself
        self._obey: dict[str, tuple[int, Callable[..., None]]] = {
            "pull": (5, self._pull),
            "commit": (6, self._commit),
            "held": (8, self._hold),
            "reject": (7, self._reject),
            "join": (3, self._join),
            "leave": (4, self._leave),
            "fail": (7, self._fail),
            "note": (2, self._note),
            "digest": (2, self._digest),
            "probe": (5, self._probe),
        }
        self._last: Commit | None = None

    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Replay to the log's end, or to ``until``; see the base class."""
        if not self._begun:
            self._begun = True
            if self._evaluate_at is None or 0 in self._evaluate_at:
                self._clock.evaluate(0.0)
        upcoming = None if self._reached else next(self._events, None)
        while upcoming is not None:
            event, upcoming = upcoming, None
            self._take(event)
            upcoming = None if self._reached else next(self._events, None)
            if pause is not None and upcoming is not None and event[0] in _PUSHES and pause():
                self._events = _before(upcoming, self._events)
                return False
        if self._evaluates:
            self._clock.finish(self._now)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The server, what the workers hold, and how far the log was read."""
        return {
            "server": self.job.server.state_dict(under_way=True),
            "buffers": {
                worker: {name: tensor.clone() for name, tensor in snapshot.buffers.items()}
                for worker, snapshot in self._snapshots.items()
            },
            "clock": self._clock.state_dict(),
            "now": self._now,
            "read": self._read,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, or another engine's state: then the events given begin after it."""
        server = self.job.server
        server.load_state_dict(state["server"])
        self._held = {int(worker) for worker in state["server"]["waiting"]}
        for worker, held in state["buffers"].items():
            buffers = {name: tensor.to(server.layout.device, copy=True) for name, tensor in held.items()}
            self._snapshots[int(worker)] = server.outstanding(int(worker), buffers)
        self._begun, self._now = True, state.get("now", 0.0)
        if "read" in state:
            self._clock.load_state_dict(state["clock"])
            self._read = sum(1 for _ in islice(self._events, state["read"]))

    def only_words_left(self) -> bool:
        """Whether all that is left of the log are digests and notes; those are taken in."""
        for event in self._events:
            if event[0] not in ("digest", "note"):
                return False
            self._take(event)
        return True

    # -- events ----------------------------------------------------------------------------------------------

    @property
    def _evaluates(self) -> bool:
        return self._evaluate_at is None or bool(self._evaluate_at)

    @property
    def _reached(self) -> bool:
        return self._until is not None and self.job.server.version >= self._until

    def _take(self, event: Sequence[Any]) -> None:
        """Obey one event."""
        self._read += 1
        self.parting.line = self._first_line + self._read - 1
        columns, obey = self._obey.get(event[0], (0, None))
        if obey is None or len(event) != 1 + columns:
            raise self._contradiction(f"{event[0]!r} with {len(event) - 1} columns is no event that is known")
        if event[0] != "digest":
            self._now = event[1]
        try:
            obey(*event[1:])
        except (InvalidArgument, ProtocolError) as error:
            raise self._contradiction(str(error)) from error

    def _pull(self, time: float, worker: int, incarnation: int, version: int, lease: Sequence[int] | None) -> None:
        server = self.job.server
        if version != server.version:
            raise self._contradiction(f"worker {worker} reads version {version}, but the last commit made version "
                                      f"{server.version}")  # fmt: skip
        snapshot = server.pull(worker, copy=False)
        if snapshot.lease is None:
            raise self._contradiction(f"worker {worker} is given samples, but none are left for it")
        self._same("incarnation", incarnation, snapshot.incarnation, worker)
        self._same("lease", _lease(lease), snapshot.lease, worker)
        self._snapshots[worker] = snapshot
        for observer in self.job.observers:
            observer.pulled(time, worker, snapshot)

    def _commit(
        self, time: float, version: int, lr: float, live: int, parts: Sequence[Sequence[Any]], ratio: float | None
    ) -> None:
        server = self.job.server
        if version != server.version + 1:
            raise self._contradiction(f"a commit makes version {version}, but the one before made {server.version}")
        new = [part[0] for part in parts if part[0] not in self._held]
        result: PushResult | None = None
        for worker in new:
            result = self._receive(self._compute(worker))
        if not new:
            result = server.settle()  # the round had been waiting for a worker that takes part no longer
        if not isinstance(result, Commit):
            raise self._contradiction("a commit is due only later")
        self.parting.committed(result, lr=lr, live=live, parts=[_contribution(part) for part in parts])
        self._held.difference_update(part.worker for part in result.contributions)
        self._last = result
        for observer in self.job.observers:
            observer.committed(time, result)
        self._clock.committed(time, result)
        if self._evaluate_at is not None and version in self._evaluate_at:
            self._clock.evaluate(time)

    def _probe(self, time: float, version: int, *found: Any) -> None:
        """Compare what the run's probe of this commit found."""
        last = self._last
        if last is None:  # its commit was replayed before this engine was restored
            return
        if last.version != version or last.quality is None:
            raise self._contradiction(f"a probe of version {version}, where none was due")
        self.parting.check("probe", list(found), probe_columns(last.quality), version=version, worker=last.worker)

    def _hold(
        self, time: float, worker: int, incarnation: int, read: int, lease: Sequence[int] | None, samples: int,
        loss: float | None, norm: float | None,
    ) -> None:  # fmt: skip
        push = self._compute(worker)
        read_version = self.job.server.read_version(worker)
        mine = Contribution(worker, push.incarnation, read_version, push.lease, push.samples, push.loss, push.norm)
        result = self._receive(push)
        if not isinstance(result, Held):
            raise self._contradiction(f"worker {worker}'s push waits, but it completes a commit")
        logged = _contribution((worker, incarnation, read, lease, samples, loss, norm))
        self.parting.contributed(logged, mine, version=self.job.server.version)
        self._held.add(worker)
        for observer in self.job.observers:
            observer.held(time, push, result)

    def _reject(
        self, time: float, worker: int, incarnation: int, read: int, lease: Sequence[int] | None, reason: str,
        lost: bool,
    ) -> None:  # fmt: skip
        push = self._unusable(worker, incarnation, lease, reason)
        result = self._served(push)
        if not isinstance(result, Rejected):
            raise self._contradiction(f"worker {worker}'s push is refused as {reason}, but nothing is wrong with it")
        self._same("rejection", (reason, lost), (result.reason, result.lost), worker)
        self._same("staleness", self.job.server.version - read, result.staleness, worker)
        for observer in self.job.observers:
            observer.rejected(time, push, result)

    def _join(self, time: float, worker: int, incarnation: int) -> None:
        self._same("incarnation", incarnation, self.job.server.join(worker), worker)
        for observer in self.job.observers:
            observer.joined(time, worker, incarnation)

    def _leave(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        self.job.server.leave(worker)
        self._snapshots.pop(worker, None)
        for observer in self.job.observers:
            observer.left(time, worker, incarnation, reason)

    def _fail(
        self, time: float, worker: int, incarnation: int, version: int, kind: Any, code: int | None, traceback: str
    ) -> None:
        failure = Failure(worker, incarnation, kind, version, code, traceback)
        for observer in self.job.observers:
            observer.failed(time, failure)

    def _note(self, time: float, words: str) -> None:
        for observer in self.job.observers:
            observer.noted(time, words)

    def _digest(self, version: int, digests: Mapping[str, str]) -> None:
        server = self.job.server
        if version == server.version:  # one that was noted later than its version is passed over
            self.parting.digested(version, digests, server.layout.digests(server.flat))

    # -- pushes ----------------------------------------------------------------------------------------------

    def _compute(self, worker: int) -> Push:
        """The worker's gradient on the snapshot it holds, where the server is."""
        snapshot = self._snapshots.pop(worker, None)
        if snapshot is None:
            raise self._contradiction(f"worker {worker} pushes, but it has not pulled since its last push")
        push = computed_push(self.job, worker, snapshot)
        device = self.job.server.layout.device
        if push.gradient.device == device:
            return push
        buffers = {name: tensor.to(device) for name, tensor in push.buffers.items()}
        return replace(push, gradient=push.gradient.to(device), buffers=buffers)

    def _receive(self, push: Push) -> PushResult:
        """Hand in a gradient that the run applied."""
        result = self._served(push)
        if isinstance(result, Rejected):
            if result.reason != "non-finite":
                raise self._contradiction(f"worker {push.worker}'s push is applied, but it is {result.reason}")
            self._end_diverged()
            version = self.job.server.version
            raise Diverged(version, f"worker {push.worker}'s gradient is not finite, where the log's was applied")
        return result

    def _served(self, push: Push) -> PushResult:
        try:
            return self.job.server.receive(push)
        except Diverged:
            self._end_diverged()
            raise

    def _end_diverged(self) -> None:
        if self._evaluates:
            self._clock.diverged(self._now)

    def _unusable(self, worker: int, incarnation: int, lease: Sequence[int] | None, reason: str) -> Push:
        """A push that the server refuses for this reason; its gradient need not be computed."""
        flat = self.job.server.flat
        if reason in ("incarnation", "duplicate"):
            return Push(worker, flat, _lease(lease), incarnation=incarnation, sequence=-1, norm=0.0)
        snapshot = self._snapshots.pop(worker, None)
        if snapshot is None or snapshot.lease is None:
            raise self._contradiction(f"worker {worker} pushes, but it has not pulled since its last push")
        self._same("lease", _lease(lease), snapshot.lease, worker)
        norm, samples = 0.0, snapshot.lease.samples
        if reason == "non-finite":
            norm, flat = math.nan, torch.full((), math.nan, dtype=flat.dtype, device=flat.device).expand_as(flat)
        return Push(worker, flat, snapshot.lease, samples, incarnation=snapshot.incarnation, norm=norm)

    # -- comparing -------------------------------------------------------------------------------------------

    def _same(self, kind: str, logged: object, computed: object, worker: int) -> None:
        self.parting.check(kind, logged, computed, version=self.job.server.version, worker=worker)

    def _contradiction(self, words: str) -> ReplayError:
        return ReplayError(f"line {self.parting.line} of the log cannot follow the ones before it: {words}.")


def _lease(plain: Sequence[int] | None) -> Lease | None:
    return None if plain is None else Lease(*plain)


def _contribution(plain: Sequence[Any]) -> Contribution:
    worker, incarnation, read, lease, *rest = plain
    return Contribution(worker, incarnation, read, _lease(lease), *rest)


def _before(first: Sequence[Any], rest: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    yield first
    yield from rest
