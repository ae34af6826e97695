"""Lying: the two pieces of shared memory between a worker and its server, as bytes that may travel.

Of a task's worker they are slots that are there from the beginning. A script's slots are made when it has prepared,
and handed over by a message ``welcome``: the server's bridge maps what it finds there, the worker's makes its own.
"""

from __future__ import annotations

import mmap
import os

from tardigrad.transports.slots import Slot


class Lying:
    """Shared memory behind a descriptor.

    Args:
        descriptor: of the memfd.
        kept: whether the descriptor belongs to this object.
        memory: where it is mapped already; None: mapped now.

    Attributes:
        descriptor: as given.
        memory: all its bytes.
    """

    def __init__(self, descriptor: int, *, kept: bool, memory: memoryview | None = None) -> None:
        self.descriptor, self._kept = descriptor, kept
        if memory is None:
            memory = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size, mmap.MAP_SHARED))
        self.memory = memory

    @classmethod
    def of(cls, slot: Slot) -> Lying:
        """Of a slot, which stays its owner's."""
        return cls(slot.descriptor, kept=False, memory=slot.memory)

    @classmethod
    def copied(cls, descriptor: int) -> Lying:
        """Of what a message brought, whose own descriptor will be closed."""
        return cls(os.dup(descriptor), kept=True)

    @classmethod
    def new(cls, name: str, size: int) -> Lying:
        """So many bytes, > 0, all zero."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size)
        return cls(descriptor, kept=True)

    def close(self) -> None:
        """Give back what is this object's. The memory goes with the last view of it."""
        self.memory.release()
        if self._kept:
            os.close(self.descriptor)
