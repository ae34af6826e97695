"""The contract of a delay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from tardigrad.hyperparameters import require_number

Draw = Callable[[], float]


class Delay(ABC):
    """How long a worker's gradients take, one after the other.

    A subclass is a frozen dataclass: its fields are the keywords it takes, checked in ``__post_init__``.
    """

    @abstractmethod
    def draws(self, stream: np.random.Generator) -> Draw:
        """A function giving one worker's delays in seconds, one after the other, each > 0.

        All that is random comes from ``stream``: drawn again from an equal stream, the delays are the same.
        """

    def draws_of(self, worker: int, stream: np.random.Generator) -> Draw:
        """The delays of one worker, 0-based: those of `draws`, unless a delay knows its workers apart."""
        return self.draws(stream)


def require_positive(owner: str, name: str, value: object) -> float:
    """Return a finite number > 0 as a float, or raise `InvalidArgument`."""
    return require_number(
        f"delay {owner!r}", name, value, low=0.0, high=math.inf, include_low=False, include_high=False
    )


def gamma_draw(stream: np.random.Generator, mean: float, cv: float) -> float:
    """One gamma distributed number of this mean and coefficient of variation; with ``cv`` 0 the mean itself."""
    return mean if cv == 0.0 else float(stream.gamma(1.0 / cv**2, mean * cv**2))
