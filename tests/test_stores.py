"""Stores: a run kept elsewhere is never seen half written, and goes on from there bit for bit."""

import json
from itertools import count
from pathlib import Path

import fsspec
import pytest
import torch

import tardigrad
from tardigrad.audit import audit
from tardigrad.checkpoint import list_checkpoints
from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument, RunDirectoryError, Stopped
from tardigrad.logs import read_events
from tardigrad.stores import Store, bring

QUADRATIC = RunConfig(task="quadratic(dimension=3, samples=96)")
SETTINGS = {"workers": 2, "epochs": 2, "rule": "dc-asgd-a", "batch_size": 8}
_numbers = count()


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return f"memory://stores/{next(_numbers)}"


def stopped_after(number):
    """Asked after every push; stops after so many."""
    asked = count(1)
    return lambda: next(asked) >= number


def stopped_run(place, url, number=10, **settings):
    with pytest.raises(Stopped):
        tardigrad.train(QUADRATIC, directory=place, store=url, stop=stopped_after(number), **SETTINGS | settings)


def names_in(url):
    system, root = fsspec.core.url_to_fs(url)
    return sorted(path.rsplit("/", 1)[-1] for path in system.ls(root, detail=False))


def test_a_run_goes_on_from_its_store_bit_for_bit(tmp_path, url):
    whole = tardigrad.train(QUADRATIC, directory=tmp_path / "whole", **SETTINGS)
    stopped_run(tmp_path / "here", url)
    run = tardigrad.train(QUADRATIC, directory=tmp_path / "elsewhere", store=url, **SETTINGS)
    assert run.summary["status"] == "finished"
    for mine, theirs in zip(run.weights(), whole.weights(), strict=True):
        assert torch.equal(mine, theirs)
    assert (tmp_path / "elsewhere" / "log.jsonl").read_text().startswith((tmp_path / "here" / "log.jsonl").read_text())
    assert tardigrad.replay(tmp_path / "elsewhere").equal
    assert audit(tmp_path / "elsewhere").ok


def test_a_run_that_has_ended_is_kept_whole(tmp_path, url):
    run = tardigrad.train(QUADRATIC, directory=tmp_path / "run", store=url, **SETTINGS)
    kept = Store(url).restore(tmp_path / "copy")
    assert kept.ended
    for name in ("log.jsonl", "summary.json", "weights.safetensors", "config.json", "evaluations.jsonl"):
        assert (tmp_path / "copy" / name).read_bytes() == (run.directory / name).read_bytes()
    with pytest.raises(RunDirectoryError, match="holds a finished run"):
        tardigrad.train(QUADRATIC, directory=tmp_path / "third", store=url, **SETTINGS)


def test_the_store_holds_only_what_its_last_two_accounts_name(tmp_path, url):
    tardigrad.train(QUADRATIC, directory=tmp_path / "run", store=url, checkpoint_every=1e-6, **SETTINGS)
    names = names_in(url)
    accounts = [name for name in names if name.startswith("kept-")]
    assert len(accounts) == 2
    system, root = fsspec.core.url_to_fs(url)
    named = set()
    for name in accounts:
        content = json.loads(system.cat_file(f"{root}/{name}").split(b"\n", 1)[1])
        named |= {f"{file['blake2b']}-{file['name']}" for file in content["files"]}
    assert set(names) - set(accounts) == named


def test_an_upload_that_breaks_off_leaves_what_was_kept_before(tmp_path, url, monkeypatch):
    place = tmp_path / "run"
    stopped_run(place, url)
    before = Store(url).newest()
    system = fsspec.core.url_to_fs(url)[0]
    opened, opens = type(system).open, count()

    def torn(self, path, mode="rb", **keywords):
        if "w" in mode and next(opens) == 1:
            with opened(self, path, mode, **keywords) as file:
                file.write(b"half")
            raise OSError(5, "the line is dead")
        return opened(self, path, mode, **keywords)

    positions = longer(place)
    monkeypatch.setattr(type(system), "open", torn)
    with pytest.raises(RunDirectoryError, match=r"could not be written: OSError.*the line is dead"):
        Store(url).keep(place, version=before.version, growing=positions)
    monkeypatch.undo()
    assert Store(url).newest() == before
    assert Store(url).restore(tmp_path / "copy") == before
    Store(url).keep(place, version=before.version, growing=positions)
    assert Store(url).newest().number == before.number + 1
    assert Store(url).restore(tmp_path / "copy 2").number == before.number + 1


