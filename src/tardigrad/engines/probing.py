"""Probes: a push's gradient computed a second time, at the server's weights of now, in the process where the server is.

The same samples, buffers and random draws, by the same code as a worker's: so a probe is the same whatever the engine,
and a replay makes it again. In virtual time it costs nothing; with real workers the server is busy for one gradient.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tardigrad.engines.base import Job
from tardigrad.records import Push, Snapshot


def probed(job: Job, worker: int, snapshot: Snapshot) -> Tensor | None:
    """The gradient of a snapshot's samples at the weights of now: flat, its own tensor; None where no probe is due.

    To be called before the worker's own gradient is computed, if that is by the same body.
    """
    if not job.server.wants_probe(worker):
        return None
    now = replace(snapshot, flat=job.server.flat)
    return (job.prober or job.body).compute(worker, now).gradient.clone()


def computed_push(job: Job, worker: int, snapshot: Snapshot) -> Push:
    """A worker's push, computed by the job's body, and with it the second gradient where a probe is due."""
    again = probed(job, worker, snapshot)
    push = job.body.compute(worker, snapshot)
    return push if again is None else replace(push, again=again)
