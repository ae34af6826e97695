"""From a delay to the time that each worker takes for its next gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tardigrad.delays.base import Delay
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number
from tardigrad.seeding import random_stream


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
        self._draws = [delay.draws_of(worker, random_stream(seed, "delay", worker)) for worker in range(workers)]
        self._luck = [random_stream(seed, "straggler", worker) for worker in range(workers)]
        self._drawn = [0] * workers

    def next(self, worker: int, samples: int) -> float:
        """Seconds this worker takes for a batch of ``samples``."""
        self._drawn[worker] += 1
        seconds = self._draws[worker]() * samples / self._reference / self._speeds[worker]
        if self._probability and self._luck[worker].random() < self._probability:
            seconds *= self._factor
        return seconds

    def state_dict(self) -> dict[str, Any]:
        """How many delays each worker has drawn."""
        return {"drawn": list(self._drawn)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was, in an object from which nothing was drawn yet.

        As many are drawn again: so a delay may keep whatever it likes between its draws. A million take a few seconds.
        """
        for worker, drawn in enumerate(state["drawn"]):
            for _ in range(drawn):
                self.next(worker, self._reference)
