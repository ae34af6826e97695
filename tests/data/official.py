"""Small data sets in the very format of the published CIFAR archives: as Python 2 pickled them, and packed."""

import hashlib
import io
import pickle
import struct
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tardigrad.data.published import PUBLISHED, PublishedSet

NDARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\n"


def text(value):
    """A Python 2 string."""
    return b"U" + bytes([len(value)]) + value


def integer(value):
    """A whole number, as short as Python 2 wrote it."""
    if 0 <= value < 2**8:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if 0 <= value < 2**16 else b"J" + struct.pack("<i", value)


def items(values, write):
    """A list."""
    return b"](" + b"".join(write(value) for value in values) + b"e"


def byte_array(values, *, reconstruct=RECONSTRUCT, code=b"u1", shape=None, by_column=b"\x89", content=None):
    """A numpy array of unsigned bytes; the keywords change what was published."""
    shape = values.shape if shape is None else shape
    content = values.tobytes() if content is None else content
    described = reconstruct + NDARRAY + integer(0) + b"\x85" + text(b"b") + b"\x87R"
    unsigned = DTYPE + text(code) + integer(0) + integer(1) + b"\x87R"
    unsigned += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    lengths = b"(" + b"".join(integer(length) for length in shape) + b"t"
    filled = b"T" + struct.pack("<i", len(content)) + content
    return described + b"(" + integer(1) + lengths + unsigned + by_column + filled + b"tb"


def table(entries):
    """A pickled dictionary whose values are pickled already."""
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def calls(module, name, argument):
    """A pickled dictionary that calls a function when it is read in good faith."""
    call = b"c" + module.encode() + b"\n" + name.encode() + b"\n" + text(argument) + b"\x85R"
    return table({b"data": call})


def batch(images, labels, *, key=b"labels", write=integer, **extra):
    """A file of images; the keywords after `write` are more entries, pickled."""
    named = {name.encode(): value for name, value in extra.items()}
    return table({b"batch_label": text(b"a part"), key: items(labels, write), b"data": byte_array(images), **named})


def meta(names, *, key=b"label_names"):
    """The file of the classes' names."""
    return table({b"num_cases_per_batch": integer(10_000), key: items(names, text)})


@dataclass
class SmallSet:
    """A published set with a few images a file, its contents, and the truth about them."""

    name: str
    published: PublishedSet
    directory: Path
    contents: dict[str, bytes]
    images: dict[str, np.ndarray]
    labels: dict[str, list[int]]

    def publish(self):
        """Make the contents as they are now what was published: reading then goes past every checksum."""

        def as_now(file):
            content = self.contents[file.name]
            return replace(file, md5=hashlib.md5(content).hexdigest(), size=len(content))

        published = self.published
        parts = {part: tuple(map(as_now, getattr(published, part))) for part in ("train", "test")}
        self.published = replace(published, **parts, meta=as_now(published.meta))
        PUBLISHED[self.name] = self.published

    def publish_archive(self):
        """Make the archive as it lies there what was published."""
        content = self.archive.read_bytes()
        file = replace(self.published.archive, md5=hashlib.md5(content).hexdigest(), size=len(content))
        self.published = replace(self.published, archive=file)
        PUBLISHED[self.name] = self.published

    def publish_address(self, address):
        """Where it is fetched."""
        self.published = replace(self.published, address=address)
        PUBLISHED[self.name] = self.published

    @property
    def folder(self):
        return self.directory / self.published.folder

    @property
    def archive(self):
        return self.directory / self.published.archive.name

    def unpack(self):
        """Write the folder; return it."""
        self.folder.mkdir()
        for name, content in self.contents.items():
            (self.folder / name).write_bytes(content)
        return self.folder

    def pack(self, names=None, *, prefix=None):
        """Write the archive, publish it, and return it; `names` are the members, in order."""
        prefix = self.published.folder if prefix is None else prefix
        with tarfile.open(self.archive, "w:gz") as archive:
            for name in reversed(self.contents) if names is None else names:
                member = tarfile.TarInfo(f"{prefix}/{name}")
                member.size = len(self.contents[name])
                archive.addfile(member, io.BytesIO(self.contents[name]))
        self.publish_archive()
        return self.archive


def small_set(name, directory, *, count=4):
    """The data set of this name with `count` images in each of its files."""
    published, random = PUBLISHED[name], np.random.default_rng(0)
    files = {
        part: tuple(replace(file, images=count) for file in getattr(published, part)) for part in ("train", "test")
    }
    published = replace(published, **files)
    contents, images, labels = {}, {}, {}
    for file in (*published.train, *published.test):
        images[file.name] = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels[file.name] = random.integers(0, published.classes, count).tolist()
        coarse = {"coarse_labels": items([0] * count, integer)} if published.labels != b"labels" else {}
        contents[file.name] = batch(images[file.name], labels[file.name], key=published.labels, **coarse)
    contents[published.meta.name] = meta([b"class %d" % k for k in range(published.classes)], key=published.names)
    small = SmallSet(name, published, directory, contents, images, labels)
    small.publish()
    return small


def in_good_faith(content):
    """What the standard library makes of a pickle."""
    return pickle.loads(content, encoding="bytes")
