"""Children: how a process knows that it is a worker's."""

from __future__ import annotations

import multiprocessing

CHILD = "tardigrad-"
"""How the names of processes begin that were started for a worker or an evaluation."""


def is_child() -> bool:
    """Whether this process is one of them."""
    return multiprocessing.current_process().name.startswith(CHILD)
