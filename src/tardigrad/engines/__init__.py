"""Engines: where server and workers live."""

from __future__ import annotations

from tardigrad.specs import Registry

ENGINES = Registry(
    "engine",
    {
        "simulated": "tardigrad.engines.simulated:SimulatedEngine",
        "local": "tardigrad.engines.local.engine:LocalEngine",
        "joined": "tardigrad.engines.joined.engine:JoinedEngine",
        "ray": "tardigrad.engines.ray.engine:RayEngine",
    },
    group="tardigrad.engines",
)
"""Of tasks."""
SCRIPT_ENGINES = Registry(
    "engine of scripts",
    {
        "local": "tardigrad.engines.local.scripted:ScriptEngine",
        "joined": "tardigrad.engines.joined.scripted:JoinedScriptEngine",
        "ray": "tardigrad.engines.ray.scripted:RayScriptEngine",
    },
    group="tardigrad.script_engines",
)
"""Of users' own training scripts."""
