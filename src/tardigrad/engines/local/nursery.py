"""Nursery: where worker processes come from. Imports no torch, so that it may be made ready before anything else.

A forkserver imports torch and builds the task once, in one thread and without touching a GPU; every worker is a fork
of it. So a worker costs some milliseconds, the workers of a run share the training data in memory, and none of them
inherits a thread or a lock of the process that trains. The forkserver is Python's own (multiprocessing); it ends with
the process that started it, and what was forked from it with it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from types import ModuleType

from tardigrad.errors import InvalidArgument

_WORKERS = "tardigrad.engines.local.preload"
PRELOAD = "TARDIGRAD_PRELOAD"
"""Environment variable that tells the forkserver, while it starts, which task to build."""


def context() -> ForkServerContext:
    """The context in which worker processes are started."""
    return multiprocessing.get_context("forkserver")


def prepare(task: str, *, imports: Sequence[str] = (), data_dir: str = "") -> None:
    """Start the forkserver if there is none yet; it goes on with its imports while this process does.

    Args:
        task, imports, data_dir: as of `tardigrad.config.RunConfig`; a task that cannot be built is built again, and
            its error seen, where it is needed.

    Raises:
        InvalidArgument: it cannot be started.
    """
    os.environ[PRELOAD] = json.dumps({"task": task, "imports": list(imports), "data_dir": data_dir})
    _start([_WORKERS])


def prepare_for_scripts() -> None:
    """The same for workers that run a script: what every script imports at its first optimizer is there.

    Raises:
        InvalidArgument: it cannot be started.
    """
    _start([_WORKERS, "tardigrad.engines.local.acting", "torch._dynamo"])


def _start(modules: list[str]) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # no library may start threads that a fork would lose
    try:
        context().set_forkserver_preload(modules)
        forkserver.ensure_running()
    except OSError as error:
        raise InvalidArgument(
            f"the forkserver of the worker processes cannot be started ({error}). If its path is too long for a "
            "socket, name a shorter folder for temporary files: TMPDIR=/tmp."
        ) from error
    finally:
        os.environ.pop(PRELOAD, None)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def importable_main() -> Iterator[None]:
    """While a process is started: it imports this one's script anew, unless that was typed in and lies in no file."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or os.path.exists(file):
        yield
        return
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
