"""Data that is not read: a dry run wants to know a task's model and sizes, and nothing of what stands in the images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_UNREAD: ContextVar[bool] = ContextVar("data is not read", default=False)


@contextmanager
def without_data() -> Iterator[None]:
    """While the context lasts, the data sets that can be large are tensors of torch's meta device: shapes alone.

    They can be counted, indexed and cut, as a task does that takes a part of them. Whoever computes with them gets an
    error from torch.
    """
    token = _UNREAD.set(True)
    try:
        yield
    finally:
        _UNREAD.reset(token)


def is_unread() -> bool:
    """Whether data is to be given as shapes alone."""
    return _UNREAD.get()
