"""Algorithms: the names under which a comparison trains a rule, a consistency and a number of workers together."""

from __future__ import annotations

import math
from typing import Any

from tardigrad.config import RunConfig
from tardigrad.specs import format_spec, parse_spec

_LINEAR = "synchronous(lr_scaling='linear')"
PRESETS: dict[str, dict[str, Any]] = {
    "sequential": {"rule": "asgd", "workers": 1, "consistency": "asynchronous", "speeds": ()},
    "ssgd": {"rule": "asgd", "consistency": "synchronous"},
    "ssgd-linear": {"rule": "asgd", "consistency": _LINEAR},
    "m-synchronous": {"rule": "asgd", "consistency": "synchronous(wait_for={wait_for})"},
}
"""``sequential``: plain SGD, one worker. ``ssgd``: synchronous, the mean of all workers' gradients at the recipe's
learning rate; ``ssgd-linear``: at the learning rate times the number of workers; ``m-synchronous``: the mean of the
first three quarters of the workers' gradients to arrive, the others dropped and their samples leased again."""

DEFAULT = ("sequential", "ssgd", "ssgd-linear", "asgd", "dc-asgd-c", "dc-asgd-a", "dc-asgd", "dc-lowrank")
TUNED = (
    *("sequential", "ssgd", "m-synchronous", "asgd", "staleness-lr"),
    *("dc-asgd-c", "dc-asgd-a", "dc-asgd", "dc-lowrank"),
)
"""What is compared with and without tuning; a tuned learning rate makes ``ssgd-linear`` the same as ``ssgd``."""

CONTROLS = ("sign-flipped", "sign-random", "its-length", "its-direction")
"""Rules that wrap another one, to tell what of it matters; they run at the settings of the rule they wrap."""


def configure(name: str, base: RunConfig, **settings: Any) -> RunConfig:
    """The configuration of one algorithm.

    Args:
        name: ``sequential``, ``ssgd``, ``ssgd-linear``, ``m-synchronous``, or a rule's spec such as
            ``dc-asgd-a(lambda0=4)``.
        base: the recipe.
        **settings: fields of the configuration that every algorithm shares, such as lr, workers and seed.
    """
    changes = dict(PRESETS.get(name, {"rule": name}))
    if changes.get("workers") == 1 and isinstance(base.batch_size, tuple):
        changes["batch_size"] = base.batch_size[0]
    if "{wait_for}" in changes.get("consistency", ""):
        workers = settings.get("workers", base.workers)
        changes["consistency"] = changes["consistency"].format(wait_for=math.ceil(0.75 * workers))
    spec = parse_spec(name)
    label = name if name in PRESETS else format_spec(spec.name, spec.kwargs)
    return base.replace(**{**settings, **changes, "label": label})


def control_of(name: str, treated: RunConfig) -> RunConfig:
    """One of `CONTROLS` of a run's rule, everything else as in that run."""
    return treated.replace(rule=format_spec(name, {"of": treated.rule}), label=name)
