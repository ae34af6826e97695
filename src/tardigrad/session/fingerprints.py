"""Fingerprints: short digests of what must not differ between workers, such as the data set.

A worker computes the samples that it is leased by their places, so two workers whose data differ would train on the
wrong samples without a sign. A digest of a few items finds what commonly goes wrong: another folder, another split,
another order of files. It takes for granted that the workers read alike: with the same versions of the libraries that
decode files, on processors of one kind.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import Module, Parameter
from torch.utils.data import DataLoader

from tardigrad.session.generators import generators_kept, generators_within, seed_cpu_generators
from tardigrad.session.orders import Orders

_WHOLE = 1 << 18  # elements of a frozen tensor that are read one by one; of a larger one a part, and the sum of all


def of_loader(loader: DataLoader[Any], orders: Orders) -> str:
    """Digest of the data set behind a DataLoader: class, length, and the first, middle and last sample of an epoch.

    Where the DataLoader has processes of its own, the items are fetched in one: a data set may open files there that
    must not be open in the worker. The generators are left as they were.
    """
    order = orders.of(0)
    places = sorted({0, len(order) // 2, len(order) - 1})
    samples = [order[place].item() if isinstance(order, np.ndarray) else order[place] for place in places]
    if loader.num_workers == 0:
        return of_dataset(loader.dataset, samples)
    return _of(loader.dataset, _fetched_apart(loader, samples))


def of_dataset(dataset: Any, samples: Sequence[Any] | None = None) -> str:
    """Digest of a data set: its class, its length and a few items.

    An item counts with its content where fetching it twice under different generators gives the same bytes; where it
    does not (augmentation), with its shapes. The generators are left as they were, global ones and the data set's own.

    Args:
        dataset: map-style; of another only the class counts.
        samples: which items; None: the first, middle and last, where it has a length.
    """
    if samples is None:
        length = _length(dataset)
        samples = sorted({0, length // 2, length - 1}) if length else []
    with generators_kept(*generators_within(dataset)):
        return _of(dataset, [_fetched_twice(dataset, sample) for sample in samples])


def of_frozen(model: Module, travelling: Iterable[Parameter]) -> str:
    """Digest of the parameters that do not travel: names, shapes and values.

    Args:
        model: whose parameters.
        travelling: those that do, by identity: the ones that the optimizer has and that require gradients.
    """
    left_out = {id(parameter) for parameter in travelling}
    frozen = [(name, tensor) for name, tensor in model.named_parameters() if id(tensor) not in left_out]
    return _digest(*[part for name, tensor in frozen for part in (name, _values(tensor.detach()))])


def _of(dataset: Any, items: Sequence[str]) -> str:
    kind = type(dataset)
    return _digest(f"{kind.__module__}.{kind.__qualname__}", _length(dataset), *items)


def _length(dataset: Any) -> int | None:
    return len(dataset) if hasattr(dataset, "__len__") else None


def _fetched_twice(dataset: Any, sample: Any) -> str:
    """Digest of one item; of one that cannot be fetched the script will hear when it fetches it."""
    seen = []
    try:
        for seed in (0, 1):
            seed_cpu_generators(seed)
            seen.append(_seen(dataset[sample]))
    except Exception as error:
        return type(error).__name__
    return _common(*seen)


def _fetched_apart(loader: DataLoader[Any], samples: Sequence[Any]) -> list[str]:
    """As `_fetched_twice`, of every item, in a process of a DataLoader; its generators run on from the first fetch."""
    apart: DataLoader[tuple[str, str]] = DataLoader(
        loader.dataset,
        batch_size=None,
        sampler=[*samples, *samples],
        num_workers=1,
        collate_fn=_seen,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
    )
    try:
        seen = list(apart)
    except Exception as error:
        error.__traceback__ = None  # it holds the process, which would be waited for until a garbage collection
        return [type(error).__name__]
    return [_common(*twice) for twice in zip(seen[: len(samples)], seen[len(samples) :], strict=True)]


def _seen(item: Any) -> tuple[str, str]:
    return _content(item), _shape(item)


def _common(first: tuple[str, str], second: tuple[str, str]) -> str:
    """The content where both are alike, else the shape."""
    return first[0] if first[0] == second[0] else first[1]


def _content(item: Any) -> str:
    """Digest of the bytes of nested tensors, arrays, images, numbers and texts."""
    if isinstance(item, torch.Tensor):
        return _digest(_shape(item), _bytes(item))
    if isinstance(item, np.ndarray) and item.dtype != object:
        return _digest(_shape(item), np.ascontiguousarray(item).tobytes())
    if isinstance(item, Mapping):
        return _digest(*[_digest(repr(name), _content(part)) for name, part in item.items()])
    if isinstance(item, list | tuple):
        return _digest(*[_content(part) for part in item])
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return _digest(*[_content(getattr(item, field.name)) for field in dataclasses.fields(item)])
    if callable(tobytes := getattr(item, "tobytes", None)):  # an image of Pillow's, a number of numpy's
        return _digest(_shape(item), tobytes())
    if isinstance(item, int | float | complex | str | bytes | None):
        return _digest(type(item).__name__, item if isinstance(item, bytes) else repr(item))
    return _shape(item)  # what else it is may look different in another process


def _shape(item: Any) -> str:
    """Types and shapes alone."""
    if isinstance(item, Mapping):
        return repr({repr(name): _shape(part) for name, part in item.items()})
    if isinstance(item, list | tuple):
        return repr([_shape(part) for part in item])
    extent = getattr(item, "shape", None) or getattr(item, "size", None)
    size = tuple(extent) if isinstance(extent, tuple) else ()
    return f"{type(item).__name__} {getattr(item, 'dtype', '')} {size}"


def _bytes(tensor: torch.Tensor) -> bytes:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        return b""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _values(tensor: torch.Tensor) -> str:
    """Digest of a tensor, read once: large ones by every so-manieth element and the sum of all bytes."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.numel() <= _WHOLE:
        return _digest(_shape(tensor), _bytes(tensor))
    flat = tensor.contiguous().reshape(-1)
    step = -(-flat.numel() // _WHOLE)
    total = int(flat.view(torch.uint8).sum(dtype=torch.int64))
    return _digest(_shape(tensor), _bytes(flat[::step]), total)


def _digest(*parts: object) -> str:
    text = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        text.update(len(content).to_bytes(8, "little") + content)
    return text.hexdigest()
