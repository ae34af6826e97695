"""Delays whose gradients are independent of each other, apart from a worker's own mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tardigrad.delays.base import Delay, Draw, gamma_draw, require_positive
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number


@dataclass(frozen=True, slots=True)
class Constant(Delay):
    """Always ``seconds``."""

    seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        require_positive("constant", "seconds", self.seconds)

    def draws(self, stream: np.random.Generator) -> Draw:
        """The same number every time."""
        return lambda: self.seconds


@dataclass(frozen=True, slots=True)
class Exponential(Delay):
    """Exponential with the given mean: no memory, the model of most theory of asynchronous training."""

    mean: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        require_positive("exponential", "mean", self.mean)

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws."""
        return lambda: float(stream.exponential(self.mean))


@dataclass(frozen=True, slots=True)
class ShiftedExponential(Delay):
    """Never less than ``shift``, and an exponential beyond it: work that takes its time, and luck on top.

    The model of the theory of stragglers (Lee et al. 2018, Speeding up distributed machine learning using codes).

    Args:
        shift: the least delay, in seconds, >= 0 and below ``mean``.
        mean: of the whole delay, in seconds; the exponential part has the mean ``mean - shift``.
    """

    shift: float = 0.5
    mean: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_positive("shifted-exponential", "mean", self.mean)
        require_number("delay 'shifted-exponential'", "shift", self.shift, low=0.0, high=math.inf, include_high=False)
        if not self.shift < self.mean:
            raise InvalidArgument(
                f"delay 'shifted-exponential': shift={self.shift!r} is not below mean={self.mean!r}, which is the mean "
                "of the whole delay; give a smaller shift, or constant for no luck at all."
            )

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws."""
        return lambda: self.shift + float(stream.exponential(self.mean - self.shift))


@dataclass(frozen=True, slots=True)
class Uniform(Delay):
    """Anything from ``low`` to ``high`` seconds, all alike; 0 <= low <= high, high > 0."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_number("delay 'uniform'", "low", self.low, low=0.0, high=math.inf, include_high=False)
        require_positive("uniform", "high", self.high)
        if self.low > self.high:
            raise InvalidArgument(
                f"delay 'uniform': low={self.low!r} is above high={self.high!r}; give the smaller one first."
            )

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws."""
        return lambda: self.high - (self.high - self.low) * float(stream.random())  # in (low, high]: never 0


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
        require_positive("gamma", "mean", self.mean)
        for name in ("machine_cv", "task_cv"):
            require_number("delay 'gamma'", name, getattr(self, name), low=0.0, high=10.0)

    def draws(self, stream: np.random.Generator) -> Draw:
        """One draw for the machine, then independent ones around it."""
        mean = gamma_draw(stream, self.mean, self.machine_cv)
        return lambda: gamma_draw(stream, mean, self.task_cv)


@dataclass(frozen=True, slots=True)
class Lognormal(Delay):
    """Lognormal with the given mean; ``sigma`` is the deviation of the logarithm, >= 0."""

    mean: float = 1.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_positive("lognormal", "mean", self.mean)
        require_number("delay 'lognormal'", "sigma", self.sigma, low=0.0, high=10.0)

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws; the logarithm's mean is set so that the delay's mean is ``mean``."""
        location = float(np.log(self.mean)) - 0.5 * self.sigma**2
        return lambda: float(stream.lognormal(location, self.sigma))


@dataclass(frozen=True, slots=True)
class Pareto(Delay):
    """A heavy tail, P(delay > x) = (least / x)^shape: stragglers without a scale.

    Args:
        shape: > 1; the smaller, the heavier the tail. Up to 2 the variance is infinite, up to 1 the mean would be.
        mean: in seconds. The least delay is ``mean (shape - 1) / shape``.
    """

    shape: float = 2.5
    mean: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_positive("pareto", "mean", self.mean)
        require_number(
            "delay 'pareto'", "shape", self.shape, low=1.0, high=math.inf, include_low=False, include_high=False
        )

    def draws(self, stream: np.random.Generator) -> Draw:
        """Independent draws: the least delay times U^(-1/shape), U uniform in (0, 1]."""
        least = self.mean * (self.shape - 1.0) / self.shape
        return lambda: least * (1.0 - float(stream.random())) ** (-1.0 / self.shape)
