"""Bring: what a store holds comes here where it is further, and what is here and is no such run is left alone."""

import json
from pathlib import Path

import pytest

import tardigrad
from stored_runs import QUADRATIC, SETTINGS, names_in, new_url, stopped_run
from tardigrad.checkpoint import list_checkpoints
from tardigrad.config import RunConfig
from tardigrad.errors import RunDirectoryError
from tardigrad.stores import Store, bring


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    return new_url(request.param, tmp_path)


def test_what_is_further_in_the_store_takes_the_place_of_what_is_here(tmp_path):
    url = f"file://{tmp_path}/store"
    stopped_run(tmp_path / "here", url, number=5)
    stopped_run(tmp_path / "there", url, number=10)
    first = list_checkpoints(tmp_path / "here")
    assert bring(url, tmp_path / "there") == ""
    assert bring(url, tmp_path / "here") == f"restored from {url}: version {Store(url).newest().version}"
    assert list_checkpoints(tmp_path / "here") != first
    assert list_checkpoints(tmp_path / "here.behind-1") == first
    assert bring("", tmp_path / "here") == ""
    assert bring(f"file://{tmp_path}/nothing", tmp_path / "here") == ""


def held_by(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


def test_a_directory_that_is_no_run_is_left_where_it_is(tmp_path, url):
    stopped_run(tmp_path / "run", url)
    mine = tmp_path / "myproject"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match="holds files that are not a run"):
        tardigrad.train(QUADRATIC, directory=mine, store=url, **SETTINGS)
    assert held_by(mine) == {"thesis.tex": b"x"}
    assert not list(tmp_path.glob("myproject.*"))


def test_a_run_that_has_ended_here_is_not_set_aside(tmp_path, url):
    """Its end could not be kept."""
    stopped_run(tmp_path / "run", url)
    tardigrad.train(QUADRATIC, directory=tmp_path / "run", store="", **SETTINGS)
    held = held_by(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="holds a finished run"):
        tardigrad.train(QUADRATIC, directory=tmp_path / "run", store=url, **SETTINGS)
    assert held_by(tmp_path / "run") == held


def test_a_run_of_other_settings_is_not_brought(tmp_path, url):
    stopped_run(tmp_path / "run", url)
    with pytest.raises(RunDirectoryError, match=r"holds a stopped run with epochs=2, not 3"):
        tardigrad.train(QUADRATIC, directory=tmp_path / "new", store=url, **SETTINGS | {"epochs": 3})
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_run_of_other_settings_here_is_not_set_aside(tmp_path, url):
    stopped_run(tmp_path / "run", url)
    bring(url, tmp_path / "further")
    stopped_run(tmp_path / "further", url)
    stopped_run(tmp_path / "here", "", **SETTINGS | {"epochs": 3})
    held = held_by(tmp_path / "here")
    with pytest.raises(RunDirectoryError, match=r"here holds a stopped run with epochs=3, not 2"):
        tardigrad.train(QUADRATIC, directory=tmp_path / "here", store=url, **SETTINGS)
    assert held_by(tmp_path / "here") == held


def test_nothing_is_set_aside_where_the_store_cannot_be_restored(tmp_path):
    url = f"file://{tmp_path}/store"
    stopped_run(tmp_path / "run", url, number=5)
    bring(url, tmp_path / "further")
    stopped_run(tmp_path / "further", url, number=8)
    for name in names_in(url):
        if "checkpoint-" in name:
            (tmp_path / "store" / name).unlink()
    held = held_by(tmp_path / "run")
    with pytest.warns(UserWarning, match="is missing"), pytest.raises(RunDirectoryError, match="is whole"):
        bring(url, tmp_path / "run")
    assert held_by(tmp_path / "run") == held
    assert sorted(path.name for path in tmp_path.iterdir()) == ["further", "run", "store"]


def test_the_secret_of_this_machines_agents_stays(tmp_path, url):
    stopped_run(tmp_path / "run", url)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "secret").write_text("mine")
    (tmp_path / "here" / "secret").chmod(0o600)
    assert bring(url, tmp_path / "here").startswith("restored from")
    assert (tmp_path / "here" / "secret").read_text() == "mine"
    assert (tmp_path / "here" / "secret").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("here.*"))


def test_the_current_directory_does_not_move(tmp_path, url, monkeypatch):
    stopped_run(tmp_path / "run", url)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RunDirectoryError, match="go to its parent first"):
        tardigrad.train(QUADRATIC, directory=".", store=url, **SETTINGS)
    assert list(Path(".").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert bring(url, Path("here")).startswith("restored from")


def test_what_is_here_of_a_script_is_refused_where_its_settings_are_others(tmp_path, url):
    from tardigrad.running import _settled

    stopped_run(tmp_path / "run", url)
    config = RunConfig.from_json(json.loads((tmp_path / "run" / "config.json").read_text()))
    known = _settled(config.replace(rule="asgd", lr=9.0, batch_size=77))
    assert bring(url, tmp_path / "new", known).startswith("restored from")
    with pytest.raises(RunDirectoryError, match=r"seed=0, not 5"):
        bring(url, tmp_path / "other", _settled(config.replace(seed=5)))
    assert not (tmp_path / "other").exists()
