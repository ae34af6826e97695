"""Orders: in which order the user's own DataLoader goes through the samples, epoch after epoch.

A lease says (epoch, start, stop); which samples these are every worker finds out by itself. So the user's sampler is
evaluated in every worker alike, in a universe of its own: with copies of the sampler and of the DataLoader's
generator, and with global generators that begin as they were when the script prepared, which is alike in all workers
too. In that universe one epoch follows the other exactly as in plain PyTorch, whatever the script draws meanwhile.

A run that begins with one worker goes further: there an epoch is evaluated from the global generators as they are when
the worker's loop begins, with all that the script has drawn meanwhile, which is plain PyTorch. The server keeps these
states as long as somebody may compute a sample of the epoch.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from tardigrad.errors import SessionError
from tardigrad.session.generators import GENERATORS, GeneratorStates, generators_kept, seed_cpu_generators

Order = np.ndarray[Any, np.dtype[np.int64]] | list[Any]
_KEPT = 3  # epochs: a worker takes leases of the epoch now and, where one comes back, of one before


class Orders:
    """The order of samples of each epoch.

    Where the sampler has a ``set_epoch``, it is called with the epoch's number, from 0.

    Args:
        loader: the user's own, with a map-style data set.
        group: processes that compute a lease together, each of them a batch of the loader's size.

    Attributes:
        samples: of an epoch: what the sampler yields; with drop_last without the tail that fills no lease.
        digest: of the first epoch's order: the same in every worker, or the workers would compute other samples
            than they are leased.

    Raises:
        SessionError: a DataLoader whose samples cannot be leased; the message says why and what to write.
    """

    def __init__(self, loader: DataLoader[Any], *, group: int = 1) -> None:
        require_leasable(loader)
        self._draws_every_time = not (loader.persistent_workers and loader.num_workers > 0)
        self._multiple = loader.batch_size * group if loader.drop_last and loader.batch_size else 1
        self._begin = (GeneratorStates.now(), _copied((loader.sampler, loader.generator), loader.dataset))
        self._memo_of = loader.dataset
        self._begun: Callable[[int], GeneratorStates] | None = None
        self._start_over()
        first = self.of(0)
        if not len(first):
            raise SessionError(_empty(loader, group))
        self.samples = len(first)
        self.digest = _digest(first)

    def follow(self, begun: Callable[[int], GeneratorStates]) -> None:
        """Evaluate every epoch from the states of the global generators with which it was begun.

        Only what an epoch draws itself may decide its order: a worker that comes later knows nothing of those before.
        A sampler that keeps what it drew, such as one that shuffles its own list, stays in the universe of its own.

        Args:
            begun: epoch -> those states; asked when the epoch's order is needed.
        """
        if self._second_after(1) == self._second_after(2):
            self._begun = begun
            self._start_over()

    def of(self, epoch: int) -> Order:
        """The samples of one epoch in their order: int64, shape (samples,), where they are ints; else a list.

        Args:
            epoch: from 0. One long past is found again from the first on, which takes its time.

        Raises:
            SessionError: the sampler yields more or fewer samples in this epoch than in the first.
        """
        if epoch not in self._known and epoch < self._next:
            self._start_over()
        while self._next <= epoch:
            begun = self._begun if self._next == epoch else None  # one on the way: for generators of the sampler's own
            order = self._evaluate(self._next, None if begun is None else begun(epoch))
            if self._begun is None or begun is not None:
                self._known[self._next] = order
            self._next += 1
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[epoch]

    def _start_over(self) -> None:
        self._universe, pristine = self._begin
        self._sampler, self._generator = _copied(pristine, self._memo_of)
        self._known: OrderedDict[int, Order] = OrderedDict()
        self._next = 0

    def _evaluate(self, epoch: int, begun: GeneratorStates | None) -> Order:
        drawn_before = begun is not None and self._generator is None  # the base seed of the DataLoader's processes
        with generators_kept():
            (begun or self._universe).put_back()
            if not drawn_before and (epoch == 0 or self._draws_every_time):
                torch.empty((), dtype=torch.int64).random_(generator=self._generator)
            samples = _walked(self._sampler, epoch)
            if begun is None:
                self._universe = GeneratorStates.now()
        self._require_length(epoch, samples)
        return _as_order(samples[: len(samples) // self._multiple * self._multiple])

    def _second_after(self, seed: int) -> str:
        """The digest of an epoch's order, always drawn alike, after an epoch that drew from this seed."""
        sampler, _ = _copied(self._begin[1], self._memo_of)
        with generators_kept():
            seed_cpu_generators(seed)
            _walked(sampler, 0)
            seed_cpu_generators(0)
            return _digest(_as_order(_walked(sampler, 1)))

    def _require_length(self, epoch: int, samples: list[Any]) -> None:
        name = type(self._sampler).__name__
        if len(samples) > len(self._sampler):
            raise SessionError(
                f"the sampler {name} yields more samples than its length says ({len(self._sampler)}). An epoch needs "
                "a length: let its __len__ say how many samples it yields."
            )
        if epoch > 0 and len(samples) // self._multiple * self._multiple != self.samples:
            raise SessionError(
                f"the sampler {name} yields {len(samples)} samples in epoch {epoch} and {self.samples} in the first. "
                "Samples are leased by their place in an epoch: let every epoch have as many."
            )


