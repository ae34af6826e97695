"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour photographs of 32 x 32, in 10 or 100 classes.

Source: Krizhevsky, Learning multiple layers of features from tiny images, technical report, University of Toronto,
2009; https://www.cs.toronto.edu/~kriz/cifar.html (the python versions).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tardigrad.data.archives import damaged, find_source, read_files
from tardigrad.data.download import fetch
from tardigrad.data.pickles import Refused, read_pickle
from tardigrad.data.places import find_data_directory
from tardigrad.data.published import PUBLISHED, CifarName, PublishedFile, PublishedSet
from tardigrad.data.unread import is_unread
from tardigrad.errors import UnknownName

MEAN = {
    "cifar10": (0.4914, 0.4822, 0.4465),
    "cifar100": (0.5071, 0.4865, 0.4409),
}
"""Per channel, over all pixels of the 50,000 training images, after division by 255."""
DEVIATION = {
    "cifar10": (0.2470, 0.2435, 0.2616),
    "cifar100": (0.2673, 0.2564, 0.2762),
}
"""Per channel, over all pixels of the 50,000 training images (not the mean of the images' deviations)."""

_SHAPE = (3, 32, 32)


@dataclass(frozen=True, slots=True)
class CifarImages:
    """A data set as published: uint8 images (n, 3, 32, 32) in red, green, blue, and int64 labels (n,).

    The tensors are shared by all who load the set in one process: copy before writing.
    """

    train_images: Tensor
    """50,000."""
    train_labels: Tensor
    test_images: Tensor
    """10,000."""
    test_labels: Tensor
    classes: tuple[str, ...]
    """Their names, in the order of the labels."""


def load_cifar(name: CifarName) -> CifarImages:
    """A data set out of [`find_data_directory()`][tardigrad.data.places.find_data_directory], once per process.

    Reads the unpacked folder (``cifar-10-batches-py``, ``cifar-100-python``) or the archive as it is published; where
    neither is there, the archive is fetched. Every file's published checksum is compared before anything else is done
    with it, and what is pickled in it is never run. Inside ``without_data()`` (`tardigrad.data.unread`) nothing is
    read: the tensors are shapes alone.

    Raises:
        DataError: where the data is missing and cannot be fetched, or is not what was published.
        UnknownName: for another name than ``cifar10`` and ``cifar100``.
    """
    if name not in PUBLISHED:
        raise UnknownName("data set", name, PUBLISHED)
    if is_unread():
        return _shapes(PUBLISHED[name])
    return _load(find_data_directory(), name)


@functools.lru_cache(maxsize=4)
def _load(directory: Path, name: str) -> CifarImages:
    published = PUBLISHED[name]
    source = find_source(published, directory) or fetch(published, directory)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    classes: tuple[str, ...] = ()
    for file, content in read_files(published, source):
        try:
            table = read_pickle(content)
            if file.images:
                parts[file.name] = _images(table, published, count=file.images)
            else:
                classes = _classes(table, published)
        except Refused as error:
            raise damaged(published, source, f"{file.name} of {source} {error}") from error
    train, test = (_joined(parts, files) for files in (published.train, published.test))
    return CifarImages(*train, *test, classes=classes)


def _shapes(published: PublishedSet) -> CifarImages:
    """Shapes and types of the data set, and the names of no classes."""

    def part(files: Sequence[PublishedFile]) -> tuple[Tensor, Tensor]:
        count = sum(file.images for file in files)
        images = torch.empty((count, *_SHAPE), dtype=torch.uint8, device="meta")
        return images, torch.empty(count, dtype=torch.int64, device="meta")

    return CifarImages(*part(published.train), *part(published.test), classes=())


def _images(table: dict[Any, Any], published: PublishedSet, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 3, 32, 32) and labels (count,) of one file."""
    images, labels = table.get(b"data"), table.get(published.labels)
    if not isinstance(images, np.ndarray) or images.shape != (count, int(np.prod(_SHAPE))):
        raise Refused(f"holds no {count:,} images of 3 x 32 x 32")
    if not isinstance(labels, list) or len(labels) != count:
        raise Refused(f"holds no {count:,} labels")
    if not all(type(label) is int and 0 <= label < published.classes for label in labels):
        raise Refused(f"holds labels that are not whole numbers from 0 to {published.classes - 1}")
    return images.reshape(count, *_SHAPE), np.array(labels, dtype=np.int64)


def _classes(table: dict[Any, Any], published: PublishedSet) -> tuple[str, ...]:
    names = table.get(published.names)
    if not isinstance(names, list) or len(names) != published.classes:
        raise Refused(f"holds no names of {published.classes} classes")
    if not all(isinstance(name, bytes) and name.isascii() for name in names):
        raise Refused("holds names of classes that are not plain text")
    return tuple(name.decode() for name in names)


def _joined(parts: dict[str, tuple[np.ndarray, np.ndarray]], files: Sequence[PublishedFile]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(parts[file.name] for file in files), strict=True)
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))
