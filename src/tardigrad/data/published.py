"""What was published: the files of CIFAR-10 and CIFAR-100, their sizes, their checksums, and where they are fetched.

Source of files and of the archives' checksums: https://www.cs.toronto.edu/~kriz/cifar.html (the python versions).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

CifarName: TypeAlias = Literal["cifar10", "cifar100"]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a data set."""

    name: str
    """As it is called in its folder."""
    md5: str
    """Of its content, in hexadecimal digits."""
    images: int = 0
    """Images in it; 0 for the names of the classes."""
    size: int = 0
    """In bytes; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A data set in the format of the CIFAR archives: pickled images and labels, and the names of the classes."""

    title: str
    folder: str
    """The name of the unpacked folder, and of the only folder in the archive."""
    archive: PublishedFile
    address: str
    """Where the archive is fetched."""
    train: tuple[PublishedFile, ...]
    test: tuple[PublishedFile, ...]
    meta: PublishedFile
    labels: bytes
    """The key of the labels in a file of images."""
    names: bytes
    """The key of the classes' names in the file `meta`."""
    classes: int

    @property
    def files(self) -> Iterator[PublishedFile]:
        """Every file that is needed."""
        yield from (*self.train, *self.test, self.meta)


_CIFAR10 = PublishedSet(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    archive=PublishedFile("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", size=170_498_071),
    address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    train=(
        PublishedFile("data_batch_1", "c99cafc152244af753f735de768cd75f", 10_000, 31_035_704),
        PublishedFile("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 10_000, 31_035_320),
        PublishedFile("data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 10_000, 31_035_999),
        PublishedFile("data_batch_4", "634d18415352ddfa80567beed471001a", 10_000, 31_035_696),
        PublishedFile("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 10_000, 31_035_623),
    ),
    test=(PublishedFile("test_batch", "40351d587109b95175f43aff81a1287e", 10_000, 31_035_526),),
    meta=PublishedFile("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", size=158),
    labels=b"labels",
    names=b"label_names",
    classes=10,
)
_CIFAR100 = PublishedSet(
    title="CIFAR-100",
    folder="cifar-100-python",
    archive=PublishedFile("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", size=169_001_437),
    address="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    train=(PublishedFile("train", "16019d7e3df5f24257cddd939b257f8d", 50_000),),
    test=(PublishedFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc", 10_000),),
    meta=PublishedFile("meta", "7973b15100ade9c7d40fb424638fde48"),
    labels=b"fine_labels",
    names=b"fine_label_names",
    classes=100,
)
PUBLISHED: dict[str, PublishedSet] = {"cifar10": _CIFAR10, "cifar100": _CIFAR100}
