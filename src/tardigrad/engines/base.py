"""What every engine is given, and what it tells those who watch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, ClassVar, Protocol

import torch

from tardigrad.blueprint import Blueprint
from tardigrad.delays import ComputeTimes
from tardigrad.errors import Diverged
from tardigrad.evaluation import Evaluator
from tardigrad.faults import FaultPlan
from tardigrad.records import Commit, Failure, Held, Push, Rejected, Snapshot
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
        wall: seconds of training so far by the wall clock, evaluations not included where training waits for them.
        lr: learning rate at that point.
        train_loss: mean loss of the pushes since the evaluation before; None if there were none.
        scores: for each split, loss and metric by name.
        diverged: whether the weights or the loss were no longer finite.
        seconds: what the evaluation cost, by the wall clock.
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
    seconds: float = 0.0

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
            "seconds": round(self.seconds, 4),
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
            seconds=record.get("seconds", 0.0),
        )


class Observer:
    """Told of everything that happens, in order. Every method does nothing unless overridden."""

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """A worker has read."""

    def committed(self, time: float, commit: Commit) -> None:
        """An update was applied."""

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """A push was not applied."""

    def held(self, time: float, push: Push, result: Held) -> None:
        """A push was accepted and waits for others of its round."""

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """A worker takes part from now on: one that was added, or one that is restarted. (Not told of the first.)"""

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """A worker takes part no longer: "failed" or "removed". Its lease has gone back."""

    def failed(self, time: float, failure: Failure) -> None:
        """A worker failed; `left` follows, and `joined` where it is restarted."""

    def digested(self, version: int, digests: Mapping[str, str]) -> None:
        """The weights of this version have these digests: the parameter's name -> hexadecimal."""

    def noted(self, time: float, words: str) -> None:
        """Something else that a reader of the log should know."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The weights were evaluated."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What is known of one worker now.

    Attributes:
        worker, incarnation: which life of which worker.
        state: ``starting``, ``computing``, ``waiting`` (for its turn or for samples) or ``stopped``.
        pid: of its process.
        pushes: so far, over all its lives.
        step_seconds: the median of its last gradients; None before the first.
        staleness: mean of its last commits; None before the first.
        since: seconds for which it has been in this state.
    """

    worker: int
    incarnation: int
    state: str
    pid: int
    pushes: int
    step_seconds: float | None
    staleness: float | None
    since: float


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a run now."""

    version: int
    samples: int
    epoch: float
    time: float
    workers: Sequence[WorkerView]


class Steering(Protocol):
    """Shows a run to the outside and takes wishes from there."""

    def tick(self, now: float, view: View) -> int | None:
        """Called at least twice a second; return how many workers are wished for, or None."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker counts as failed, and what follows; see `RunConfig` for each."""

    hang_after: float = 30.0
    first_step: float = 120.0
    max_restarts: int = 3
    on_failure: str = "restart"
    digest_every: int = 0


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
        blueprint: from which a process of its own builds worker or evaluator.
        faults: what is to go wrong.
        life: how often this run was taken up again.
        limits: when a worker counts as failed, and what follows.
        speeds: for real workers, how fast each is: in (0, 1], one for each, or empty.
        steering: shows the run to the outside and takes wishes from there.
        prober: computes the second gradients of probes, on the server's device; None: ``body`` does.
    """

    server: ParameterServer
    body: Worker
    evaluator: Evaluator
    times: ComputeTimes
    network: Network
    samples_per_epoch: int
    evaluate_every: float = 1.0
    observers: Sequence[Observer] = ()
    blueprint: Blueprint | None = None
    faults: FaultPlan = field(default_factory=FaultPlan)
    life: int = 0
    limits: Limits = Limits()
    speeds: Sequence[float] = ()
    steering: Steering | None = None
    prober: Worker | None = None


class Engine(ABC):
    """Runs a job to its end.

    Attributes:
        has_processes: whether workers are processes of their own, in wall time.
    """

    has_processes: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        self.job = job

    @classmethod  # noqa: B027 - most engines have nothing to prepare
    def prepare(cls, blueprint: Blueprint) -> None:
        """Begin with what takes time and needs no more than this; called before anything is built."""

    @property
    def now(self) -> float:
        """Seconds of the engine's clock where it has one that goes on between events, else 0."""
        return 0.0

    @property
    def computation(self) -> str:
        """How gradients are computed, for the record."""
        return self.job.body.computation

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
    """Evaluates at the start, whenever another ``evaluate_every`` epochs of samples are settled, and at the end.

    Digests of the weights are told of at the same moments, or every ``digest_every`` commits.
    """

    job: Job
    _next: float = 0.0
    _version: int = -1
    _losses: tuple[float, int] = (0.0, 0)  # sum and number
    _training: float = 0.0
    _since: float = field(default_factory=perf_counter)

    def committed(self, time: float, commit: Commit) -> None:
        """Note the losses of a commit, and evaluate if it is time."""
        total, number = self._losses
        for part in commit.contributions:
            if part.loss is not None:
                total, number = total + part.loss, number + 1
        self._losses = total, number
        every = self.job.limits.digest_every
        if every and commit.version % every == 0:
            self.digest()
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

    def judge(self, draft: Evaluation) -> Evaluation:
        """Evaluate in this process, while training waits."""
        server, since = self.job.server, perf_counter()
        scores = self.job.evaluator.evaluate(server.flat, server.buffers.combined(server.live))
        self._since = perf_counter()
        return self.tell(draft, scores, self._since - since)

    def tell(self, draft: Evaluation, scores: dict[str, dict[str, float]], seconds: float) -> Evaluation:
        """Complete an evaluation, and tell the observers of it."""
        diverged = draft.diverged or not all(math.isfinite(split["loss"]) for split in scores.values())
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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
