"""Model buffers (BatchNorm's running statistics): part of the server's record of each worker.

Each worker's statistics follow its own batches. They are handed out with its snapshot, come back with its push and
are committed with it, so nothing hides in a worker. What a model is evaluated with is an explicit policy, reported
with every result:

* ``mean``: the mean of the live workers' latest statistics;
* ``latest``: those of the last commit;
* ``recalibrate``: computed anew on training data before each evaluation; between them like ``mean``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_choice

Buffers = dict[str, Tensor]
POLICIES = ("mean", "latest", "recalibrate")


def persistent_buffers(model: nn.Module) -> Buffers:
    """A model's buffers that belong to its state (not those it can compute again), by name; its own tensors."""
    kept = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def copy_into(buffers: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into buffers of the same names; there may be fewer values."""
    _copy_all([buffers[name] for name in values], list(values.values()))


class BufferStore:
    """The buffers of every worker.

    Args:
        initial: the model's buffers at the start, by name; empty where it has none.
        policy: ``mean``, ``latest`` or ``recalibrate``.
    """

    def __init__(self, initial: Mapping[str, Tensor], policy: str = "mean") -> None:
        self.policy = require_choice("server", "batchnorm", policy, POLICIES)
        self._initial: Buffers = {name: tensor.detach().clone() for name, tensor in initial.items()}
        self._own: dict[int, Buffers] = {}
        self._latest: Buffers = self._initial

    def hand_out(self, worker: int, live: Iterable[int], *, copy: bool) -> Buffers:
        """What this worker computes with next: its own, or the policy's over the live ones where it has none yet.

        Without ``copy`` they may be the store's own tensors: read them, never write them.
        """
        if not self._initial:
            return {}
        handed = self._own.get(worker) or self.combined(live)
        return _copy(handed) if copy else handed

    def require_known(self, buffers: Mapping[str, Tensor]) -> None:
        """Raise `InvalidArgument` unless these are all of the model's buffers, shaped as they are, or none."""
        if not self._initial or not buffers:
            return
        for name, tensor in self._initial.items():
            if name not in buffers:
                raise InvalidArgument(f"the push brings buffers, but not {name!r}; bring all of them, or none.")
            if buffers[name].shape != tensor.shape:
                given, known = tuple(buffers[name].shape), tuple(tensor.shape)
                raise InvalidArgument(f"the buffer {name!r} has shape {given}, the model's has {known}.")

    def commit(self, worker: int, buffers: Mapping[str, Tensor]) -> None:
        """A push of this worker was committed with these buffers (copied)."""
        if self._initial and buffers:
            self._own[worker] = self._latest = _copy({name: buffers[name].detach() for name in self._initial})

    def forget(self, worker: int) -> None:
        """A new life of the worker starts from the policy's value."""
        self._own.pop(worker, None)

    def combined(self, live: Iterable[int]) -> Buffers:
        """The policy's value over these workers, for an evaluation."""
        if self.policy == "latest":
            return dict(self._latest)
        held = [self._own[worker] for worker in sorted(live) if worker in self._own]
        if not held:
            return dict(self._latest)
        return {name: _mean([own[name] for own in held]) for name in self._initial}

    def state_dict(self) -> dict[str, Any]:
        """Every worker's buffers, and the last commit's."""
        return {"own": {worker: _copy(own) for worker, own in self._own.items()}, "latest": _copy(self._latest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._own = {int(worker): self._like_initial(own) for worker, own in state["own"].items()}
        self._latest = self._like_initial(state["latest"])

    def _like_initial(self, buffers: Mapping[str, Tensor]) -> Buffers:
        return {name: torch.empty_like(tensor).copy_(buffers[name]) for name, tensor in self._initial.items()}


def _mean(values: list[Tensor]) -> Tensor:
    """The mean of floating-point buffers; the largest of counters such as num_batches_tracked."""
    stacked = torch.stack(values)
    return stacked.mean(0) if stacked.is_floating_point() else stacked.max(0).values


def _copy(buffers: Mapping[str, Tensor]) -> Buffers:
    copies = {name: torch.empty_like(tensor) for name, tensor in buffers.items()}
    copy_into(copies, buffers)
    return copies


def _copy_all(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy many small tensors; those of one type are one kernel on CUDA, where a ResNet-20 would take 57."""
    for dtype in {value.dtype for value in values}:
        chosen = [number for number, value in enumerate(values) if value.dtype == dtype]
        torch._foreach_copy_([places[number] for number in chosen], [values[number] for number in chosen])
