"""Backups: what the server last handed to each worker, one copy per distinct version.

Workers that read the same version share its copy, so a synchronous round costs one model and not one per worker. A
backup may have a place of its own, such as the slot in shared memory that its worker computes on: then what the server
handed out and the backup are one and the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Backups:
    """The paper's w_bak(m), one entry per worker that has read."""

    def __init__(self) -> None:
        self._version_of: dict[int, int] = {}
        self._copies: dict[int, Tensor] = {}
        self._readers: dict[int, int] = {}
        self._free: list[Tensor] = []
        self._places: dict[int, Tensor] = {}
        self._written: dict[int, int] = {}  # worker -> version that stands in its place

    def keep_in(self, worker: int, place: Tensor) -> None:
        """Keep this worker's backup in a tensor of the caller's until it is dropped: flat, in the server's layout."""
        version = self._version_of.get(worker)
        self._written.pop(worker, None)
        if version is not None:
            place.copy_(self.of(worker))
            self.drop(worker)
            self._version_of[worker] = self._written[worker] = version
        self._places[worker] = place

    def place_of(self, worker: int) -> Tensor | None:
        """Where this worker's next snapshot may be written already while its commit is applied; None: nowhere."""
        return self._places.get(worker)

    def wrote(self, worker: int, version: int) -> None:
        """The weights of this version were written to the worker's place. Its backup they are when it pulls."""
        self._written[worker] = version

    def __contains__(self, worker: int) -> bool:
        """Whether this worker has a backup."""
        return worker in self._version_of

    def version_of(self, worker: int) -> int:
        """The version this worker last read; 0 where it has no backup."""
        return self._version_of.get(worker, 0)

    def of(self, worker: int) -> Tensor:
        """The backup of this worker, flat; never write to it."""
        return self._places[worker] if worker in self._places else self._copies[self._version_of[worker]]

    def take(self, worker: int, version: int, weights: Tensor) -> Tensor:
        """Make the backup of this worker the weights of this version, and return it."""
        if worker in self._places:
            return self._take_in_place(worker, version, weights)
        self.drop(worker)
        if version not in self._copies:
            copy = self._free.pop() if self._free else weights.clone()
            self._copies[version] = copy.copy_(weights)
            self._readers[version] = 0
        self._version_of[worker] = version
        self._readers[version] += 1
        return self._copies[version]

    def _take_in_place(self, worker: int, version: int, weights: Tensor) -> Tensor:
        place = self._places[worker]
        if self._written.get(worker) != version:
            place.copy_(weights)
            self._written[worker] = version
        self._version_of[worker] = version
        return place

    def drop(self, worker: int) -> None:
        """Forget the backup of this worker; its memory is used again once no other worker reads it."""
        version = self._version_of.pop(worker, None)
        if self._places.pop(worker, None) is not None or version is None:
            return
        self._readers[version] -= 1
        if self._readers[version] == 0:
            self._free.append(self._copies.pop(version))
            del self._readers[version]

    def bytes_held(self) -> int:
        """Bytes of all copies, free ones included."""
        held = [*self._copies.values(), *self._free, *self._places.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def state_dict(self) -> dict[str, Any]:
        """Which worker reads which version, a copy of each version read, and how many buffers are free."""
        copies = dict(self._copies)
        for worker, place in self._places.items():
            version = self._version_of.get(worker)
            if version is not None and self._written.get(worker) == version:  # else it holds what is read next
                copies[version] = place
        return {
            "versions": {worker: version for worker, version in self._version_of.items() if version in copies},
            "copies": {version: copy.clone() for version, copy in copies.items()},
            "free": len(self._free),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, like: Tensor) -> None:
        """Restore what `state_dict` gave, in tensors like ``like``; no backup has a place of its own then."""
        self._places, self._written = {}, {}
        self._copies = {int(v): torch.empty_like(like).copy_(copy) for v, copy in state["copies"].items()}
        self._version_of = {int(worker): version for worker, version in state["versions"].items()}
        held = list(self._version_of.values())
        self._readers = {version: held.count(version) for version in self._copies}
        self._free = [torch.empty_like(like) for _ in range(state["free"])]
