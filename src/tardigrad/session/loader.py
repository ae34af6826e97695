"""LeasedLoader: the user's DataLoader, whose samples the server leases; EpochClock: which epoch a worker is in.

A torch DataLoader does all the work, with the user's own data set, collate function, processes and pinning; only the
batches it is to fetch come from the server: one lease for each, taken when the DataLoader asks for it. The server is
asked in the worker's own process alone, never in one of the DataLoader's.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Sampler

from tardigrad.errors import SessionError
from tardigrad.hyperparameters import require_integer
from tardigrad.records import Lease
from tardigrad.session.book import LeaseBook
from tardigrad.session.generators import GeneratorStates
from tardigrad.session.link import Link
from tardigrad.session.orders import Orders, batch_of


def _nothing() -> None:
    pass


class EpochClock:
    """Which epoch a worker is in.

    Inside `epochs` the loops of one turn belong to that epoch. Without it every loop over the loader is an epoch, as
    in plain PyTorch; then nobody knows which is the last.

    Args:
        link: to the server.
        first: the epoch that the run has come to, from 0.

    Attributes:
        now: the last epoch whose samples a loop over the loader takes, from 0.
        last: number of the run's last epoch; None: not said.
        inside: whether a loop over the loader is running.
    """

    def __init__(self, link: Link, first: int = 0) -> None:
        self.now = first
        self.last: int | None = None
        self.inside = False
        self._link = link
        self._first = first
        self._named = False
        self._loops = 0
        self._left_early = False
        self._book: LeaseBook | None = None
        self._drained: Callable[[], None] = _nothing
        self._returned: Lease | None = None

    def serve(self, book: LeaseBook | None, drained: Callable[[], None]) -> None:
        """A loader is there; with a ``book`` its samples are leased. For ``drained`` see `LeasedLoader`."""
        self._book = book
        self._drained = drained

    def tell(self, number: int) -> None:
        """Say of how many epochs the run is, >= 0.

        Raises:
            SessionError: it was said before, and was another number.
        """
        require_integer("session.epochs", "number", number, low=0)
        if self.last is not None and self.last != number - 1:
            raise SessionError(
                f"session.epochs({number}) in a run of {self.last + 1} epochs: the number of epochs is said once."
            )
        if self.last is None:
            self._link.epochs(number)
        self.last = number - 1

    def epochs(self, number: int) -> Iterator[int]:
        """The epochs that are left of ``number``, from the one that the run has come to.

        No barrier lies between them. After the last, a worker that holds no samples waits until all are applied; where
        some come back from a worker that has died, the last epoch is yielded once more to compute them. A script that
        left its last loop over the loader early has had enough, and is not asked again.
        """
        self.tell(number)
        return self._epochs(number)

    def _epochs(self, number: int) -> Iterator[int]:
        self._named = True
        for epoch in range(self._first, number):
            self.now, self._loops = epoch, 0
            yield epoch
        while self._loops and not self._left_early and self.comes_back():
            self._loops = 0
            yield self.now

    def begin(self) -> None:
        """A loop over the loader begins."""
        if not self._named:
            self.now = self._first + self._loops
        self._loops += 1
        self.inside = True

    def end(self, *, early: bool) -> None:
        """The loop over the loader has ended; ``early``: the script left it."""
        self.inside, self._left_early = False, early

    def take(self) -> Lease | None:
        """A lease for the next batch; None: there is none now."""
        lease, self._returned = self._returned, None
        return lease or self._link.take(self.now, wait=False)

    def comes_back(self) -> bool:
        """No batch is left for now. In the last epoch, wait whether samples come back from another worker.

        A worker that holds batches without having stepped does not wait: it may step after the loop.
        """
        self._drained()
        if self._book is None or self._book.held or self.now != self.last:
            return False
        self._returned = self._returned or self._link.take(self.now, wait=True)
        return self._returned is not None


class ServedLoader(ABC):
    """A loader in the place of the user's own: iterated, asked for its length and for its attributes alike.

    Args:
        loader: the user's own.
        book: told of every batch.
        epochs: told of every loop.
    """

    def __init__(self, loader: DataLoader[Any], book: LeaseBook, epochs: EpochClock) -> None:
        self._loader = loader
        self._book = book
        self._clock = epochs
        self._process = os.getpid()
        self._running: weakref.ref[Loop] | None = None
        self._made: DataLoader[Any] | None = None

    def __iter__(self) -> Loop:
        """Begin a loop over the batches; one that was begun before has ended."""
        self.close()
        loop = Loop(self)
        self._running = weakref.ref(loop)
        return loop

    def __len__(self) -> int:
        """Batches of a whole epoch, as in plain PyTorch; this worker may see fewer."""
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        """What the user's own loader has: dataset, batch_size, sampler, num_workers and whatever else."""
        if name.startswith("__") or "_loader" not in self.__dict__:  # asked by copy and pickle
            raise AttributeError(name)
        return getattr(self._loader, name)

    def close(self) -> None:
        """End the loop that is running, if one is."""
        loop = self._running() if self._running is not None else None
        if loop is not None:
            loop.close()

    def finish(self) -> None:
        """The script is over: end the loop that is running, and processes of the DataLoader that are persistent."""
        self.close()
        self._made = None  # they end with it; the garbage collector would let them wait for seconds

    def began(self) -> Iterator[Any]:
        """A loop begins: the batches to come."""
        self._clock.begin()
        if self._made is None:
            self._made = self._make()
        return self._batches(self._made, iter(self._made))  # here PyTorch draws, and fetches ahead

    def ended(self, *, early: bool, failed: bool) -> None:
        """A loop has ended; ``early``: before its batches did; ``failed``: the next batch could not be made."""
        if os.getpid() == self._process:  # a process of the DataLoader may hold a copy of this loop
            self._clock.end(early=early)
            self._left_over(failed=failed)

    @abstractmethod
    def _make(self) -> DataLoader[Any]:
        """The DataLoader that does the work."""

    @abstractmethod
    def _batches(self, made: DataLoader[Any], batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of one loop, of which ``batches`` are the first, each told to the book."""

    @abstractmethod
    def _left_over(self, *, failed: bool) -> None:
        """See to what was fetched and never yielded."""


class Loop:
    """One loop over a served loader."""

    def __init__(self, loader: ServedLoader) -> None:
        self._loader = loader
        self._open = True
        self._closed_from_outside = False
        try:
            self._batches: Iterator[Any] | None = loader.began()
        except BaseException:
            self._end(early=True, failed=False)
            raise

    def __iter__(self) -> Loop:
        return self

    def __next__(self) -> Any:
        if self._closed_from_outside:
            raise SessionError(
                "a loop over the prepared loader went on after another had begun: loops over one loader do not nest. "
                "To go through the data for another purpose, use a DataLoader that was not prepared."
            )
        if self._batches is None:
            raise StopIteration
        try:
            return next(self._batches)
        except StopIteration:
            self._end(early=False, failed=False)
            raise
        except BaseException as error:
            self._end(early=True, failed=isinstance(error, Exception))
            raise

    def __len__(self) -> int:
        return len(self._loader)

    def close(self) -> None:
        """End this loop: another begins, or the script is over."""
        self._closed_from_outside |= self._open
        self._end(early=True, failed=False)

    def __del__(self) -> None:
        self._end(early=True, failed=False)

    def _end(self, *, early: bool, failed: bool) -> None:
        if self._open:
            self._open, self._batches = False, None  # the DataLoader's processes end with its iterator
            self._loader.ended(early=early, failed=failed)


Part = Callable[[Lease], tuple[int, int]]
"""What a process computes of a lease, as (start, stop) in its epoch."""


def whole(lease: Lease) -> tuple[int, int]:
    """All of a lease: what a worker of one process computes."""
    return lease.start, lease.stop


class LeasedLoader(ServedLoader):
    """The user's DataLoader, with leased samples.

    At most num_workers * prefetch_factor leases are taken ahead. Those whose batches the script never sees go back:
    when it leaves the loop, and when a batch cannot be made; that batch's own counts as skipped.

    Args:
        loader: the user's own.
        link: to the server.
        book: ties leases to batches.
        orders: of the loader.
        epochs: which epoch it is.
        drained: called whenever no further batch is there for now: before waiting for samples to come back, before a
            loop ends, and after the last epoch; not when the script leaves a loop early.
        part: what this process computes of a lease.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        link: Link,
        book: LeaseBook,
        orders: Orders,
        epochs: EpochClock,
        drained: Callable[[], None] = _nothing,
        *,
        part: Part = whole,
    ) -> None:
        super().__init__(loader, book, epochs)
        self._link = link
        epochs.serve(book, drained)
        self._orders, self._part = orders, part

    def __len__(self) -> int:
        """Batches of a whole epoch, each of them computed by all processes of the worker together."""
        return -(-self._orders.samples // ((self._loader.batch_size or 1) * self._link.group))

    def _make(self) -> DataLoader[Any]:
        leased = _LeaseSampler(self._loader, self._link, self._book, self._orders, self._clock, self._part)
        if self._link.workers == 1:
            self._orders.follow(leased.begun)
        return DataLoader(
            self._loader.dataset,
            batch_sampler=leased,
            collate_fn=self._loader.collate_fn,
            **settings_of(self._loader),
        )

    def _batches(self, made: DataLoader[Any], batches: Iterator[Any] | None) -> Iterator[Any]:
        while batches is not None:
            for batch in batches:
                self._book.yielded()
                yield batch
            batches = iter(made) if self._clock.comes_back() else None

    def _left_over(self, *, failed: bool) -> None:
        unused = self._book.unused()
        at_fault, others = (unused[:1], unused[1:]) if failed else ((), unused)
        if at_fault:
            self._link.give_back(at_fault, skipped=True)
        if others:
            self._link.give_back(others)


class _LeaseSampler(Sampler[list[Any]]):
    """What a DataLoader is to fetch: one lease after the other, as long as there are any.

    The user's own sampler is gone through beside it, for its draws from the script's generators: they are those of
    plain PyTorch.
    """

    def __init__(
        self, loader: DataLoader[Any], link: Link, book: LeaseBook, orders: Orders, epochs: EpochClock, part: Part
    ) -> None:
        self._own, self._size = loader.sampler, loader.batch_size
        self._link, self._book, self._orders, self._clock, self._part = link, book, orders, epochs, part

    def begun(self, epoch: int) -> GeneratorStates:
        """From which states an epoch's order is evaluated: this worker's of now, where nobody has begun it."""
        return self._link.order(epoch, self._at_first)

    def __iter__(self) -> Iterator[list[Any]]:
        self._at_first = GeneratorStates.now()
        own = iter(self._own)
        while (lease := self._clock.take()) is not None:
            self._book.took(lease)
            deque(islice(own, lease.samples), maxlen=0)
            yield batch_of(self._orders.of(lease.epoch), *self._part(lease))
        deque(islice(own, self._size), maxlen=0)  # a plain BatchSampler asks once more, in vain


def settings_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """How a DataLoader fetches: its processes, pinning and generator, as arguments for another."""
    several = loader.num_workers > 0
    return {
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "pin_memory_device": loader.pin_memory_device,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context if several else None,
        "generator": loader.generator,
        "prefetch_factor": loader.prefetch_factor if several else None,
        "persistent_workers": loader.persistent_workers,
    }
