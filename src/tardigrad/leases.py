"""Leases: which samples a worker computes next, so that every sample of an epoch is applied exactly once.

An epoch is one seeded permutation of the training set. A lease is a stretch of it; (epoch, start, stop) travels,
not indices. A lease is finished exactly when the push that carries it commits; a lease that comes back (a dead
worker, a push dropped as late or stale) goes to the front of the queue; one rejected three times for its content
is given up and listed as lost with its reason.

There is no barrier between epochs: whoever is done with its part of one begins the next.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.hyperparameters import require_choice, require_integer
from tardigrad.records import Lease
from tardigrad.seeding import random_stream

LeasePolicy = Literal["dynamic", "static"]
_MOST_REJECTIONS = 3


@lru_cache(maxsize=4)
def epoch_permutation(samples: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The order of one epoch's samples: int64, shape (samples,); read-only."""
    order = random_stream(seed, "permutation", epoch).permutation(samples).astype(np.int64)
    order.setflags(write=False)
    return order


class Leases:
    """Hands out the samples of ``epochs`` epochs.

    Args:
        samples: size of the training set, >= 1.
        batch_size: samples a lease holds, or one number per worker; the last of an epoch may be smaller.
        epochs: how many epochs to hand out, >= 0; None: without end.
        workers: how many workers there are at first.
        policy: ``"dynamic"``: whoever asks next gets the next stretch. ``"static"``: each epoch's stretches are
            dealt to the workers in advance, as in the paper (a new random part of the data for each worker every
            epoch). Both cut an epoch at the same places where all batches are of one size.
        seed: of the static deal's order of workers.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int | Sequence[int],
        *,
        epochs: int | None = None,
        workers: int = 1,
        policy: str = "dynamic",
        seed: int = 0,
    ) -> None:
        self.samples = require_integer("leases", "samples", samples, low=1)
        self.epochs = None if epochs is None else require_integer("leases", "epochs", epochs, low=0)
        self.policy = require_choice("leases", "policy", policy, ("dynamic", "static"))
        self._sizes = _sizes(batch_size, workers)
        self._resized: dict[int, int] = {}
        self._fewest = -(-self.samples // max(self._sizes))  # stretches that an epoch has at least
        self._seed = seed
        self._members = set(range(workers))
        self._cursor = (0, 0)  # dynamic: next epoch and position; static: next epoch to deal
        self._returned: list[Lease] = []  # a heap: the oldest first
        self._queues: dict[int, deque[Lease]] = {}
        self._outstanding: set[Lease] = set()
        self._rejections: dict[Lease, int] = {}
        self._settled: dict[int, int] = {}  # epoch -> samples applied or lost
        self.applied = 0
        self.lost: list[tuple[Lease, str]] = []

    @property
    def members(self) -> set[int]:
        """Workers to whom epochs are dealt."""
        return set(self._members)

    @property
    def lost_samples(self) -> int:
        """Samples given up so far."""
        return sum(lease.samples for lease, _ in self.lost)

    @property
    def finished_epochs(self) -> int:
        """Epochs of which every sample was applied or is listed as lost, counted from the first."""
        epoch = 0
        while self._settled.get(epoch, 0) == self.samples:
            epoch += 1
        return epoch

    @property
    def expected(self) -> int | None:
        """How many leases an undisturbed run hands out, about; None where there is no end."""
        if self.epochs is None:
            return None
        return -(-self.samples * self.epochs * len(self._sizes) // sum(self._sizes))

    @property
    def over(self) -> bool:
        """Whether every sample of every epoch was applied or is listed as lost."""
        return self.epochs is not None and self.applied + self.lost_samples == self.epochs * self.samples

    def size_of(self, worker: int) -> int:
        """The batch size of one worker; a worker beyond those named at first has the last one's."""
        return self._resized.get(worker) or self._sizes[min(worker, len(self._sizes) - 1)]

    def resize(self, worker: int, size: int) -> None:
        """Let this worker's leases hold so many samples from now on, >= 1."""
        self._resized[worker] = require_integer("leases", "batch_size", size, low=1)

    def available(self, worker: int) -> bool:
        """Whether `take` would give this worker a lease."""
        return bool(self._returned or self._queues.get(worker)) or self._promised(worker)

    @property
    def plenty(self) -> bool:
        """Whether what is not yet handed out or dealt has something for every worker."""
        if not self._left or self.policy == "dynamic" or self._fewest >= len(self._members):
            return self._left
        return all(self._promised(worker) for worker in self._members)

    @property
    def reached(self) -> int:
        """The epoch that is handed out now, from 0; the last one where all are."""
        epoch = self._cursor[0] - (self.policy == "static")
        return max(0, epoch if self.epochs is None else min(epoch, self.epochs - 1))

    def take(self, worker: int, *, upto: int | None = None) -> Lease | None:
        """The next lease for this worker, of no epoch after ``upto``; None where there is none."""
        lease = self._next(worker, math.inf if upto is None else upto)
        if lease is not None:
            self._outstanding.add(lease)
        return lease

    def finish(self, lease: Lease) -> None:
        """The lease's push was committed."""
        self._close(lease)
        self._rejections.pop(lease, None)
        self.applied += lease.samples
        self._settle(lease)

    def give_back(self, lease: Lease) -> None:
        """The lease was not applied through no fault of its samples; it is handed out again first."""
        self._close(lease)
        heapq.heappush(self._returned, lease)

    def reject(self, lease: Lease, reason: str) -> bool:
        """The lease's push was unusable. Return True if the lease is given up, having failed three times."""
        self._close(lease)
        count = self._rejections.get(lease, 0) + 1
        if count < _MOST_REJECTIONS:
            self._rejections[lease] = count
            heapq.heappush(self._returned, lease)
            return False
        self._rejections.pop(lease, None)
        self.lost.append((lease, reason))
        self._settle(lease)
        return True

    def join(self, worker: int) -> None:
        """A worker takes part in epochs dealt from now on."""
        self._members.add(worker)

    def leave(self, worker: int) -> None:
        """A worker's undone part goes to whoever asks."""
        self._members.discard(worker)
        for lease in self._queues.pop(worker, ()):
            heapq.heappush(self._returned, lease)

    def _next(self, worker: int, upto: float) -> Lease | None:
        if self._returned and self._returned[0].epoch <= upto:
            return heapq.heappop(self._returned)
        if self.policy == "static":
            return self._next_dealt(worker, upto)
        epoch, start = self._cursor
        if epoch > upto or (self.epochs is not None and epoch >= self.epochs):
            return None
        size = self.size_of(worker)
        left = self.samples - start - size
        short = bool(self._resized) and 0 < left < size // 2  # sizes that follow speeds may leave a tail of any length
        stop = self.samples if left <= 0 or short else start + size
        self._cursor = (epoch, stop) if stop < self.samples else (epoch + 1, 0)
        return Lease(epoch, start, stop)

    def _next_dealt(self, worker: int, upto: float) -> Lease | None:
        while not self._queues.get(worker):
            epoch = self._cursor[0]
            if epoch > upto or not self._promised(worker):
                return None  # and nothing is dealt: a worker that asks in vain changes nothing
            for member, dealt in self._deal(epoch).items():
                self._queues.setdefault(member, deque()).extend(dealt)
            self._cursor = (epoch + 1, 0)
        return self._queues[worker].popleft() if self._queues[worker][0].epoch <= upto else None

    @property
    def _left(self) -> bool:
        """Whether an epoch is left of which something is not yet handed out or dealt."""
        return self.epochs is None or self._cursor[0] < self.epochs

    def _promised(self, worker: int) -> bool:
        """Whether what is left has something for this worker. An epoch may be too small to be dealt to everyone."""
        if not self._left or self.policy == "dynamic":
            return self._left
        if self.epochs is None or self._fewest >= len(self._members):
            return worker in self._members
        return any(worker in self._deal(epoch) for epoch in range(self._cursor[0], self.epochs))

    def _deal(self, epoch: int) -> dict[int, list[Lease]]:
        """One epoch's stretches, dealt in turn to the members in an order drawn anew for each epoch."""
        members = sorted(self._members)
        order = [members[i] for i in random_stream(self._seed, "deal", epoch).permutation(len(members))]
        dealt: dict[int, list[Lease]] = {}
        start, turn = 0, 0
        while start < self.samples and order:
            worker = order[turn % len(order)]
            stop = min(start + self.size_of(worker), self.samples)
            dealt.setdefault(worker, []).append(Lease(epoch, start, stop))
            start, turn = stop, turn + 1
        return dealt

    def _close(self, lease: Lease) -> None:
        if lease not in self._outstanding:
            raise ProtocolError(f"{lease} is not handed out: it was finished, given back or never taken.")
        self._outstanding.discard(lease)

    def _settle(self, lease: Lease) -> None:
        self._settled[lease.epoch] = self._settled.get(lease.epoch, 0) + lease.samples

    def state_dict(self, *, under_way: bool = False) -> dict[str, Any]:
        """Plain data.

        Leases outstanding now count as returned, since whoever restores has no worker computing them; unless
        ``under_way``: then they stay outstanding.
        """
        outstanding = sorted(self._outstanding)
        returned = sorted(self._returned if under_way else [*self._returned, *outstanding])
        return {
            "cursor": self._cursor,
            "returned": [_plain(lease) for lease in returned],
            "outstanding": [_plain(lease) for lease in outstanding] if under_way else [],
            "queues": {worker: [_plain(lease) for lease in queue] for worker, queue in self._queues.items()},
            "rejections": [[_plain(lease), count] for lease, count in self._rejections.items()],
            "settled": dict(self._settled),
            "applied": self.applied,
            "lost": [[_plain(lease), reason] for lease, reason in self.lost],
            "members": sorted(self._members),
            "resized": dict(self._resized),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._cursor = (state["cursor"][0], state["cursor"][1])
        self._returned = [Lease(*lease) for lease in state["returned"]]
        self._outstanding = {Lease(*lease) for lease in state["outstanding"]}
        self._queues = {int(w): deque(Lease(*lease) for lease in queue) for w, queue in state["queues"].items()}
        self._rejections = {Lease(*lease): count for lease, count in state["rejections"]}
        self._settled = {int(epoch): count for epoch, count in state["settled"].items()}
        self.applied = state["applied"]
        self.lost = [(Lease(*lease), reason) for lease, reason in state["lost"]]
        self._members = set(state["members"])
        self._resized = {int(worker): size for worker, size in state.get("resized", {}).items()}


def _plain(lease: Lease) -> list[int]:
    return [lease.epoch, lease.start, lease.stop]


def _sizes(batch_size: int | Sequence[int], workers: int) -> list[int]:
    require_integer("leases", "workers", workers, low=1)
    if not isinstance(batch_size, Sequence):
        return [require_integer("leases", "batch_size", batch_size, low=1)]
    sizes = [require_integer("leases", "batch_size", size, low=1) for size in batch_size]
    if len(sizes) != workers:
        raise InvalidArgument(f"leases: batch_size names {len(sizes)} sizes for {workers} workers.")
    return sizes
