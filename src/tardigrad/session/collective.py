"""Collective: what carries tensors between the processes of a group, apart from everything that a script may set up.

torch.distributed is not initialised for the script: no default group is there, so that nothing a script uses takes it
for one that shares out data or numbers by itself. Processes find each other by a file that exists in memory alone, and
speak over this machine's own loop.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed import (  # type: ignore[attr-defined]
    HashStore,
    PrefixStore,
    ProcessGroup,
    ProcessGroupGloo,
    Store,
)
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = datetime.timedelta(days=7)  # the server ends a worker that hangs, and knows when
_HERE = "127.0.0.1"


def process_group(store: Store, backend: str, rank: int, size: int) -> ProcessGroup:
    """Meet the other processes; returns when all are there.

    Args:
        store: which all of them see.
        backend: ``"gloo"``: through the CPU's memory, for tensors anywhere; ``"nccl"``: between GPUs.
        rank, size: this process, of how many.
    """
    group = ProcessGroup(store, rank, size)
    own = PrefixStore(backend, store)
    if backend == "nccl":
        _register_nccl(group, own, rank, size)
        return group
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = _PATIENCE
    options._devices = [ProcessGroupGloo.create_device(hostname=_HERE)]
    carrier, kind = ProcessGroupGloo(own, rank, size, options), ProcessGroup.BackendType.GLOO
    for device in ("cpu", "cuda"):
        group._register_backend(torch.device(device), kind, carrier)
    group._set_default_backend(kind)
    return group


def _register_nccl(group: ProcessGroup, store: Store, rank: int, size: int) -> None:
    from torch.distributed import ProcessGroupNCCL  # not in every build

    options = ProcessGroupNCCL.Options()
    options._timeout = _PATIENCE
    kind = ProcessGroup.BackendType.NCCL
    group._register_backend(torch.device("cuda"), kind, ProcessGroupNCCL(store, rank, size, options))
    group._set_default_backend(kind)


def use_up_warning() -> None:
    """Let PyTorch say here, unheard, what it says once in a process: that all parameters were used.

    Whether all are is the script's affair, and it cannot know of the setting that the sentence is about.
    """
    alone = process_group(HashStore(), "gloo", 0, 1)
    drawn_nothing = nn.PReLU()  # its parameter is a constant
    model = DistributedDataParallel(drawn_nothing, process_group=alone, find_unused_parameters=True, init_sync=False)
    with _unheard(), torch.enable_grad():
        model(torch.zeros(1))


@contextmanager
def _unheard() -> Iterator[None]:
    """While this lasts nothing reaches the standard error stream; PyTorch's own words do not pass through Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
