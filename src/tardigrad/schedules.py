"""Learning-rate schedules: a factor on the learning rate as a function of epochs applied.

The server owns the learning rate, and its clock is samples applied, not commits and not a worker's steps: a
schedule means the same for 1 worker and for 64, for batches of 32 and of 512.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number
from tardigrad.specs import Registry

LearningRate = float | Callable[[int], float | Sequence[float]]
"""A learning rate >= 0, or a function from samples applied so far to one, or to one for each parameter group."""


def rates_at(lr: LearningRate, samples: int) -> tuple[float, ...]:
    """The learning rate after so many samples; several where each group has its own."""
    found = lr(samples) if callable(lr) else lr
    return tuple(found) if isinstance(found, Sequence) else (found,)


class Schedule(ABC):
    """A factor >= 0 on the learning rate."""

    @abstractmethod
    def factor(self, epoch: float) -> float:
        """The factor after ``epoch`` epochs' worth of samples have been applied (a float, >= 0)."""


@dataclass(frozen=True, slots=True)
class Constant(Schedule):
    """factor = 1."""

    def factor(self, epoch: float) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Step(Schedule):
    """Multiply by ``gamma`` at each epoch in ``at`` (the paper: at=(80, 120), gamma=0.1)."""

    at: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Check that the epochs rise and gamma is positive."""
        if not isinstance(self.at, tuple | list):
            raise InvalidArgument(f"schedule 'step': at={self.at!r} is not a list of epochs such as (80, 120).")
        for epoch in self.at:
            require_number("schedule 'step'", "at", epoch, low=0.0)
        if list(self.at) != sorted(self.at):
            raise InvalidArgument(f"schedule 'step': at={self.at!r} must rise, such as (80, 120).")
        require_number("schedule 'step'", "gamma", self.gamma, low=0.0, include_low=False)

    def factor(self, epoch: float) -> float:
        """gamma to the number of milestones passed."""
        return self.gamma ** sum(epoch >= milestone for milestone in self.at)


@dataclass(frozen=True, slots=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` over ``epochs`` epochs (Loshchilov and Hutter, 2017, without restarts)."""

    epochs: float
    final: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of both."""
        require_number("schedule 'cosine'", "epochs", self.epochs, low=0.0, include_low=False)
        require_number("schedule 'cosine'", "final", self.final, low=0.0, high=1.0)

    def factor(self, epoch: float) -> float:
        """final + (1 - final) (1 + cos(pi epoch / epochs)) / 2."""
        done = min(1.0, epoch / self.epochs)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class Linear(Schedule):
    """A straight line from 1 to ``final`` over ``epochs`` epochs."""

    epochs: float
    final: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of both."""
        require_number("schedule 'linear'", "epochs", self.epochs, low=0.0, include_low=False)
        require_number("schedule 'linear'", "final", self.final, low=0.0, high=1.0)

    def factor(self, epoch: float) -> float:
        """1 + (final - 1) epoch / epochs."""
        return 1.0 + (self.final - 1.0) * min(1.0, epoch / self.epochs)


@dataclass(frozen=True, slots=True)
class Warmup(Schedule):
    """A linear warm-up over the first ``epochs`` epochs before and on top of another schedule.

    The factor starts at ``start`` and reaches the other schedule's own factor after ``epochs`` epochs
    (Goyal et al., 2017).
    """

    epochs: float
    then: Schedule
    start: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of both."""
        require_number("warm-up", "epochs", self.epochs, low=0.0, high=math.inf, include_high=False)
        require_number("warm-up", "start", self.start, low=0.0, high=1.0)

    def factor(self, epoch: float) -> float:
        """The other schedule's factor, times the warm-up's line."""
        if epoch >= self.epochs:
            return self.then.factor(epoch)
        return (self.start + (1.0 - self.start) * epoch / self.epochs) * self.then.factor(epoch)


SCHEDULES = Registry(
    "schedule",
    {
        "constant": "tardigrad.schedules:Constant",
        "step": "tardigrad.schedules:Step",
        "cosine": "tardigrad.schedules:Cosine",
        "linear": "tardigrad.schedules:Linear",
    },
    group="tardigrad.schedules",
)


def build_schedule(spec: str, *, warmup: float = 0.0) -> Schedule:
    """Build a schedule from its spec, with ``warmup`` epochs of linear warm-up before it."""
    schedule = SCHEDULES.build(spec)
    if not isinstance(schedule, Schedule):
        raise InvalidArgument(f"schedule {spec!r} is not a Schedule.")
    return Warmup(warmup, schedule) if require_number("schedule", "warmup", warmup, low=0.0) > 0.0 else schedule
