"""Evaluation of a script's run beside its training: one more process runs the script, and is given no samples.

Its loop over the loader is empty, and lasts until the epoch's samples are applied; so where the script evaluates, this
process judges the weights of that moment, and no worker stands still for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tardigrad.buffers import copy_into
from tardigrad.engines.base import Evaluation, Stage
from tardigrad.engines.clock import Evaluations
from tardigrad.engines.local.membership import require_alike
from tardigrad.engines.local.seat import Seat
from tardigrad.errors import ProtocolError
from tardigrad.ledger import Ledger
from tardigrad.session.encoding import prepared_of, released_content
from tardigrad.session.link import Prepared, Released
from tardigrad.transports.slots import SlotLayout


class JudgeBeside:
    """Answers the process that evaluates.

    Args:
        seat: its process, started.
        job: whose weights are judged.
        prepared: by the workers; what this process prepares must be the same.
        ledger: says when an epoch is done.
        clock: told of the scores.
        now: seconds of the engine's clock.

    Attributes:
        over: whether the process has come to its end, or failed.
    """

    def __init__(
        self,
        seat: Seat,
        job: Stage,
        prepared: Prepared,
        ledger: Ledger,
        clock: Evaluations,
        now: Callable[[], float],
    ) -> None:
        self.seat, self.over = seat, False
        self._job, self._prepared, self._ledger, self._clock, self._now = job, prepared, ledger, clock, now
        self._waits_for: int | None = None
        self._draft: Evaluation | None = None
        self._nobody_left = False
        self._answers: dict[str, Callable[[Mapping[str, Any], Sequence[int]], None]] = {
            "prepare": self._prepare,
            "take": self._take,
            "refresh": self._refresh,
            "scores": self._scores,
            "log": self._log,
            "push": self._push,
            "finish": self._finish,
            "raised": self._raised,
        }

    def read(self) -> None:
        """Take in what it asks, or that it has ended."""
        if self.seat.end is None:
            return
        try:
            word, content, descriptors = self.seat.end.receive()
        except (EOFError, OSError, ProtocolError):
            self._ended()
            return
        try:
            self._answers.get(word, self._nod)(content, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def settled(self, *, nobody_left: bool = False) -> None:
        """More samples were applied, or every worker has ended: it may be time to judge."""
        self._nobody_left |= nobody_left
        done = self._waits_for is not None and self._ledger.leases.finished_epochs > self._waits_for
        if self._waits_for is not None and (done or self._nobody_left):
            self._waits_for = None
            self.seat.answer("lease", {"lease": None, "released": None})

    def _prepare(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        require_alike("the process that evaluates", self._prepared, prepared_of(content, os.dup(descriptors[0])))
        down, up = self.seat.furnish(SlotLayout.of(self._prepared.layout, self._prepared.buffers))
        answer = {"epoch": self._ledger.leases.reached, "released": self._fresh()}
        self.seat.answer("welcome", answer, [down.descriptor, up.descriptor])

    def _take(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self._waits_for = content["epoch"]
        self.settled()

    def _refresh(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        released = self._fresh()
        if content["evaluation"]:
            self._clock.digest()
            self._draft = self._clock.draft(self._now())
        self.seat.answer("released", released)

    def _fresh(self) -> Mapping[str, Any]:
        """The weights of now, copied: this process is no worker, and nothing is asked of the consistency."""
        server, down = self._job.server, self.seat.down
        assert down is not None
        down.flat.copy_(server.flat)
        copy_into(down.buffers, server.buffers.combined(server.live))
        return released_content(Released(server.version, server.samples_applied, server.rates, first=True))

    def _scores(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        if self._draft is not None:
            self._clock.tell(self._draft, content["scores"], content["seconds"])
            self._draft = None
        self._nod(content, descriptors)

    def _log(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        for observer in self._job.observers:
            observer.logged(self._now(), self.seat.worker, self._job.server.version, content["values"])
        self._nod(content, descriptors)

    def _push(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self.seat.answer("refused", {"message": "the process that evaluates was given no samples, and steps all the "
                                     "same: step only inside the loop over the loader."})  # fmt: skip

    def _finish(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self.over = True
        self._nod(content, descriptors)

    def _raised(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self.seat.traceback = content["traceback"]

    def _nod(self, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self.seat.answer("ok")

    def _ended(self) -> None:
        """Its process has ended; training goes on without evaluations if that was too early."""
        if not self.over:
            why = f":\n{self.seat.traceback}" if self.seat.traceback else "."
            for observer in self._job.observers:
                observer.noted(self._now(), f"the process that evaluates has ended; nothing is evaluated any more{why}")
        self.over = True
