"""The clock of evaluations: when one is due, what is known of it before its scores are, and digests of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch

from tardigrad.engines.base import Evaluation, Job, Stage
from tardigrad.errors import Diverged
from tardigrad.records import Commit


@dataclass(slots=True)
class Evaluations:
    """What is noted between evaluations that somebody else calls for; digests every ``digest_every`` commits."""

    job: Stage
    _next: float = math.inf
    _version: int = -1
    _losses: tuple[float, int] = (0.0, 0)  # sum and number
    _training: float = 0.0
    _since: float = field(default_factory=perf_counter)

    def committed(self, time: float, commit: Commit) -> None:
        """Note the losses of a commit."""
        total, number = self._losses
        for part in commit.contributions:
            if part.loss is not None:
                total, number = total + part.loss, number + 1
        self._losses = total, number
        every = self.job.limits.digest_every
        if every and commit.version % every == 0:
            self.digest()

    def draft(self, time: float, *, diverged: bool = False) -> Evaluation:
        """What is known of an evaluation before its scores are; the next one is due later."""
        self._training += perf_counter() - self._since
        job, server = self.job, self.job.server
        total, number = self._losses
        draft = Evaluation(
            version=server.version,
            samples=server.samples_applied,
            epoch=server.samples_applied / job.samples_per_epoch,
            time=time,
            wall=self._training,
            lr=server.lr,
            train_loss=total / number if number else None,
            scores={},
            diverged=diverged,
        )
        self._version, self._losses = server.version, (0.0, 0)
        while self._next <= self._settled():
            self._next += job.evaluate_every * job.samples_per_epoch
        self._since = perf_counter()
        return draft

    def tell(self, draft: Evaluation, scores: dict[str, dict[str, float]], seconds: float) -> Evaluation:
        """Complete an evaluation, and tell the observers of it."""
        diverged = draft.diverged or not all(math.isfinite(split.get("loss", 0.0)) for split in scores.values())
        evaluation = replace(draft, scores=scores, seconds=seconds, diverged=diverged)
        for observer in self.job.observers:
            observer.evaluated(evaluation)
        return evaluation

    def digest(self) -> None:
        """Tell the observers the digests of the weights as they are now."""
        server = self.job.server
        found = server.layout.digests(server.flat)
        for observer in self.job.observers:
            observer.digested(server.version, found)

    def state_dict(self) -> dict[str, Any]:
        """When the next evaluation is due, what was evaluated last, and what was noted since."""
        training = self._training + perf_counter() - self._since
        return {"next": self._next, "version": self._version, "losses": self._losses, "training": training}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; the seconds in between do not count."""
        self._next, self._version = state["next"], state["version"]
        self._losses, self._training = (state["losses"][0], state["losses"][1]), state["training"]
        self._since = perf_counter()

    def _settled(self) -> int:
        """Samples applied or given up: what an epoch is counted by, so that lost samples delay no evaluation."""
        server = self.job.server
        return server.samples_applied + (server.leases.lost_samples if server.leases else 0)


class EvaluationClock(Evaluations):
    """Evaluates at the start, whenever another ``evaluate_every`` epochs of samples are settled, and at the end.

    Digests of the weights are told of at the same moments, or every ``digest_every`` commits.
    """

    job: Job

    def __init__(self, job: Job) -> None:
        super().__init__(job, 0.0)

    def committed(self, time: float, commit: Commit) -> None:
        """Note the losses of a commit, and evaluate if it is time."""
        super().committed(time, commit)
        if self._settled() >= self._next:
            self.evaluate(time)

    def finish(self, time: float) -> None:
        """The last evaluation, and the last digest, unless they were made already."""
        every = self.job.limits.digest_every
        if every and self.job.server.version % every:
            self.digest()
        if self._version != self.job.server.version:
            self.evaluate(time)

    def diverged(self, time: float) -> None:
        """The last evaluation, of weights that are no longer finite."""
        self.judge(self.draft(time, diverged=True))

    def evaluate(self, time: float) -> None:
        """Evaluate now and tell the observers.

        Raises:
            Diverged: when a weight or the loss is not finite; that evaluation was recorded as diverged.
        """
        finite = bool(torch.isfinite(self.job.server.flat).all())
        if not self.job.limits.digest_every:
            self.digest()
        evaluation = self.judge(self.draft(time, diverged=not finite))
        if evaluation.diverged:
            what = "loss is" if finite else "weights are"
            raise Diverged(evaluation.version, f"the {what} no longer finite")

    def judge(self, draft: Evaluation) -> Evaluation:
        """Evaluate in this process, while training waits."""
        server, since = self.job.server, perf_counter()
        scores = self.job.evaluator.evaluate(server.flat, server.buffers.combined(server.live))
        self._since = perf_counter()
        return self.tell(draft, scores, self._since - since)
