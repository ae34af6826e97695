"""Optimizers: the step a (compensated) gradient makes on the server."""

from __future__ import annotations

from tardigrad.specs import Registry

OPTIMIZERS = Registry(
    "optimizer",
    {"sgd": "tardigrad.optimizers.sgd:SGD"},
    group="tardigrad.optimizers",
)
