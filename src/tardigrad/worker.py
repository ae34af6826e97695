"""The worker: computes one gradient on a snapshot. No transport inside, and no state that matters between calls."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tardigrad.arithmetic import Arithmetic, threads
from tardigrad.buffers import copy_into, persistent_buffers
from tardigrad.gradients import Capture, Gradient, ReplayedGradient, cuda_graph
from tardigrad.layout import FlatLayout, attach, trainable
from tardigrad.leases import epoch_permutation
from tardigrad.records import Lease, Push, Snapshot
from tardigrad.seeding import derive_seed
from tardigrad.tasks.base import Task


class Worker:
    """Computes gradients of a task.

    Its model's parameters are views of one flat buffer, and so is what it pushes: a gradient is written once.
    Weights and buffers arrive with every snapshot, and whatever is random in model and augmentation is drawn from
    (seed, epoch, position of the lease): the same snapshot gives the same push wherever and whenever it is computed.

    Args:
        task: what to train, its data on ``device``.
        seed: of the run.
        arithmetic: how to compute, and on which device.
        capture: what captures a gradient's computation to be replayed; None: on CUDA a graph, unless the arithmetic
            says otherwise, elsewhere nothing.
        weights: flat buffer that the model's parameters are to be views of, such as one in shared memory; a snapshot
            whose ``flat`` it is need not be copied; it is never written to then. None: one of its own, which begins
            with the run's initial weights.
        gradient: flat buffer that gradients are written into; None: one of its own.
        threads: that compute a gradient; None: as many as torch has now.
    """

    def __init__(
        self,
        task: Task,
        *,
        seed: int,
        arithmetic: Arithmetic | None = None,
        capture: Capture | None = None,
        weights: Tensor | None = None,
        gradient: Tensor | None = None,
        threads: int | None = None,
    ) -> None:
        self._task = task
        self._seed = seed
        self._arithmetic = arithmetic or Arithmetic()
        self.model = self._arithmetic.place(task.make_model(seed)).train()
        self.layout = FlatLayout.of_model(self.model)
        self._parameters: list[Tensor] = [parameter for _, parameter in trainable(self.model)]
        self._threads = threads
        self._flat = self.layout.pack([parameter.detach() for parameter in self._parameters])
        if weights is not None:
            self._flat = weights
        attach(self.layout, self.model, self._flat)
        self._buffers = persistent_buffers(self.model)
        self._orders: dict[int, Tensor] = {}
        self._generator = _generator_of(torch.device(self._arithmetic.device))
        self._augmentation = torch.Generator()  # on the CPU: the same draws whatever the device
        self._gradient = self._computation(capture, gradient)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's persistent buffers by name, as they are now."""
        return self._buffers

    @property
    def computation(self) -> str:
        """How gradients are computed, for the record: eager, replayed, or eager and why. Known after the first."""
        return self._gradient.described

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
        if snapshot.flat is not self._flat:
            self._flat.copy_(snapshot.flat)  # the buffer itself is no leaf of a graph: no torch.no_grad() is needed
        copy_into(self._buffers, snapshot.buffers)
        with threads(self._threads):
            loss, norm = self._gradient.compute(*self._batch(lease))
        return Push(
            worker=worker,
            gradient=self._gradient.flat,
            lease=lease,
            samples=lease.samples,
            incarnation=snapshot.incarnation,
            norm=norm,
            loss=loss,
            buffers=self._buffers,
        )

    def _computation(self, capture: Capture | None, flat: Tensor | None) -> Gradient | ReplayedGradient:
        """How a gradient is computed: eager, or captured and replayed."""
        gradient = Gradient(self.model, self._task.loss, layout=self.layout, arithmetic=self._arithmetic, flat=flat)
        if capture is None and self._arithmetic.on_cuda and self._arithmetic.cuda_graph:
            capture = partial(cuda_graph, device=self.layout.device)
        if capture is None:
            return gradient
        generators = {id(each): each for each in (torch.default_generator, self._generator)}
        return ReplayedGradient(
            gradient, state=list(self._buffers.values()), generators=list(generators.values()), capture=capture
        )

    def _order(self, epoch: int) -> Tensor:
        """The epoch's permutation on the device; two are kept, since workers straddle the end of an epoch."""
        order = self._orders.get(epoch)
        if order is None:
            permutation = epoch_permutation(len(self._task.train), self._seed, epoch)
            order = torch.from_numpy(permutation.copy()).to(self._task.train.inputs.device, non_blocking=True)
            self._orders = {known: held for known, held in self._orders.items() if known > epoch - 2} | {epoch: order}
        return order

    def _batch(self, lease: Lease) -> tuple[Tensor, Tensor]:
        """The lease's inputs and targets; what the model draws at random will be the lease's too."""
        index = self._order(lease.epoch)[lease.start : lease.stop]
        self._generator.manual_seed(derive_seed(self._seed, "model noise", lease.epoch, lease.start))
        return self._arithmetic.lay_out(self._inputs(lease, index)), self._task.train.targets[index]

    def _inputs(self, lease: Lease, index: Tensor) -> Tensor:
        """The lease's inputs as the model takes them, augmented where the task asks for it."""
        inputs = self._task.prepared(self._task.train.inputs[index])
        if self._task.augment is None:
            return inputs
        self._augmentation.manual_seed(derive_seed(self._seed, "augmentation", lease.epoch, lease.start))
        return self._task.augment(inputs, self._augmentation)


def _generator_of(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from on this device. (torch.manual_seed seeds all, and costs 0.3 ms.)"""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
