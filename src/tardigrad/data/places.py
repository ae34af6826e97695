"""Where data sets lie: the folder given with --data-dir, else TARDIGRAD_DATA, else a cache folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_GIVEN: ContextVar[str] = ContextVar("data directory", default="")


@contextmanager
def data_directory(path: str) -> Iterator[None]:
    """While the context lasts, data sets lie in this folder. An empty path changes nothing."""
    token = _GIVEN.set(path or _GIVEN.get())
    try:
        yield
    finally:
        _GIVEN.reset(token)


def find_data_directory() -> Path:
    """The folder in which data sets are looked for and put: absolute, and perhaps not there yet.

    In this order: what [`data_directory`][tardigrad.data.places.data_directory] was given (--data-dir), the
    environment variable TARDIGRAD_DATA, ``$XDG_CACHE_HOME/tardigrad``, ``~/.cache/tardigrad``.
    """
    given = _GIVEN.get() or os.environ.get("TARDIGRAD_DATA", "")
    if given:
        return Path(given).expanduser().resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a path that is not absolute ignored.
    home = cache if cache.is_absolute() else Path("~/.cache").expanduser()
    return (home / "tardigrad").resolve()
