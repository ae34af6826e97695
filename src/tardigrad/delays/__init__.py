"""Delays: how long one gradient takes, in seconds of virtual time.

A delay is given for a batch of the recipe's largest size; a smaller one takes its share. Every worker draws from a
stream of its own, so adding a worker changes nobody else's delays.
"""

from __future__ import annotations

from typing import Any

from tardigrad.delays.base import Delay as Delay
from tardigrad.delays.base import Draw as Draw
from tardigrad.delays.compute_times import ComputeTimes as ComputeTimes
from tardigrad.errors import InvalidArgument
from tardigrad.specs import Registry

DELAYS = Registry(
    "delay",
    {
        "constant": "tardigrad.delays.distributions:Constant",
        "exponential": "tardigrad.delays.distributions:Exponential",
        "gamma": "tardigrad.delays.distributions:Gamma",
        "lognormal": "tardigrad.delays.distributions:Lognormal",
        "uniform": "tardigrad.delays.distributions:Uniform",
        "shifted-exponential": "tardigrad.delays.distributions:ShiftedExponential",
        "pareto": "tardigrad.delays.distributions:Pareto",
        "phases": "tardigrad.delays.phases:Phases",
        "trace": "tardigrad.delays.trace:Trace",
    },
    group="tardigrad.delays",
)


def build_delay(spec: str) -> Delay:
    """Build a delay from a spec such as ``"gamma(machine_cv=0.6)"``."""
    made: Any = DELAYS.build(spec)
    if not isinstance(made, Delay):
        raise InvalidArgument(f"delay {spec!r} is not a Delay.")
    return made
