"""StreamedLoader: the user's DataLoader over an IterableDataset, of which nothing can be leased.

Every worker has a stream of its own: the data set yields what it yields, and what a worker is to see of it the script
says, by ``session.worker`` and ``session.workers``. The samples of each batch are counted, so that the server knows
what a gradient stands for and how many samples were applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from tardigrad.errors import SessionError
from tardigrad.session.book import LeaseBook
from tardigrad.session.loader import EpochClock, ServedLoader, settings_of


def as_counted(samples: int | None) -> int | None:
    """What a batch counts for in a worker of one process: as many samples as it has."""
    return samples


class StreamedLoader(ServedLoader):
    """The user's DataLoader over a stream, with its samples counted. An epoch is one pass of the worker's own stream.

    Args:
        loader: the user's own.
        book: told of every batch.
        epochs: told of every loop.
        drained: called before a loop ends and after the last epoch; not when the script leaves a loop early.
        agreed: what a batch of so many samples counts for; None in place of either: the stream has come to its end.

    Raises:
        SessionError: a DataLoader that is none, or with a loop of its own.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        book: LeaseBook,
        epochs: EpochClock,
        drained: Callable[[], None] = lambda: None,
        *,
        agreed: Callable[[int | None], int | None] = as_counted,
    ) -> None:
        if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, IterableDataset):
            raise SessionError("a stream is a torch.utils.data.DataLoader over an IterableDataset.")
        super().__init__(loader, book, epochs)
        self._agreed = agreed
        epochs.serve(None, drained)

    def _make(self) -> DataLoader[Any]:
        return DataLoader(
            self._loader.dataset,
            batch_size=self._loader.batch_size,
            drop_last=self._loader.drop_last,
            collate_fn=_Counted(self._loader.collate_fn, batched=self._loader.batch_size is not None),
            in_order=self._loader.in_order,
            **settings_of(self._loader),
        )

    def _batches(self, made: DataLoader[Any], batches: Iterator[Any]) -> Iterator[Any]:
        for samples, batch in batches:
            counted = self._agreed(samples)
            if counted is None:
                break
            self._book.counted(counted)
            yield batch
        else:
            self._agreed(None)
        self._clock.comes_back()

    def _left_over(self, *, failed: bool) -> None:
        """Nothing: what was fetched of a stream and never yielded is gone, as in plain PyTorch."""


class _Counted:
    """The user's collate function, and how many samples it was given; it travels to the DataLoader's processes."""

    def __init__(self, collate: Callable[[Any], Any], *, batched: bool) -> None:
        self._collate = collate
        self._batched = batched

    def __call__(self, items: Any) -> tuple[int, Any]:
        samples = len(items) if self._batched else samples_in(items)
        return samples, self._collate(items)


def samples_in(batch: Any) -> int:
    """How many samples a ready-made batch has: the first dimension of the first tensor or array in it, else 1.

    >>> samples_in({"inputs": torch.zeros(32, 3), "labels": torch.zeros(32)})
    32
    """
    found = _first_length(batch)
    return 1 if found is None else found


def _first_length(batch: Any) -> int | None:
    if isinstance(batch, torch.Tensor | np.ndarray):
        return int(batch.shape[0]) if batch.ndim else None
    if isinstance(batch, str | bytes):
        return None
    parts: Any = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    return next((found for part in parts if (found := _first_length(part)) is not None), None)
