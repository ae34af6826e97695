"""Names of parameters and buffers as the user's own model has them, without what a wrapper puts into them."""

from __future__ import annotations

_WRAPPED = "_orig_mod."  # torch.compile
_PARALLEL = "module."  # DistributedDataParallel


def plain_name(name: str) -> str:
    """The name without the words of torch.compile and DistributedDataParallel.

    >>> plain_name("module._orig_mod.head.weight")
    'head.weight'
    """
    plain = name.replace(_WRAPPED, "")
    while plain.startswith(_PARALLEL) and plain != _PARALLEL:
        plain = plain.removeprefix(_PARALLEL)
    return plain