def require_leasable(loader: Any) -> None:
    """Check that the samples of a DataLoader can be leased.

    Raises:
        SessionError: they cannot; the message says why and what to write.
    """
    if (sentence := _obstacle(loader)) is not None:
        raise SessionError(sentence)


def _obstacle(loader: Any) -> str | None:
    if not isinstance(loader, DataLoader):
        return f"session.prepare takes a torch.utils.data.DataLoader; {type(loader).__name__} is none."
    if isinstance(loader.dataset, IterableDataset):
        return "the data set is an IterableDataset: of a stream nothing can be leased."
    kind = type(loader)
    if kind.__iter__ is not DataLoader.__iter__ or kind._get_iterator is not DataLoader._get_iterator:
        return (
            f"{kind.__name__} is a DataLoader with a loop of its own, and its samples cannot be leased. "
            "Give session.prepare a plain torch.utils.data.DataLoader."
        )
    if loader.batch_sampler is None:
        return (
            "the DataLoader has batch_size=None: a lease is for a batch. Write DataLoader(dataset, batch_size=...), or "
            "make the data set an IterableDataset that yields batches."
        )
    if loader.batch_size is None:
        return (
            "the DataLoader has a batch_sampler of its own: the server decides which samples a batch has. Write "
            "DataLoader(dataset, batch_size=..., sampler=...): any sampler is followed."
        )
    if not loader.in_order:
        return (
            "the DataLoader has in_order=False: batches must come in the order in which their samples were leased. "
            "Leave in_order=False out."
        )
    if not hasattr(loader.sampler, "__len__"):
        return (
            f"the sampler {type(loader.sampler).__name__} has no length: say how many samples an epoch has by a "
            "__len__, or make the data set an IterableDataset."
        )
    return None


def _empty(loader: DataLoader[Any], group: int) -> str:
    if len(loader.sampler):  # type: ignore[arg-type]
        return (
            f"the DataLoader has drop_last=True and fewer samples than its batch_size of {loader.batch_size}"
            f"{f' for each of {group} processes' if group > 1 else ''}: an epoch has no batch. "
            "Write a smaller batch_size."
        )
    return "the DataLoader's sampler yields no samples: there is nothing to train on."


def _walked(sampler: Any, epoch: int) -> list[Any]:
    """What a sampler yields in an epoch; one sample too many shows that its length is wrong."""
    if callable(set_epoch := getattr(sampler, "set_epoch", None)):
        set_epoch(epoch)
    return list(islice(iter(sampler), len(sampler) + 1))


def _copied(things: Any, dataset: Any) -> Any:
    """Deep copies that share the data set, and what it holds, with the original: only generators are copied."""
    shared = {id(part): part for part in _within(dataset) if not isinstance(part, GENERATORS)}
    try:
        return copy.deepcopy(things, shared)
    except Exception as error:
        raise SessionError(
            f"the sampler {type(things[0]).__name__} cannot be copied ({error}), and the order of samples is found "
            "with a copy. Give it a __deepcopy__, or keep what cannot be copied out of it."
        ) from error


def _within(dataset: Any) -> Iterator[Any]:
    """A data set, what its attributes hold, and the same of the data sets inside it (Subset, ConcatDataset)."""
    waiting, seen = [dataset], set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        attributes = getattr(part, "__dict__", {})
        yield part
        yield from attributes.values()
        several = attributes.get("datasets")
        waiting += [attributes.get("dataset"), *(several if isinstance(several, list | tuple) else ())]


def _as_order(samples: list[Any]) -> Order:
    if all(type(sample) is int for sample in samples):
        order = np.array(samples, dtype=np.int64)
        order.setflags(write=False)
        return order
    return samples


def batch_of(order: Order, start: int, stop: int) -> list[Any]:
    """The samples from ``start`` to ``stop`` as the sampler yielded them: Python's own ints where they are ints."""
    part = order[start:stop]
    return part.tolist() if isinstance(part, np.ndarray) else list(part)


def _digest(order: Sequence[Any] | np.ndarray[Any, Any]) -> str:
    content = order.tobytes() if isinstance(order, np.ndarray) else repr(list(order)).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
