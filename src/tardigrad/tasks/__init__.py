"""Tasks: a model, data, a loss and a metric."""

from __future__ import annotations

from tardigrad.specs import Registry

TASKS = Registry(
    "task",
    {
        "digits": "tardigrad.tasks.digits:digits",
        "quadratic": "tardigrad.tasks.quadratic:quadratic",
    },
    group="tardigrad.tasks",
)
