"""Tasks: a model, data, a loss and a metric."""

from __future__ import annotations

from tardigrad.specs import Registry

TASKS = Registry(
    "task",
    {
        "cifar10": "tardigrad.tasks.cifar:cifar10",
        "cifar100": "tardigrad.tasks.cifar:cifar100",
        "digits": "tardigrad.tasks.digits:digits",
        "quadratic": "tardigrad.tasks.quadratic:quadratic",
    },
    group="tardigrad.tasks",
)
