"""Turns: several worker processes of one machine that compute one after the other, so that the others may exchange.

While one of two workers computes, the gradient of the other and its next weights travel: the machine computes without
a pause where computing takes at least as long as an exchange. To the server they are two workers like any others, so
each one's gradients are later by those of the other, and the log says so.
"""

from __future__ import annotations

import fcntl
import os
from multiprocessing import reduction
from typing import Any, Self


class Turn:
    """What one process at a time may hold. It is passed on to processes that are started with it.

    It is a lock of the kernel's, which a process gives back when it ends, however it ends.

    Args:
        descriptor: of a file that nothing is written to; owned by this object from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def make(cls) -> Self:
        """A new one, held by nobody."""
        return cls(os.memfd_create("turn", os.MFD_CLOEXEC))

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *reason: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close this process's end of it; a turn that it holds it gives back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __reduce__(self) -> Any:
        """As an argument of a process: the descriptor travels while it is started."""
        return _passed, (reduction.DupFd(self._descriptor),)


def _passed(descriptor: Any) -> Turn:
    return Turn(descriptor.detach())
