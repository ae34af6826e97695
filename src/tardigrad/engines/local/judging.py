"""Evaluation beside training: a process of its own judges copies of the weights, and no commit waits for it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from torch import Tensor

from tardigrad.children import CHILD
from tardigrad.engines.base import Evaluation, Job
from tardigrad.engines.clock import EvaluationClock
from tardigrad.engines.local.nursery import context, importable_main
from tardigrad.engines.local.processes import SlotParcel, judge
from tardigrad.errors import Diverged, TardigradError
from tardigrad.transports.slots import Slot, SlotLayout

_MOST_LIVES = 3
_MOST_WAITING = 2, 64 * 2**20  # copies that may wait: so many, and of small models so many bytes of them


@dataclass(frozen=True, slots=True)
class _Pending:
    """An evaluation that is to be made, and a copy of what it is of."""

    draft: Evaluation
    flat: Tensor
    buffers: Mapping[str, Tensor]


class EvaluationsBeside(EvaluationClock):
    """As an `EvaluationClock`, but the scores come later, from another process.

    While one copy is judged others wait. One that comes due when two (of small models: 64 MiB) wait already is left
    out, and the log says so: a point of a curve is missing then, and nothing else.

    Args:
        job: whose weights are judged.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._layout = SlotLayout.of(job.server.layout, job.server.buffers.combined(job.server.live))
        self._slot: Slot | None = None
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None
        self._lives = 0
        self._pending: deque[_Pending] = deque()  # the first is with the process

    @property
    def connection(self) -> Connection | None:
        """To be waited for: readable when scores are there."""
        return self._connection

    @property
    def busy(self) -> bool:
        """Whether scores are still to come."""
        return bool(self._pending)

    def evaluate(self, time: float) -> None:
        """Have the weights judged as they are now.

        Raises:
            Diverged: when a weight is not finite; that evaluation was recorded as diverged.
        """
        server = self.job.server
        if not torch.isfinite(server.flat).all():
            self.diverged(time)
            raise Diverged(server.version, "the weights are no longer finite")
        if not self.job.limits.digest_every:
            self.digest()
        draft = self.draft(time)
        if len(self._pending) > max(_MOST_WAITING[0], _MOST_WAITING[1] // self._layout.size):
            for observer in self.job.observers:
                observer.noted(time, f"no evaluation of version {draft.version}: earlier ones are not done")
            return
        buffers = {name: value.clone() for name, value in server.buffers.combined(server.live).items()}
        self._pending.append(_Pending(draft, server.flat.clone(), buffers))
        if len(self._pending) == 1:
            self._send()

    def receive(self) -> None:
        """Take in the scores that have come; the process is started anew if it ended.

        Raises:
            Diverged: the loss of the weights that were judged is not finite.
            TardigradError: the process ended again and again.
        """
        assert self._connection is not None
        try:
            scores, seconds = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._restart()
            return
        done = self._pending.popleft()
        if self._pending:
            self._send()
        evaluation = self.tell(done.draft, scores, seconds)
        if evaluation.diverged:
            raise Diverged(evaluation.version, "the loss is no longer finite")

    def wait(self) -> None:
        """Take in all scores that are still to come."""
        while self._pending:
            self.receive()

    def close(self) -> None:
        """End the process; what is still to be judged stays in the state."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._slot is not None:
            self._slot.close()
            self._slot = None

    def _send(self) -> None:
        """Hand the first that waits to the process."""
        if self._process is None:
            self._start()
        assert self._slot is not None
        assert self._connection is not None
        first = self._pending[0]
        self._slot.flat.copy_(first.flat)
        for name, tensor in first.buffers.items():
            self._slot.buffers[name].copy_(tensor)
        try:
            self._connection.send_bytes(b"judge")
        except OSError:
            self._restart()

    def _start(self) -> None:
        assert self.job.blueprint is not None
        self._slot = Slot.make(self._layout, "evaluation")
        mine, theirs = context().Pipe()
        arguments = (theirs, SlotParcel(self._slot), self.job.blueprint)
        self._process = context().Process(target=judge, args=arguments, name=f"{CHILD}evaluation", daemon=True)
        with importable_main():
            self._process.start()
        theirs.close()
        self._connection = mine

    def _restart(self) -> None:
        """The process ended by itself: another judges the same copy again, or what comes next."""
        self._lives += 1
        code = None
        if self._process is not None:
            self._process.join()
            code = self._process.exitcode
        self.close()
        if self._lives >= _MOST_LIVES:
            raise TardigradError(
                f"the process that evaluates ended {self._lives} times, last with exit code {code}; its message stands "
                "above. With too little memory, train fewer workers; without evaluations: --evaluate-every inf"
            )
        if self._pending:
            self._send()

    def state_dict(self) -> dict[str, Any]:
        """As of an `EvaluationClock`, and what is still to be judged."""
        pending = [
            {"draft": one.draft.as_json(), "flat": one.flat, "buffers": dict(one.buffers)} for one in self._pending
        ]
        return super().state_dict() | {"pending": pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, and go on judging."""
        super().load_state_dict(state)
        self._pending = deque(_restored(state["pending"], self.job.samples_per_epoch))
        if self._pending:
            self._send()


def _restored(pending: Sequence[Mapping[str, Any]], samples: int) -> list[_Pending]:
    return [
        _Pending(Evaluation.from_json(one["draft"], samples_per_epoch=samples), one["flat"], one["buffers"])
        for one in pending
    ]
