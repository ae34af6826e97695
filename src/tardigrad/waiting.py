"""Waiting pushes: those that were accepted and wait for the others of their round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tardigrad.records import Contribution, Push, lease_of, plain_lease


class WaitingPushes:
    """At most one push of each worker, with the version it was computed on."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Push, int]] = {}
        self._owned: set[int] = set()  # workers whose push is copied here

    def __contains__(self, worker: int) -> bool:
        """Whether a push of this worker waits."""
        return worker in self._held

    def __len__(self) -> int:
        """How many wait."""
        return len(self._held)

    def add(self, push: Push, read: int) -> None:
        """A push computed on version ``read`` waits from now on; its tensors are still the caller's."""
        self._held[push.worker] = (push, read)

    def own(self, worker: int) -> None:
        """Copy the tensors of this worker's push: the caller may use its buffers again."""
        push, read = self._held[worker]
        buffers = {name: tensor.clone() for name, tensor in push.buffers.items()}
        self._held[worker] = (replace(push, gradient=push.gradient.clone(), buffers=buffers), read)
        self._owned.add(worker)

    def gradient_of(self, worker: int) -> Tensor:
        """Of its push, which waits; the caller's own memory until `own`."""
        return self._held[worker][0].gradient

    def __iter__(self) -> Iterator[int]:
        """Workers whose push waits."""
        return iter(list(self._held))

    def take(self, workers: Sequence[int]) -> list[tuple[Push, int]]:
        """The pushes of these workers, which wait no longer, each with the version it was computed on."""
        self._owned.difference_update(workers)
        return [self._held.pop(worker) for worker in workers]

    def bytes_held(self) -> int:
        """Bytes of the gradients that were copied to wait; those still in a caller's buffers are not counted."""
        gradients = [self._held[worker][0].gradient for worker in self._owned]
        return sum(gradient.numel() * gradient.element_size() for gradient in gradients)

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """For each worker its push, copied, as plain data and tensors."""
        return {worker: _plain(push, read) for worker, (push, read) in self._held.items()}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]], *, device: torch.device) -> None:
        """Restore what `state_dict` gave; the tensors are copied to the device."""
        self._held = {int(worker): _push(int(worker), plain, device) for worker, plain in state.items()}
        self._owned = set(self._held)


def contributions_of(entries: Sequence[tuple[Push, int]]) -> tuple[Contribution, ...]:
    """What a commit says of the pushes it is made of, each with the version it was computed on."""
    return tuple(
        Contribution(push.worker, push.incarnation, read, push.lease, push.samples, push.loss, push.norm)
        for push, read in entries
    )


_NUMBERS = ("samples", "incarnation", "sequence", "norm", "loss")


def _plain(push: Push, read: int) -> dict[str, Any]:
    return {
        "read_version": read,
        "gradient": push.gradient.clone(),
        "buffers": {name: tensor.clone() for name, tensor in push.buffers.items()},
        "lease": plain_lease(push.lease),
        "absent": list(push.absent),
        **{name: getattr(push, name) for name in _NUMBERS},
    }


def _push(worker: int, plain: Mapping[str, Any], device: torch.device) -> tuple[Push, int]:
    def own(tensor: Tensor) -> Tensor:
        return tensor.to(device, copy=True)

    push = Push(
        worker=worker,
        gradient=own(plain["gradient"]),
        buffers={name: own(tensor) for name, tensor in plain["buffers"].items()},
        lease=lease_of(plain["lease"]),
        absent=tuple(plain.get("absent", ())),
        **{name: plain[name] for name in _NUMBERS},
    )
    return push, plain["read_version"]
