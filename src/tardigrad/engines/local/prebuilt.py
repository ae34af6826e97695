"""The tasks that were built before a process was forked."""

from __future__ import annotations

from tardigrad.blueprint import Blueprint
from tardigrad.tasks.base import Task

_BUILT: dict[tuple[object, ...], Task] = {}


def build(blueprint: Blueprint) -> None:
    """Build a task that forks of this process will find."""
    _BUILT[blueprint.key] = blueprint.build_task()


def task_of(blueprint: Blueprint) -> Task:
    """The blueprint's task: the one built before the fork, if it is the same, else built now."""
    return blueprint.made or _BUILT.get(blueprint.key) or blueprint.build_task()
