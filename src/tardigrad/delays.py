"""Delays: how long one gradient takes, in seconds of virtual time.

A delay is given for a batch of the recipe's largest size; a smaller one takes its share. Every worker draws from a
stream of its own, so adding a worker changes nobody else's delays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number
from tardigrad.seeding import random_stream
from tardigrad.specs import Registry

Draw = Callable[[], float]


class Delay(ABC):
    """A distribution of the time one gradient takes."""

    @abstractmethod
    def draws(self, stream: np.random.Generator) -> Draw:
        """A function giving one worker's delays, one after the other, each > 0."""


@dataclass(frozen=True, slots=True)
class Constant(Delay):
    """Always ``seconds``."""

    seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        _positive("constant", "seconds", self.seconds)

    def draws(self, stream: np.random.Generator) -> Draw:
        """The same number every time."""
        return lambda: self.seconds


@dataclass(frozen=True, slots=True)
class Exponential(Delay):
    """Exponential with the given mean: no memory, the model of most theory of asynchronous training."""

    mean: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        _positive("exponential", "mean", self.mean)

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws."""
        return lambda: float(stream.exponential(self.mean))


@dataclass(frozen=True, slots=True)
class Gamma(Delay):
    """Machine times task: a worker's own mean is drawn once, each of its gradients around that mean.

    Both are gamma distributed; a coefficient of variation V stands for a shape of 1 / V^2 (Ali et al. 2000, as used
    by Hakimi et al. 2019: 0.1 for tasks, 0.1 for like and 0.6 for unlike machines).

    Args:
        mean: seconds, over all workers.
        machine_cv: coefficient of variation between workers, >= 0.
        task_cv: coefficient of variation between one worker's gradients, >= 0.
    """

    mean: float = 1.0
    machine_cv: float = 0.1
    task_cv: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        _positive("gamma", "mean", self.mean)
        for name in ("machine_cv", "task_cv"):
            require_number("delay 'gamma'", name, getattr(self, name), low=0.0, high=10.0)

    def draws(self, stream: np.random.Generator) -> Draw:
        """One draw for the machine, then independent ones around it."""
        mean = _gamma(stream, self.mean, self.machine_cv)
        return lambda: _gamma(stream, mean, self.task_cv)


@dataclass(frozen=True, slots=True)
class Lognormal(Delay):
    """Lognormal with the given mean; ``sigma`` is the deviation of the logarithm, >= 0."""

    mean: float = 1.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        _positive("lognormal", "mean", self.mean)
        require_number("delay 'lognormal'", "sigma", self.sigma, low=0.0, high=10.0)

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws; the logarithm's mean is set so that the delay's mean is ``mean``."""
        location = float(np.log(self.mean)) - 0.5 * self.sigma**2
        return lambda: float(stream.lognormal(location, self.sigma))


DELAYS = Registry(
    "delay",
    {
        "constant": "tardigrad.delays:Constant",
        "exponential": "tardigrad.delays:Exponential",
        "gamma": "tardigrad.delays:Gamma",
        "lognormal": "tardigrad.delays:Lognormal",
    },
    group="tardigrad.delays",
)


class ComputeTimes:
    """The time each worker takes for its next gradient.

    Args:
        delay: distribution for a worker of speed 1, a batch of ``reference`` samples.
        workers: how many.
        seed: of the run.
        reference: samples a delay is given for.
        speeds: one factor > 0 per worker; a worker of speed 2 needs half the time. Empty: all 1.
        straggler_probability: chance in [0, 1] that a gradient is a straggler.
        straggler_factor: how many times longer a straggler takes, >= 1.
    """

    def __init__(
        self,
        delay: Delay,
        *,
        workers: int,
        seed: int,
        reference: int,
        speeds: Sequence[float] = (),
        straggler_probability: float = 0.0,
        straggler_factor: float = 1.0,
    ) -> None:
        if speeds and len(speeds) != workers:
            raise InvalidArgument(f"speeds names {len(speeds)} factors for {workers} workers; give one for each.")
        self._speeds = [
            require_number("delays", "speeds", speed, low=0.0, high=np.inf, include_low=False, include_high=False)
            for speed in speeds or [1.0] * workers
        ]
        self._probability = require_number("delays", "straggler_probability", straggler_probability, low=0.0, high=1.0)
        self._factor = require_number(
            "delays", "straggler_factor", straggler_factor, low=1.0, high=np.inf, include_high=False
        )
        self._reference = reference
        self._draws = [delay.draws(random_stream(seed, "delay", worker)) for worker in range(workers)]
        self._luck = [random_stream(seed, "straggler", worker) for worker in range(workers)]

    def next(self, worker: int, samples: int) -> float:
        """Seconds this worker takes for a batch of ``samples``."""
        seconds = self._draws[worker]() * samples / self._reference / self._speeds[worker]
        if self._probability and self._luck[worker].random() < self._probability:
            seconds *= self._factor
        return seconds


def build_delay(spec: str) -> Delay:
    """Build a delay from a spec such as ``"gamma(machine_cv=0.6)"``."""
    made: Any = DELAYS.build(spec)
    if not isinstance(made, Delay):
        raise InvalidArgument(f"delay {spec!r} is not a Delay.")
    return made


def _gamma(stream: np.random.Generator, mean: float, cv: float) -> float:
    return mean if cv == 0.0 else float(stream.gamma(1.0 / cv**2, mean * cv**2))


def _positive(owner: str, name: str, value: object) -> None:
    require_number(f"delay {owner!r}", name, value, low=0.0, high=np.inf, include_low=False, include_high=False)
