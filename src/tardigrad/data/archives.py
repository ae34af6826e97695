"""The published files of a data set, out of their folder or out of the archive: whole and unchanged, or refused."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tardigrad.data.published import PublishedFile, PublishedSet
from tardigrad.errors import DataError

_LARGEST = 256 * 2**20  # bytes; the largest published file, the training images of CIFAR-100, has 155 million


def find_source(published: PublishedSet, directory: Path) -> Path | None:
    """The unpacked folder of a data set, else its archive, else None if neither lies in the directory."""
    folder, archive = directory / published.folder, directory / published.archive.name
    return folder if folder.is_dir() else archive if archive.is_file() else None


def read_files(published: PublishedSet, source: Path) -> Iterator[tuple[PublishedFile, bytes]]:
    """Every file of a data set with its content, in any order; each checksum is compared before a content is given.

    Args:
        published: the data set.
        source: its folder or its archive.

    Raises:
        DataError: for a file that is missing, torn or changed.
    """
    yield from _from_folder(published, source) if source.is_dir() else _from_archive(published, source)


def size_flaw(published: PublishedSet, source: Path) -> str:
    """What is wrong with a folder or archive by the presence and sizes of its files alone; empty if nothing is.

    Quick, and so no promise: the checksums are compared when the data is loaded.
    """
    files = [(source / file.name, file) for file in published.files]
    for path, file in files if source.is_dir() else [(source, published.archive)]:
        if not path.is_file():
            return f"{path.name} is missing"
        if file.size and path.stat().st_size != file.size:
            return f"{path.name} has {path.stat().st_size:,} bytes instead of {file.size:,}"
    return ""


def damaged(published: PublishedSet, source: Path, what: str) -> DataError:
    """The error for a folder or archive (or a file in it) that is not what was published."""
    kind = "folder" if source.is_dir() else "file"
    return DataError(
        f"{what}. No code in it was run. Delete the {kind} {source} and have it fetched by the next run "
        f"(pip install 'tardigrad[data]'), or put {published.archive.name} from {published.address} into "
        f"{source.parent}: it is read as it is."
    )


def _from_folder(published: PublishedSet, folder: Path) -> Iterator[tuple[PublishedFile, bytes]]:
    for file in published.files:
        path = folder / file.name
        try:
            size = path.stat().st_size
            _check_size(published, folder, file, size=size)
            content = path.read_bytes()
        except OSError as error:
            if isinstance(error, DataError):
                raise
            raise damaged(published, folder, f"{path} cannot be read ({error.strerror or error})") from error
        _check_content(published, folder, file, content=content)
        yield file, content


def _from_archive(published: PublishedSet, archive: Path) -> Iterator[tuple[PublishedFile, bytes]]:
    _check_archive(published, archive)
    wanted = {f"{published.folder}/{file.name}": file for file in published.files}
    try:
        # One pass, in the archive's order: going back would unpack it all again. Nothing is written anywhere.
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                if member.isfile() and (file := wanted.pop(member.name, None)):
                    _check_size(published, archive, file, size=member.size)
                    stream = members.extractfile(member)
                    content = stream.read() if stream else b""
                    _check_content(published, archive, file, content=content)
                    yield file, content
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise damaged(published, archive, f"{archive} cannot be unpacked ({error})") from error
    if wanted:
        raise damaged(published, archive, f"{archive} holds no {', '.join(sorted(wanted))}")


def _check_archive(published: PublishedSet, archive: Path) -> None:
    size = archive.stat().st_size
    if published.archive.size and size != published.archive.size:
        raise damaged(published, archive, _wrong_size(archive, size, published.archive.size))
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    _check_sum(published, archive, published.archive, found=found)


def _check_size(published: PublishedSet, source: Path, file: PublishedFile, *, size: int) -> None:
    """Before anything is read, so that no file of any size is taken into memory."""
    if (file.size and size != file.size) or size > _LARGEST:
        raise damaged(published, source, _wrong_size(source / file.name, size, file.size or _LARGEST))


def _check_content(published: PublishedSet, source: Path, file: PublishedFile, *, content: bytes) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    _check_sum(published, source, file, found=found)


def _check_sum(published: PublishedSet, source: Path, file: PublishedFile, *, found: str) -> None:
    if found != file.md5:
        path = source if source.name == file.name else source / file.name
        what = f"{path} is not the published file of {published.title}: its md5 is {found} instead of {file.md5}"
        raise damaged(published, source, what)


def _wrong_size(path: Path, size: int, expected: int) -> str:
    return f"{path} has {size:,} bytes instead of {expected:,}"
