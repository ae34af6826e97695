"""Fetching a published archive into the data folder: whole and unchanged, or not at all."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tardigrad.data.published import PublishedSet
from tardigrad.errors import DataError


def fetch(published: PublishedSet, directory: Path) -> Path:
    """Fetch the archive of a data set into the directory, and return its path.

    It is written beside its place, its checksum is compared, and only then it gets its name: a torn download is never
    taken for whole. Of several processes one fetches, and the others wait for it.

    Raises:
        DataError: where there is no network, no pooch, no room or no right to write, or where something else than the
            published archive came. The message says what to type.
    """
    archive = directory / published.archive.name
    try:
        import pooch
        from requests.exceptions import ConnectionError as Unreachable
    except ImportError as error:
        raise _missing(published, directory, "pooch, which would fetch it, is not installed") from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            pooch.retrieve(
                published.address,
                known_hash=f"md5:{published.archive.md5}",
                fname=archive.name,
                path=directory,
                downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty()),
            )
    except Unreachable as error:
        raise _missing(published, directory, "the address cannot be reached to fetch it") from error
    except OSError as error:  # a full disk, no right to write; and requests' own errors, such as 404
        raise _missing(published, directory, f"fetching it failed ({error})") from error
    except ValueError as error:  # how pooch says that the checksum is another one
        raise _missing(published, directory, "what came from its address is torn or not what was published") from error
    return archive


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While it lasts, no other process fetches into the directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _missing(published: PublishedSet, directory: Path, why: str) -> DataError:
    there = "" if directory.is_dir() else " (there is no such folder)"
    return DataError(
        f"{published.title} is not there: neither {published.folder}/ nor {published.archive.name} lies in "
        f"{directory}{there}, and {why}. Fetch {published.address} into that folder, or name the folder that holds "
        "it: --data-dir FOLDER, or TARDIGRAD_DATA=FOLDER. "
        "With pip install 'tardigrad[data]' and a network it is fetched by itself."
    )
