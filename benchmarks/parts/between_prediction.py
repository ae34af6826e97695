r"""Weights predicted at the pull: a worker computes where the weights will be when its gradient arrives.

In place of the weights :math:`w_t` a worker is handed

.. math::  \hat w = w_t - \text{lr} \; a \, \bar\tau \, v_t, \qquad
    v_t = \beta v_{t-1} + (1 - \beta) \frac{w_{t-1} - w_t}{\text{lr}}, \qquad \beta = 1 - 1 / M

with :math:`\bar\tau = M - 1` the staleness to be expected of M live workers, v the smoothed direction of the last
commits, and a how far it looks ahead: 1 all the way. Its gradient is applied as it is.

Where DANA (Hakimi et al., Taming momentum in a distributed asynchronous environment, arXiv 1907.11612) and SpecTrain
(Chen, Yang and Cheng, Efficient and robust parallel DNN training through model parallelism on multi-GPU platform, arXiv
1809.02839) look ahead along the optimizer's momentum, there is none here: the average is kept beside the server, as
PipeMare (Yang et al., PipeMare: asynchronous pipeline parallel DNN training, MLSys 2021, arXiv 1910.05124) keeps one of
differences of weights to correct delayed ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

import tardigrad
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Job, Observer
from tardigrad.engines.simulated import SimulatedEngine
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number
from tardigrad.optimizers.base import State
from tardigrad.records import Commit, Facts, Push, Snapshot
from tardigrad.scopes import Scope
from tardigrad.server import ParameterServer


@dataclass(frozen=True, slots=True)
class WeightPrediction(tardigrad.Compensation):
    """ASGD whose workers compute on predicted weights, which the engine ``predicting`` hands out.

    Args:
        ahead: how far it looks ahead, > 0, in multiples of the staleness to be expected.
    """

    name: ClassVar[str] = "weight-prediction"
    scope: ClassVar[Scope] = "element"
    strength: ClassVar[str | None] = "ahead"

    ahead: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a value outside its range."""
        require_number(self.name, "ahead", self.ahead, low=0.0, high=math.inf, include_low=False, include_high=False)

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """The gradient as it is."""
        return g, {}


class Forecast(Observer):
    """Follows the weights, and notes at every pull where they will be.

    Args:
        server: whose weights.
        ahead: see `WeightPrediction`.

    Attributes:
        handed: worker -> the predicted weights that it computes on, flat.
    """

    def __init__(self, server: ParameterServer, ahead: float) -> None:
        self._server, self._ahead = server, ahead
        self._before = server.flat.clone()
        self._direction = server.layout.zeros()
        self.handed: dict[int, Tensor] = {}

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """A worker reads: the snapshot's weights, moved on."""
        reach = self._ahead * (len(self._server.live) - 1)
        self.handed[worker] = snapshot.flat.add(self._direction, alpha=-self._server.lr * reach)

    def committed(self, time: float, commit: Commit) -> None:
        """One more direction into the average."""
        if commit.lr > 0.0:
            moved = self._before.sub_(self._server.flat).div_(commit.lr)
            self._direction.lerp_(moved, 1.0 / commit.live)
        self._before.copy_(self._server.flat)

    def state_dict(self) -> dict[str, Any]:
        """The average, and what the workers hold."""
        return {"direction": self._direction.clone(), "handed": {w: held.clone() for w, held in self.handed.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, once the server has its weights."""
        self._direction.copy_(state["direction"])
        self._before.copy_(self._server.flat)
        self.handed = {int(worker): held.clone() for worker, held in state["handed"].items()}


class Predicting:
    """A body that computes on the weights of a forecast in place of those of the snapshot."""

    def __init__(self, body: Any, forecast: Forecast) -> None:
        self._body, self._forecast = body, forecast

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def compute(self, worker: int, snapshot: Snapshot) -> Push:
        """The gradient at the predicted weights."""
        push: Push = self._body.compute(worker, replace(snapshot, flat=self._forecast.handed[worker]))
        return push


class PredictingEngine(SimulatedEngine):
    """The simulator, with weights predicted at the pull."""

    def __init__(self, job: Job) -> None:
        compensation = job.server.rule.compensation
        if not isinstance(compensation, WeightPrediction):
            raise InvalidArgument(
                f"the engine predicting is for the rule weight-prediction, not {compensation.name!r}."
            )
        self._forecast = Forecast(job.server, compensation.ahead)
        body: Any = Predicting(job.body, self._forecast)
        super().__init__(replace(job, body=body, observers=[self._forecast, *job.observers]))

    def state_dict(self) -> dict[str, Any]:
        """The simulator's, and the forecast's."""
        return super().state_dict() | {"forecast": self._forecast.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        self._forecast.load_state_dict(state["forecast"])


tardigrad.register_rule("weight-prediction", WeightPrediction)
ENGINES.register("predicting", PredictingEngine)
