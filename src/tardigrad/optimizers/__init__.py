"""Optimizers: the step a (compensated) gradient makes on the server."""

from __future__ import annotations

from tardigrad.specs import Registry

OPTIMIZERS = Registry(
    "optimizer",
    {
        "sgd": "tardigrad.optimizers.sgd:SGD",
        "adam": "tardigrad.optimizers.adam:Adam",
        "adamw": "tardigrad.optimizers.adam:AdamW",
    },
    group="tardigrad.optimizers",
)
