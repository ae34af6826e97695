"""The worker: computes one gradient on a snapshot. No transport inside, and no state that matters between calls."""

from __future__ import annotations

import torch
from torch import Tensor

from tardigrad.buffers import persistent_buffers
from tardigrad.layout import FlatLayout, attach, trainable
from tardigrad.leases import epoch_permutation
from tardigrad.records import Lease, Push, Snapshot
from tardigrad.seeding import derive_seed
from tardigrad.tasks.base import Task


class Worker:
    """Computes gradients of a task.

    Its model's parameters are views of one flat buffer, and so is what it pushes: a gradient is written once.
    Weights and buffers arrive with every snapshot, and whatever is random in the model is drawn from (seed, epoch,
    position of the lease): the same snapshot gives the same push wherever and whenever it is computed.

    Args:
        task: what to train, its data on ``device``.
        seed: of the run.
        device: where to compute.
    """

    def __init__(self, task: Task, *, seed: int, device: torch.device | str = "cpu") -> None:
        self._task = task
        self._seed = seed
        self.model = task.make_model(seed, device).train()
        self.layout = FlatLayout.of_model(self.model)
        self._parameters: list[Tensor] = [parameter for _, parameter in trainable(self.model)]
        self._flat = self.layout.pack([parameter.detach() for parameter in self._parameters])
        attach(self.layout, self.model, self._flat)
        self._gradient = self.layout.zeros()
        self._gradient_views = self.layout.views(self._gradient)
        self._buffers = persistent_buffers(self.model)
        self._orders: dict[int, Tensor] = {}
        self._generator = _generator_of(torch.device(device))

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's persistent buffers by name, as they are now."""
        return self._buffers

    @property
    def weights(self) -> list[Tensor]:
        """The model's trainable parameters as they are now: after construction, the run's initial weights."""
        return [parameter.detach() for parameter in self._parameters]

    def compute(self, worker: int, snapshot: Snapshot) -> Push:
        """The mean gradient over the snapshot's lease, at the snapshot's weights.

        The push's gradient and buffers are this worker's own tensors: valid until the next call.
        """
        lease = snapshot.lease
        if lease is None:
            raise ValueError("the snapshot has no lease: there is nothing to compute")
        self._flat.copy_(snapshot.flat)  # the buffer itself is no leaf of a graph: no torch.no_grad() is needed
        for name, value in snapshot.buffers.items():
            self._buffers[name].copy_(value)
        loss = self._backward(lease)
        norm = float(torch.linalg.vector_norm(self._gradient))
        return Push(
            worker=worker,
            gradient=self._gradient,
            lease=lease,
            samples=lease.samples,
            incarnation=snapshot.incarnation,
            norm=norm,
            loss=loss,
            buffers=self._buffers,
        )

    def _order(self, epoch: int) -> Tensor:
        """The epoch's permutation on the device; two are kept, since workers straddle the end of an epoch."""
        order = self._orders.get(epoch)
        if order is None:
            permutation = epoch_permutation(len(self._task.train), self._seed, epoch)
            order = torch.from_numpy(permutation.copy()).to(self._task.train.inputs.device)
            self._orders = {known: held for known, held in self._orders.items() if known > epoch - 2} | {epoch: order}
        return order

    def _backward(self, lease: Lease) -> float:
        train = self._task.train
        index = self._order(lease.epoch)[lease.start : lease.stop]
        self._generator.manual_seed(derive_seed(self._seed, "model noise", lease.epoch, lease.start))
        outputs = self.model(train.inputs[index])
        loss = self._task.loss(outputs, train.targets[index])
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(self._gradient_views, gradients)
        return float(loss.detach())


def _generator_of(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from on this device. (torch.manual_seed seeds all, and costs 0.3 ms.)"""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
