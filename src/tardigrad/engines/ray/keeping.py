"""Keeping Ray's processes from one run to the next, for many short runs in a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

_kept: dict[str, list[Any]] | None = None


@contextmanager
def hands_kept() -> Iterator[None]:
    """Within, hands stay when a run has ended and serve the next one of the same needs; what holds shards does too.

    They keep what Ray reserved for them until the end.
    """
    global _kept
    _kept = {}
    try:
        yield
    finally:
        kept, _kept = _kept, None
        for actor in [each for actors in kept.values() for each in actors]:
            dismiss(actor)


def take(kind: str) -> Any:
    """One that was kept, of this kind; None where there is none."""
    actors = None if _kept is None else _kept.get(kind)
    return actors.pop() if actors else None


def give(kind: str, actor: Any) -> None:
    """One that has done its work: kept for the next run, or ended."""
    if _kept is None:
        dismiss(actor)
    else:
        _kept.setdefault(kind, []).append(actor)


def dismiss(actor: Any) -> None:
    """End it."""
    if ray.is_initialized():
        ray.kill(actor, no_restart=True)
