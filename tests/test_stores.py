"""Stores: a run kept elsewhere is never seen half written, and goes on from there bit for bit."""

import json
from itertools import count
from pathlib import Path

import fsspec
import pytest
import torch

import tardigrad
from stored_runs import QUADRATIC, SETTINGS, checkpoint_of, names_in, new_url, stopped_run, take_up_again
from tardigrad import parcels
from tardigrad.audit import audit
from tardigrad.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from tardigrad.directories import lives
from tardigrad.errors import InvalidArgument, RunDirectoryError
from tardigrad.logs import read_events
from tardigrad.parcels import Parcel
from tardigrad.stores import Store, bring


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    return new_url(request.param, tmp_path)


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

    take_up_again(place)
    parcel = Parcel.at_checkpoint(place, version=before.version, growing=longer(place))
    store = Store(url)
    monkeypatch.setattr(type(system), "open", torn)
    with pytest.raises(RunDirectoryError, match=r"could not be written: OSError.*the line is dead"):
        store.keep(parcel)
    monkeypatch.undo()
    assert Store(url).newest() == before
    assert Store(url).restore(tmp_path / "copy") == before
    store.keep(parcel)
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


def test_a_store_that_fails_is_noted_and_the_run_goes_on(tmp_path, monkeypatch):
    def fail(*args, **keywords):
        raise RunDirectoryError("the bucket is gone")

    monkeypatch.setattr(Store, "keep", fail)
    settings = SETTINGS | {"store": "memory://stores/gone", "engine": "local", "checkpoint_every": 1e-6}
    with pytest.warns(UserWarning, match="The run's end is only in .* not kept: the bucket is gone"):
        run = tardigrad.train(QUADRATIC, directory=tmp_path, **settings)
    assert run.summary["status"] == "finished"
    assert any(event[2] == "not kept: the bucket is gone" for event in read_events(tmp_path, kind="note"))


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    url = f"file://{tmp_path}/store"
    store = Store(url)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    store.keep(Parcel.at_end(tmp_path / "run"))
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


def test_the_process_of_an_earlier_life_leaves_the_store_alone(tmp_path, url):
    """A server that counts as lost, and lives."""
    stopped_run(tmp_path / "lost", url, number=5)
    take_up_again(tmp_path / "lost")
    lost, its = Store(url), checkpoint_of(tmp_path / "lost")
    lost.keep(its)
    bring(url, tmp_path / "new")
    stopped_run(tmp_path / "new", url, number=8)
    kept, names = Store(url).newest(), names_in(url)
    assert kept.life == lives(tmp_path / "new") == 2
    with pytest.raises(RunDirectoryError, match=r"another process keeps a run in .* \(life 2, version \d+\)"):
        lost.keep(its)
    assert names_in(url) == names
    assert Store(url).restore(tmp_path / "copy") == kept


def test_a_second_run_at_the_same_address_leaves_it_alone(tmp_path, url):
    stopped_run(tmp_path / "first", url)
    kept, names = Store(url).newest(), names_in(url)
    stopped_run(tmp_path / "second", new_url("memory", tmp_path))
    with pytest.raises(RunDirectoryError, match="One folder is for one run"):
        Store(url).keep(checkpoint_of(tmp_path / "second"))
    assert names_in(url) == names
    assert Store(url).restore(tmp_path / "copy") == kept


def test_a_process_that_is_overtaken_while_it_uploads_removes_nothing(tmp_path, url, monkeypatch):
    stopped_run(tmp_path / "lost", url, number=5)
    bring(url, tmp_path / "new")
    take_up_again(tmp_path / "lost")
    lost, uploaded, kept = Store(url), Store._uploaded, []

    def overtaken(self, item, there):
        if self is lost and not kept:
            stopped_run(tmp_path / "new", url, number=8)
            kept.append(Store(url).newest())
        return uploaded(self, item, there)

    monkeypatch.setattr(Store, "_uploaded", overtaken)
    with pytest.raises(RunDirectoryError, match="another process keeps"):
        lost.keep(checkpoint_of(tmp_path / "lost"))
    assert kept[0].writer != lost._writer
    assert Store(url).restore(tmp_path / "copy") == kept[0]


def test_a_later_life_is_newer_whatever_its_number(tmp_path, url):
    stopped_run(tmp_path / "run", url)
    system, root = fsspec.core.url_to_fs(url)
    store = Store(url)
    take_up_again(tmp_path / "run")
    for _ in range(2):
        store.keep(checkpoint_of(tmp_path / "run"))
    newest = store.newest()
    assert (newest.life, newest.number) == (1, 3)
    system.copy(f"{root}/kept-000002-1.json", f"{root}/kept-000009-0.json")
    assert Store(url).newest() == newest


def test_an_object_that_is_missing_is_uploaded_again(tmp_path, url):
    stopped_run(tmp_path / "run", url)
    take_up_again(tmp_path / "run")
    store = Store(url)
    store.keep(checkpoint_of(tmp_path / "run"))
    system, root = fsspec.core.url_to_fs(url)
    for name in names_in(url):
        if name.endswith("-config.json"):
            system.rm_file(f"{root}/{name}")
    store.keep(checkpoint_of(tmp_path / "run"))
    assert Store(url).restore(tmp_path / "copy").number == store.newest().number


def test_a_checkpoint_that_is_removed_before_it_is_kept_is_kept(tmp_path, url):
    stopped_run(tmp_path / "run", new_url("memory", tmp_path))
    found = read_checkpoint(tmp_path / "run")
    parcel = checkpoint_of(tmp_path / "run")
    write_checkpoint(tmp_path / "run", found.state, version=found.version + 1, growing=found.growing, kept=1)
    assert list_checkpoints(tmp_path / "run") == [found.version + 1]
    with parcel:
        Store(url).keep(parcel)
    assert Store(url).restore(tmp_path / "copy").version == found.version
    assert read_checkpoint(tmp_path / "copy").version == found.version


def test_a_closed_segment_is_read_once(tmp_path, url, monkeypatch):
    place = tmp_path / "run"
    stopped_run(place, new_url("memory", tmp_path))
    packed = place / "log-000001.jsonl.gz"
    packed.write_bytes(b"closed")
    store, asked = Store(url), []

    def read():
        asked.append(1)
        yield packed.read_bytes()

    item = parcels._closed(place, 1)
    assert item.name == packed.name
    for _ in range(3):
        store.keep(Parcel(1, 0, False, (parcels.Item(item.name, read, parcels._closed(place, 1).mark),)))
    assert len(asked) == 2  # for its name, and to be uploaded


def test_a_comparison_has_no_store(tmp_path):
    from tardigrad.compare import Comparison, run_comparison
    from tardigrad.tuning import Budget, Stages, TunedComparison

    base = QUADRATIC.replace(store="memory://stores/shared", epochs=1)
    with pytest.raises(InvalidArgument, match="a store is for one run, and a comparison has many"):
        run_comparison(Comparison(base, ("asgd",), seeds=(0,)), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()
    with pytest.raises(InvalidArgument, match="a store is for one run"):
        Stages(TunedComparison(base, seeds=(), budget=Budget()), tmp_path / "grid").tune()
    assert not (tmp_path / "grid").exists()
