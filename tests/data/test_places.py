"""Where data is looked for: --data-dir, else TARDIGRAD_DATA, else the cache folder; never the current folder."""

from pathlib import Path

import pytest

from tardigrad.data.places import data_directory, find_data_directory


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No variable set, and a home of our own."""
    for name in ("TARDIGRAD_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_the_cache_folder_is_the_default(monkeypatch, tmp_path):
    assert find_data_directory() == tmp_path / "home" / ".cache" / "tardigrad"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert find_data_directory() == tmp_path / "cache" / "tardigrad"


@pytest.mark.parametrize("cache", ["", "cache", "./cache"])
def test_a_cache_folder_that_is_not_absolute_is_ignored(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert find_data_directory() == tmp_path / "home" / ".cache" / "tardigrad"


def test_the_variable_comes_before_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TARDIGRAD_DATA", str(tmp_path / "named"))
    assert find_data_directory() == tmp_path / "named"
    monkeypatch.setenv("TARDIGRAD_DATA", "")
    assert find_data_directory() == tmp_path / "cache" / "tardigrad"


def test_what_is_given_comes_before_the_variable_and_only_while_it_lasts(monkeypatch, tmp_path):
    monkeypatch.setenv("TARDIGRAD_DATA", str(tmp_path / "named"))
    with data_directory(str(tmp_path / "given")):
        assert find_data_directory() == tmp_path / "given"
        with data_directory(""):
            assert find_data_directory() == tmp_path / "given"
        with data_directory(str(tmp_path / "inner")):
            assert find_data_directory() == tmp_path / "inner"
        assert find_data_directory() == tmp_path / "given"
    assert find_data_directory() == tmp_path / "named"


def test_an_error_ends_what_was_given():
    before = find_data_directory()
    with pytest.raises(ZeroDivisionError), data_directory("given"):
        1 / 0  # noqa: B018
    assert find_data_directory() == before


def test_the_folder_is_absolute_and_home_is_known(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with data_directory("some/folder"):
        assert find_data_directory() == Path(tmp_path / "some" / "folder").resolve()
    with data_directory("~/images"):
        assert find_data_directory() == tmp_path / "home" / "images"