def longer(place):
    """Positions of the growing files after a line more, so that there is something to upload."""
    from tardigrad.durable import checksum
    from tardigrad.segments import Position

    found = {}
    for name in ("log.jsonl", "evaluations.jsonl"):
        with (place / name).open("a") as file:
            file.write("\n")
        found[name] = Position((place / name).stat().st_size, checksum(place / name), int(name == "log.jsonl"))
    return found


def damaged(url, pattern):
    """Tear the newest object or account whose name holds the pattern."""
    system, root = fsspec.core.url_to_fs(url)
    name = [name for name in names_in(url) if pattern in name][-1]
    content = system.cat_file(f"{root}/{name}")
    system.pipe_file(f"{root}/{name}", content[: len(content) // 2])


def test_a_torn_account_is_passed_over(tmp_path, url):
    stopped_run(tmp_path / "run", url, checkpoint_every=1e-6)
    newest = Store(url).newest()
    damaged(url, "kept-")
    assert Store(url).newest().number == newest.number - 1
    assert Store(url).restore(tmp_path / "copy").number == newest.number - 1
    damaged(url, f"kept-{newest.number - 1:06d}")
    with pytest.raises(RunDirectoryError, match=r"No account in .* is whole"):
        Store(url).newest()


def test_a_torn_object_is_told_of_and_what_was_kept_before_taken(tmp_path, url):
    stopped_run(tmp_path / "run", url, checkpoint_every=1e-6)
    newest = Store(url).newest()
    damaged(url, f"-checkpoint-{newest.version}.json")
    with pytest.warns(UserWarning, match="torn or was altered. What was kept before"):
        kept = Store(url).restore(tmp_path / "copy")
    assert kept.number == newest.number - 1
    assert list_checkpoints(tmp_path / "copy") == [kept.version]
    assert not list(tmp_path.glob(".*"))


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


def test_a_store_that_fails_is_noted_and_the_run_goes_on(tmp_path, monkeypatch):
    def fail(*args, **keywords):
        raise RunDirectoryError("the bucket is gone")

    monkeypatch.setattr(Store, "keep", fail)
    settings = SETTINGS | {"store": "memory://stores/gone", "engine": "local", "checkpoint_every": 1e-6}
    run = tardigrad.train(QUADRATIC, directory=tmp_path, **settings)
    assert run.summary["status"] == "finished"
    assert any(event[2] == "not kept: the bucket is gone" for event in read_events(tmp_path, kind="note"))


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    url = f"file://{tmp_path}/store"
    store = Store(url)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    store.keep_end(tmp_path / "run")
    path = next((tmp_path / "store").glob("kept-*"))
    body = path.read_bytes().split(b"\n", 1)[1].replace(b"config.json", b"../out.json")
    from tardigrad.stores import _first_line

    path.write_bytes(_first_line(body) + body)
    with pytest.warns(UserWarning, match="no file of a run"), pytest.raises(RunDirectoryError, match="is whole"):
        Store(url).restore(tmp_path / "copy")
    assert not (tmp_path / "out.json").exists()


def test_an_address_that_nothing_reaches_is_refused_at_once(tmp_path):
    with pytest.raises(InvalidArgument, match="no file system for 'nowhere://x'"):
        tardigrad.train(QUADRATIC, directory=tmp_path / "run", store="nowhere://x", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_something_is_not_restored_into(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="holds something"):
        Store("memory://stores/any").restore(tmp_path)
    assert Path(tmp_path / "mine.txt").read_text() == "mine"
