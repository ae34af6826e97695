"""Small data sets in a folder of their own; what was really published is back after each test."""

import pytest
from official import small_set

from tardigrad.data import cifar
from tardigrad.data.places import data_directory
from tardigrad.data.published import PUBLISHED


@pytest.fixture(autouse=True)
def published_ends_as_it_was(monkeypatch):
    for name, published in PUBLISHED.items():
        monkeypatch.setitem(PUBLISHED, name, published)
    cifar._load.cache_clear()
    yield
    cifar._load.cache_clear()


@pytest.fixture
def small(tmp_path):
    """CIFAR-10 with four images a file; nothing lies in its directory yet, and data is looked for there."""
    directory = tmp_path / "data"
    directory.mkdir()
    with data_directory(str(directory)):
        yield small_set("cifar10", directory)
