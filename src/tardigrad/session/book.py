"""LeaseBook: which leases a worker holds, and to which batch, backward pass and push each of them belongs.

A lease is taken for one batch, and batches come out of a DataLoader in the order in which they were asked for: so the
oldest lease that is not yet yielded belongs to the next batch. From there on the script decides. All batches since
the last push belong to the next one; a gradient that is thrown away gives back the batches that it was computed on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tardigrad.errors import ProtocolError
from tardigrad.records import Lease


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches behind one gradient.

    Attributes:
        leases: one per batch, in the order in which they were yielded; empty for a stream.
        samples: in all of them, >= 0.
        batches: how many, >= 0.
    """

    leases: tuple[Lease, ...]
    samples: int
    batches: int


class LeaseBook:
    """Ties leases to batches, backward passes and pushes.

    >>> book = LeaseBook()
    >>> for start in (0, 4, 8):  # a DataLoader fetches ahead
    ...     book.took(Lease(0, start, start + 4))
    >>> first = book.yielded()
    >>> book.backward()
    >>> second = book.yielded()
    >>> book.thrown_away()  # by zero_grad(): the batch just yielded is still to be computed
    (Lease(epoch=0, start=0, stop=4),)
    >>> book.backward()
    >>> book.for_push().leases
    (Lease(epoch=0, start=4, stop=8),)
    >>> book.unused()
    (Lease(epoch=0, start=8, stop=12),)
    """

    def __init__(self) -> None:
        self._ahead: deque[Lease] = deque()
        self._yielded: list[tuple[Lease | None, int]] = []  # of a stream: no lease, only a number of samples
        self._behind = 0  # so many of them were yielded before the last backward pass

    @property
    def held(self) -> bool:
        """Whether batches were yielded and not pushed since."""
        return bool(self._yielded)

    @property
    def unstepped(self) -> bool:
        """Whether a backward pass was made, on batches that were yielded, and not pushed since."""
        return self._behind > 0

    def took(self, lease: Lease) -> None:
        """A lease was taken; its batch comes after those of all leases taken before."""
        self._ahead.append(lease)

    def yielded(self) -> Lease:
        """The script has the next batch. Return its lease.

        Raises:
            ProtocolError: no lease was taken for it.
        """
        if not self._ahead:
            raise ProtocolError("a batch was yielded for which no lease was taken.")
        lease = self._ahead.popleft()
        self._yielded.append((lease, lease.samples))
        return lease

    def counted(self, samples: int) -> None:
        """The script has the next batch of a stream, of ``samples`` samples, >= 0: there is no lease."""
        self._yielded.append((None, samples))

    def backward(self) -> None:
        """A backward pass is made: on every batch yielded so far. May be called many times for one."""
        self._behind = len(self._yielded)

    def for_push(self) -> Batches:
        """The batches since the last push, which belong to this one from now on."""
        return self._part(len(self._yielded))

    def thrown_away(self) -> tuple[Lease, ...]:
        """The leases whose gradient was thrown away: of the batches yielded before the last backward pass."""
        return self._part(self._behind).leases

    def unused(self) -> tuple[Lease, ...]:
        """The leases whose batches were never yielded: nobody waits for them any more."""
        leases = tuple(self._ahead)
        self._ahead.clear()
        return leases

    def _part(self, number: int) -> Batches:
        part = self._yielded[:number]
        del self._yielded[:number]
        self._behind = 0
        leases = tuple(lease for lease, _ in part if lease is not None)
        return Batches(leases, sum(samples for _, samples in part), len(part))
