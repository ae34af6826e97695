"""Places: where a worker computes, and whether workers can be started from here."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import torch

from tardigrad.children import is_child
from tardigrad.engines.base import Job
from tardigrad.errors import InvalidArgument


def device_of(worker: int, device: str) -> str:
    """Where a worker computes: on the device that was named, or on the GPUs in turn where ``cuda`` names none."""
    if device != "cuda":
        return device
    return f"cuda:{worker % max(1, torch.cuda.device_count())}"


def require_no_child() -> None:
    """Refuse to start workers from a worker."""
    if is_child():
        raise InvalidArgument(
            "this is a worker process, which runs the script it was started from once more: put what starts training "
            "under `if __name__ == '__main__':`."
        )


def require_startable(job: Job) -> None:
    """Refuse speeds that no process can have, and a task that cannot travel."""
    if any(not 0.0 < speed <= 1.0 for speed in job.speeds):
        raise InvalidArgument(
            f"speeds={tuple(job.speeds)}: real workers can be slowed, not sped up; give numbers in (0, 1], 1 for the "
            "fastest."
        )
    try:
        ForkingPickler.dumps(job.blueprint)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the task cannot travel into a worker's process ({error}). Define its model and functions at the top of a "
            "module, not inside a function and not as a lambda; or register it (tardigrad.register_task), name it, and "
            "give imports=['your_module']."
        ) from error
