"""What every engine is given, and what it tells those who watch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tardigrad.blueprint import Blueprint
from tardigrad.delays import ComputeTimes
from tardigrad.evaluation import Evaluator
from tardigrad.faults import FaultPlan
from tardigrad.invitation import Invitation
from tardigrad.records import Commit, Failure, Held, Lease, Push, Rejected, Snapshot
from tardigrad.server import ParameterServer
from tardigrad.shards.links import Opening, near
from tardigrad.worker import Worker


@dataclass(frozen=True, slots=True)
class Network:
    """Virtual time of what travels.

    Attributes:
        latency: seconds each way, >= 0.
        bandwidth: bytes per second of one worker's link, > 0.
        service: seconds the server is busy with one push, >= 0; it serves one at a time, in order of arrival.
        wire: what gradients travel as; see `tardigrad.arithmetic.Arithmetic`.
    """

    latency: float = 0.0
    bandwidth: float = math.inf
    service: float = 0.0
    wire: str = "float32"

    def exchange(self, numbers: int, itemsize: int) -> float:
        """Seconds for weights of so many numbers of so many bytes down, and a gradient up."""
        up = 2 if self.wire == "bfloat16" else itemsize
        return self.transfer(numbers * itemsize) + self.transfer(numbers * up)

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

    def taken(self, time: float, worker: int, incarnation: int, lease: Lease | None) -> None:
        """A worker that runs a script was given samples ahead, or found none."""

    def begun(self, time: float, worker: int, incarnation: int, epoch: int) -> None:
        """Such a worker has begun an epoch: its generators decide the order. (Only in runs that begin with one.)"""

    def rested(self, time: float, worker: int, incarnation: int) -> None:
        """Such a worker waits for samples: nobody waits for it until it is given some."""

    def completed(self, time: float, worker: int, incarnation: int) -> None:
        """The script of a worker has come to its end; what it held comes back."""

    def returned(
        self, time: float, worker: int, incarnation: int, leases: Sequence[Lease], lost: Sequence[Lease], reason: str
    ) -> None:
        """Leases of such a worker came back: "unused", "skipped", or a push was refused; some of them given up."""

    def planned(self, time: float, epochs: int) -> None:
        """A script has said, or its end has shown, of how many epochs the run is."""

    def sized(self, time: float, worker: int, samples: int) -> None:
        """Leases of a worker hold so many samples from now on."""

    def logged(self, time: float, worker: int, version: int, values: Mapping[str, float]) -> None:
        """A script has recorded numbers of its own; ``version`` of the weights it had read."""

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """A worker takes part from now on: one that was added, or one that is restarted. (Not told of the first.)"""

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """A worker takes part no longer. Its lease has gone back.

        Args:
            time: seconds of the engine's clock.
            worker, incarnation: which life of which worker.
            reason: "failed", "removed" (fewer were wished for), "stopped" (a script's run is taken up again), "drained"
                (its machine said that it leaves), "absent" (it did not come back to a run that was taken up again) or
                "refused" (its machine cannot compute what the run does).
        """

    def failed(self, time: float, failure: Failure) -> None:
        """A worker failed; `left` follows, and `joined` where it is restarted."""

    def digested(self, version: int, digests: Mapping[str, str]) -> None:
        """The weights of this version have these digests: the parameter's name -> hexadecimal."""

    def noted(self, time: float, words: str) -> None:
        """Something else that a reader of the log should know."""

    def invited(self, time: float, invitation: Invitation) -> None:
        """From now on workers of other machines may join."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The weights were evaluated."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What is known of one worker now.

    Attributes:
        worker, incarnation: which life of which worker.
        state: ``starting``, ``computing``, ``waiting`` (for its turn or for samples), ``cut off`` (its machine cannot
            be reached) or ``stopped``.
        pid: of its process.
        pushes: so far, over all its lives.
        step_seconds: the median of its last gradients; None before the first.
        staleness: mean of its last commits; None before the first.
        since: seconds for which it has been in this state.
        host: name of the machine that its process is on; empty: the server's.
    """

    worker: int
    incarnation: int
    state: str
    pid: int
    pushes: int
    step_seconds: float | None
    staleness: float | None
    since: float
    host: str = ""


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
class Meeting:
    """How workers of other machines reach a run; see `RunConfig` for what is not explained.

    Attributes:
        directory: of the run, where it is said how to join.
        own_workers: how many of the workers are processes of the server's machine.
        workers: how many there are to be at the run's beginning.
    """

    directory: Path
    listen: str = "127.0.0.1:0"
    secret_file: str = ""
    trusted_network: bool = False
    reconnect_within: float = 30.0
    own_workers: int = 0
    workers: int = 1
    shards: int = 1
    data_dir: str = ""
    address: str = ""
    ray: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every engine needs, wherever gradients come from.

    Attributes:
        server: to be pulled from and pushed to.
        samples_per_epoch: size of the training set.
        evaluate_every: epochs between evaluations, > 0.
        observers: told of everything.
        faults: what is to go wrong.
        life: how often this run was taken up again.
        limits: when a worker counts as failed, and what follows.
        speeds: for real workers, how fast each is: in (0, 1], one for each, or empty.
        steering: shows the run to the outside and takes wishes from there.
        meeting: how workers of other machines reach the run.
    """

    server: ParameterServer
    samples_per_epoch: int
    evaluate_every: float = 1.0
    observers: Sequence[Observer] = ()
    faults: FaultPlan = field(default_factory=FaultPlan)
    life: int = 0
    limits: Limits = Limits()
    speeds: Sequence[float] = ()
    steering: Steering | None = None
    meeting: Meeting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Stage):
    """Everything that an engine needs which computes a task itself; the server has leases.

    Attributes:
        body: computes the gradients of all workers that live in this process.
        evaluator: judges the weights.
        times: how long a gradient takes in virtual time.
        network: how long what travels takes in virtual time.
        blueprint: from which a process of its own builds worker or evaluator.
        prober: computes the second gradients of probes, on the server's device; None: ``body`` does.
    """

    body: Worker
    evaluator: Evaluator
    times: ComputeTimes
    network: Network
    blueprint: Blueprint | None = None
    prober: Worker | None = None


class BasicEngine(ABC):
    """Runs something to its end, stage by stage, wherever gradients come from.

    Attributes:
        has_processes: whether workers are processes of their own, in wall time.
        goes_on_by: what to type so that a run in that directory goes on.
    """

    has_processes: ClassVar[bool] = False
    goes_on_by: ClassVar[str] = "tardigrad train --resume {}"
    job: Stage

    def __init__(self, job: Stage) -> None:
        self.job = job

    @classmethod
    def opening(cls, imports: Sequence[str], meeting: Meeting) -> Opening:
        """What makes the shards of a server whose weights are split, all but the first: here, in this process.

        Args:
            imports: modules or files that register the rule, for shards in other processes.
            meeting: how other machines are reached.
        """
        return near

    @property
    def now(self) -> float:
        """Seconds of the engine's clock where it has one that goes on between events, else 0."""
        return 0.0

    @property
    @abstractmethod
    def computation(self) -> str:
        """How gradients are computed, for the record."""

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


class Engine(BasicEngine):
    """Runs a job to its end."""

    job: Job

    def __init__(self, job: Job) -> None:
        super().__init__(job)

    @classmethod
    def prepare(cls, blueprint: Blueprint) -> None:
        """Begin with what takes time and needs no more than this; called before anything is built."""

    @property
    def computation(self) -> str:
        """How gradients are computed, for the record."""
        return self.job.body.computation


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
