"""Engines: where server and workers live."""

from __future__ import annotations

from tardigrad.specs import Registry

ENGINES = Registry(
    "engine",
    {
        "simulated": "tardigrad.engines.simulated:SimulatedEngine",
        "local": "tardigrad.engines.local.engine:LocalEngine",
    },
    group="tardigrad.engines",
)
