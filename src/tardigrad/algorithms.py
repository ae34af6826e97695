"""Algorithms: the names under which a comparison trains a rule, a consistency and a number of workers together."""

from __future__ import annotations

from typing import Any

from tardigrad.config import RunConfig
from tardigrad.specs import format_spec, parse_spec

_LINEAR = "synchronous(lr_scaling='linear')"
PRESETS: dict[str, dict[str, Any]] = {
    "sequential": {"rule": "asgd", "workers": 1, "consistency": "asynchronous", "speeds": ()},
    "ssgd": {"rule": "asgd", "consistency": "synchronous"},
    "ssgd-linear": {"rule": "asgd", "consistency": _LINEAR},
}
"""``sequential``: plain SGD, one worker. ``ssgd``: synchronous, the mean of all workers' gradients at the recipe's
learning rate; ``ssgd-linear``: at the learning rate times the number of workers."""

DEFAULT = ("sequential", "ssgd", "ssgd-linear", "asgd", "dc-asgd-c", "dc-asgd-a", "dc-asgd")


def configure(name: str, base: RunConfig, **settings: Any) -> RunConfig:
    """The configuration of one algorithm.

    Args:
        name: ``sequential``, ``ssgd``, ``ssgd-linear``, or a rule's spec such as ``dc-asgd-a(lambda0=4)``.
        base: the recipe.
        **settings: fields of the configuration that every algorithm shares, such as lr, workers and seed.
    """
    changes = dict(PRESETS.get(name, {"rule": name}))
    if changes.get("workers") == 1 and isinstance(base.batch_size, tuple):
        changes["batch_size"] = base.batch_size[0]
    spec = parse_spec(name)
    label = name if name in PRESETS else format_spec(spec.name, spec.kwargs)
    return base.replace(**{**settings, **changes, "label": label})
