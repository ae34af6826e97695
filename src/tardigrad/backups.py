"""Backups: what the server last handed to each worker, one copy per distinct version.

Workers that read the same version share its copy, so a synchronous round costs one model and not one per worker. A
backup may have a place of its own, such as the slot in shared memory that its worker computes on: then what the server
handed out and the backup are one and the same memory. Where nothing will read a backup, because the rule does not and
the worker was given weights of its own, the version alone is noted and no copy is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Memory(Protocol):
    """A flat buffer that other processes may see too, such as a `tardigrad.transports.slots.Slot`.

    Attributes:
        descriptor: of the memory.
        flat: a view of it.
    """

    descriptor: int
    flat: Tensor


class Backups:
    """The paper's w_bak(m), one entry per worker that has read.

    Args:
        compared: whether the rule reads backups; if not, one is kept only for who computes on that very memory.
    """

    def __init__(self, *, compared: bool = True) -> None:
        self._compared = compared
        self._version_of: dict[int, int] = {}
        self._copies: dict[int, Tensor] = {}
        self._readers: dict[int, set[int]] = {}  # version -> workers that share its copy
        self._free: list[Tensor] = []
        self._places: dict[int, Tensor] = {}
        self._written: dict[int, int] = {}  # worker -> version that stands in its place

    def keep_in(self, worker: int, place: Tensor) -> None:
        """Keep this worker's backup in a tensor of the caller's until it is dropped: flat, in the server's layout."""
        version = self._version_of.get(worker)
        self._written.pop(worker, None)
        if version is not None and not self._is_noted(worker):
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

    def stands(self, worker: int, version: int) -> bool:
        """Whether the weights of this version stand in the worker's place already."""
        return worker in self._places and self._written.get(worker) == version

    def __contains__(self, worker: int) -> bool:
        """Whether it is known what this worker last read."""
        return worker in self._version_of

    def version_of(self, worker: int) -> int:
        """The version this worker last read; 0 where it has no backup."""
        return self._version_of.get(worker, 0)

    def of(self, worker: int) -> Tensor:
        """The backup of this worker, flat; never write to it. There is none where its version was only noted."""
        return self._places[worker] if worker in self._places else self._copies[self._version_of[worker]]

    def hand_out(self, worker: int, version: int, weights: Tensor, *, copy: bool) -> Tensor:
        """The weights of this version for this worker: with ``copy`` its own, else its backup, only to be read.

        Weights are overwritten in place, so an engine that computes later needs a copy of the version it read even
        where no rule does; a caller who gets weights of its own has that copy.
        """
        if copy and not self._compared:
            self._note(worker, version)
            return weights.clone()
        backup = self.take(worker, version, weights)
        return backup.clone() if copy else backup

    def begin(self, worker: int, weights: Tensor) -> None:
        """A worker joins at version 0: should it push before it pulls, it was computed on these."""
        if self._compared:
            self.take(worker, 0, weights)
        else:
            self._note(worker, 0)

    def take(self, worker: int, version: int, weights: Tensor) -> Tensor:
        """Make the backup of this worker the weights of this version, and return it."""
        if worker in self._places:
            return self._take_in_place(worker, version, weights)
        unread = self._let_go(worker)
        if unread is not None:
            self._free.append(unread)
        if version not in self._copies:
            copy = self._free.pop() if self._free else torch.empty_like(weights)
            self._copies[version] = copy.copy_(weights)
        self._version_of[worker] = version
        self._readers.setdefault(version, set()).add(worker)
        return self._copies[version]

    def _note(self, worker: int, version: int) -> None:
        """This worker has read this version, and nobody will ask for the weights: none are kept for it."""
        self._let_go(worker)
        self._version_of[worker] = version

    def _take_in_place(self, worker: int, version: int, weights: Tensor) -> Tensor:
        place = self._places[worker]
        if self._written.get(worker) != version:
            place.copy_(weights)
            self._written[worker] = version
        self._version_of[worker] = version
        return place

    def drop(self, worker: int) -> None:
        """Forget the backup of this worker, and its place; a copy that no other worker reads is given back."""
        self._let_go(worker)
        self._places.pop(worker, None)

    def _is_noted(self, worker: int) -> bool:
        """Whether the version this worker last read is all that is kept of it."""
        version = self._version_of.get(worker)
        return version is not None and worker not in self._places and worker not in self._readers.get(version, ())

    def _let_go(self, worker: int) -> Tensor | None:
        """This worker reads what it last read no longer; return the copy of it that nobody else reads either."""
        version = self._version_of.pop(worker, None)
        readers = self._readers.get(version, set()) if version is not None else set()
        if version is None or worker not in readers:
            return None
        readers.discard(worker)
        if readers:
            return None
        del self._readers[version]
        return self._copies.pop(version)

    def bytes_held(self) -> int:
        """Bytes of all copies, free ones and places included."""
        held = [*self._copies.values(), *self._free, *self._places.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def state_dict(self) -> dict[str, Any]:
        """Which worker reads which version, a copy of each version read, and how many buffers are free."""
        copies = dict(self._copies)
        for worker, place in self._places.items():
            version = self._version_of.get(worker)
            if version is not None and self._written.get(worker) == version:  # else it holds what is read next
                copies[version] = place
        known = {w: version for w, version in self._version_of.items() if version in copies or self._is_noted(w)}
        return {
            "versions": known,
            "copies": {version: copy.clone() for version, copy in copies.items()},
            "free": len(self._free),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, like: Tensor) -> None:
        """Restore what `state_dict` gave, in tensors like ``like``; no backup has a place of its own then."""
        self._places, self._written = {}, {}
        self._copies = {int(v): torch.empty_like(like).copy_(copy) for v, copy in state["copies"].items()}
        self._version_of = {int(worker): version for worker, version in state["versions"].items()}
        self._readers = {version: set() for version in self._copies}
        for worker, version in self._version_of.items():
            if version in self._copies:
                self._readers[version].add(worker)
        self._free = [torch.empty_like(like) for _ in range(state["free"])]
