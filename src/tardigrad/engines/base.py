"""What every engine is given, and what it tells those who watch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from tardigrad.delays import ComputeTimes
from tardigrad.errors import Diverged
from tardigrad.evaluation import Evaluator
from tardigrad.records import Commit, Push, Rejected, Snapshot
from tardigrad.server import ParameterServer
from tardigrad.worker import Worker


@dataclass(frozen=True, slots=True)
class Network:
    """Virtual time of what travels.

    Attributes:
        latency: seconds each way, >= 0.
        bandwidth: bytes per second of one worker's link, > 0.
        service: seconds the server is busy with one push, >= 0; it serves one at a time, in order of arrival.
    """

    latency: float = 0.0
    bandwidth: float = math.inf
    service: float = 0.0

    def transfer(self, size: int) -> float:
        """Seconds for ``size`` bytes one way."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation.

    Attributes:
        version, samples: of the weights evaluated: commits and samples applied.
        epoch: samples / size of the training set.
        time: seconds of the engine's clock (virtual in the simulator).
        wall: seconds of training so far by the wall clock, evaluations not included.
        lr: learning rate at that point.
        train_loss: mean loss of the pushes since the evaluation before; None if there were none.
        scores: for each split, loss and metric by name.
        diverged: whether the weights or the loss were no longer finite.
    """

    version: int
    samples: int
    epoch: float
    time: float
    wall: float
    lr: float
    train_loss: float | None
    scores: dict[str, dict[str, float]]
    diverged: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain data; a number that is not finite becomes None."""
        record: dict[str, Any] = {
            "version": self.version,
            "samples": self.samples,
            "epoch": round(self.epoch, 6),
            "time": self.time,
            "wall": round(self.wall, 4),
            "lr": self.lr,
            "train": {"loss": _finite(self.train_loss)},
        }
        for split, scores in self.scores.items():
            record[split] = {name: _finite(value) for name, value in scores.items()}
        return record | ({"diverged": True} if self.diverged else {})

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, samples_per_epoch: int) -> Evaluation:
        """The inverse of `as_json`, but that ``wall`` is rounded; None becomes NaN."""
        splits = {name: scores for name, scores in record.items() if isinstance(scores, dict) and name != "train"}
        return cls(
            **{name: record[name] for name in ("version", "samples", "time", "wall", "lr")},
            epoch=record["samples"] / samples_per_epoch,
            train_loss=record["train"]["loss"],
            scores={
                split: {name: math.nan if value is None else value for name, value in scores.items()}
                for split, scores in splits.items()
            },
            diverged=record.get("diverged", False),
        )


class Observer:
    """Told of everything that happens, in order. Every method does nothing unless overridden."""

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """A worker has read."""

    def committed(self, time: float, commit: Commit) -> None:
        """An update was applied."""

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """A push was not applied."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The weights were evaluated."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything an engine needs.

    Attributes:
        server: with leases.
        body: computes the gradients of all workers that live in this process.
        evaluator: judges the weights.
        times: how long a gradient takes in virtual time.
        network: how long what travels takes in virtual time.
        samples_per_epoch: size of the training set.
        evaluate_every: epochs between evaluations, > 0.
        observers: told of everything.
    """

    server: ParameterServer
    body: Worker
    evaluator: Evaluator
    times: ComputeTimes
    network: Network
    samples_per_epoch: int
    evaluate_every: float = 1.0
    observers: Sequence[Observer] = ()


class Engine(ABC):
    """Runs a job to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def run(self, pause: Callable[[], bool] | None = None) -> bool:
        """Train until every lease is finished or lost, or until ``pause`` says True.

        Args:
            pause: asked after each push that was taken in, when `state_dict` may be called and something is left to
                do.

        Returns:
            Whether all is done. If not, another call goes on.

        Raises:
            Diverged: after a last evaluation, of the diverged weights, was recorded.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The whole state, copied, the server's and what is under way included: dicts, lists, tensors, numbers."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, into a new engine with an equal job; `run` then goes on from there."""


@dataclass(slots=True)
class EvaluationClock:
    """Evaluates at the start, whenever another ``evaluate_every`` epochs of samples are settled, and at the end."""

    job: Job
    _next: float = 0.0
    _version: int = -1
    _losses: list[float] = field(default_factory=list)
    _training: float = 0.0
    _since: float = field(default_factory=perf_counter)

    def committed(self, time: float, commit: Commit) -> None:
        """Note the losses of a commit, and evaluate if it is time."""
        self._losses += [part.loss for part in commit.contributions if part.loss is not None]
        if self._settled() >= self._next:
            self.evaluate(time)

    def finish(self, time: float) -> None:
        """The last evaluation, unless it was made already."""
        if self._version != self.job.server.version:
            self.evaluate(time)

    def diverged(self, time: float) -> None:
        """The last evaluation, of weights that are no longer finite."""
        self._evaluate(time, diverged=True)

    def evaluate(self, time: float) -> None:
        """Evaluate now and tell the observers.

        Raises:
            Diverged: when a weight or the loss is not finite; that evaluation was recorded as diverged.
        """
        finite = bool(torch.isfinite(self.job.server.flat).all())
        evaluation = self._evaluate(time, diverged=not finite)
        if evaluation.diverged:
            what = "loss is" if finite else "weights are"
            raise Diverged(evaluation.version, f"the {what} no longer finite")

    def _evaluate(self, time: float, *, diverged: bool) -> Evaluation:
        self._training += perf_counter() - self._since
        job, server = self.job, self.job.server
        scores = job.evaluator.evaluate(server.flat, server.buffers.combined(server.live))
        evaluation = Evaluation(
            version=server.version,
            samples=server.samples_applied,
            epoch=server.samples_applied / job.samples_per_epoch,
            time=time,
            wall=self._training,
            lr=server.lr,
            train_loss=sum(self._losses) / len(self._losses) if self._losses else None,
            scores=scores,
            diverged=diverged or not all(math.isfinite(split["loss"]) for split in scores.values()),
        )
        self._version, self._losses = server.version, []
        while self._next <= self._settled():
            self._next += job.evaluate_every * job.samples_per_epoch
        for observer in job.observers:
            observer.evaluated(evaluation)
        self._since = perf_counter()
        return evaluation

    def state_dict(self) -> dict[str, Any]:
        """When the next evaluation is due, what was evaluated last, and what was noted since."""
        training = self._training + perf_counter() - self._since
        return {"next": self._next, "version": self._version, "losses": list(self._losses), "training": training}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; the seconds in between do not count."""
        self._next, self._version = state["next"], state["version"]
        self._losses, self._training = list(state["losses"]), state["training"]
        self._since = perf_counter()

    def _settled(self) -> int:
        """Samples applied or given up: what an epoch is counted by, so that lost samples delay no evaluation."""
        server = self.job.server
        return server.samples_applied + (server.leases.lost_samples if server.leases else 0)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
