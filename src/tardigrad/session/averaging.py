"""Averaging inside a group: DistributedDataParallel, whose mean is over the samples of a lease, not over processes.

A lease holds batch size x processes samples, and each process computes its part. The parts of the last lease of an
epoch may differ in size; so the gradient of each counts by its samples, and the sum is the mean over the lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from tardigrad.records import Lease
from tardigrad.session import mistakes
from tardigrad.session.book import Batches
from tardigrad.session.collective import process_group, use_up_warning
from tardigrad.session.group import GroupedLink, shares
from tardigrad.session.watch import WatchedBook


class GroupBook(WatchedBook):
    """A book that knows how much this process's gradient counts in a backward pass.

    The first pass since the gradients were last stepped or thrown away is on the first batch since then, and so on;
    passes beyond the batches yielded so far are on the last one.

    Args:
        parameters, fed: see `WatchedBook`.
        link: to the other processes.

    Attributes:
        link: as given.
    """

    def __init__(self, parameters: Sequence[Tensor], *, fed: bool, link: GroupedLink) -> None:
        super().__init__(parameters, fed=fed)
        self.link = link
        self._weights: list[float] = []  # of the batches yielded and not stepped, in their order
        self._passes = 0
        self._coming = 0.0  # the weight of the batch that comes next, of a stream

    @property
    def weight(self) -> float:
        """What a gradient computed now is multiplied with, in [0, 1]; over the group these sum to 1."""
        if not self._weights:  # batches are the script's own
            return 1.0 / self.link.group
        return self._weights[min(self._passes, len(self._weights) - 1)]

    def passed(self) -> None:
        """The gradients of a backward pass were averaged."""
        self._passes += 1

    def part(self, lease: Lease) -> tuple[int, int]:
        """What this process computes of a lease, as (start, stop), never nothing.

        Where a lease has fewer samples than the group has processes, those for whom none is left compute its first
        sample beside the leader; what comes of it counts nothing.
        """
        counts = shares(lease, self.link.group)
        start = lease.start + sum(counts[: self.link.rank])
        if counts[self.link.rank] == 0:
            return lease.start, lease.start + 1
        return start, start + counts[self.link.rank]

    def agreed(self, samples: int | None) -> int | None:
        """Tell the others of the next batch of this process's stream; return the samples of all together.

        Args:
            samples: in it, >= 1; None: the stream has come to its end.

        Returns:
            None where any of the streams has come to its end: then so has the group's.
        """
        counts = self.link.count(samples or 0)
        if not all(counts):
            return None
        self._coming = counts[self.link.rank] / sum(counts)
        return sum(counts)

    def yielded(self) -> Lease:
        """As of any book."""
        lease = super().yielded()
        self._weights.append(shares(lease, self.link.group)[self.link.rank] / lease.samples)
        return lease

    def counted(self, samples: int) -> None:
        """As of any book; the samples are those of all processes together."""
        super().counted(samples)
        self._weights.append(self._coming)

    def for_push(self) -> Batches:
        """As of any book.

        Raises:
            SessionError: the gradient was computed without the model that `Session.prepare` returned.
        """
        if self._passes == 0:
            raise mistakes.not_averaged()
        return super().for_push()

    def _part(self, number: int) -> Batches:
        self._passes = 0
        del self._weights[:number]
        return super()._part(number)

    def _throw_away(self) -> None:
        self._passes = 0
        super()._throw_away()


class GroupModel(DistributedDataParallel):
    """A model whose gradients are averaged over its group in every backward pass.

    What the model has is found here too. Without gradients, as in an evaluation, it is the model itself: one process
    may compute alone then.
    """

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """The model's own."""
        if not torch.is_grad_enabled():
            return self.module(*inputs, **keywords)
        return super().forward(*inputs, **keywords)  # type: ignore[no-untyped-call]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)


def averaged(model: nn.Module, book: GroupBook, device: torch.device) -> GroupModel:
    """The model with gradients that are means over the leases of a group. Every process makes it at the same point.

    Its parameters and buffers are the same in all processes already. As in any DistributedDataParallel, all go on with
    the leader's buffers in the next forward pass, and a parameter that no process has used keeps no gradient.
    """
    link = book.link
    store, backend = link.meet(device)
    group = process_group(store, backend, link.rank, link.group)
    use_up_warning()
    made = GroupModel(model, process_group=group, find_unused_parameters=True, init_sync=False)

    def mean(bucket: GradBucket) -> torch.futures.Future[Tensor]:
        values = bucket.buffer().mul_(book.weight)
        if bucket.is_last():
            book.passed()
        return group.allreduce([values]).get_future().then(_first)

    made.register_comm_hook(None, lambda state, bucket: mean(bucket))
    return made


def _first(done: torch.futures.Future[list[Tensor]]) -> Tensor:
    return done.value()[0]
