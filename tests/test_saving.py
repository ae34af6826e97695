"""Saving: with real workers a checkpoint is written beside training, and one that fails does not end the run; nor does
a store that does not answer.
"""

from itertools import count
from threading import Event

import pytest

import tardigrad
from tardigrad import saving
from tardigrad.audit import audit
from tardigrad.checkpoint import list_checkpoints
from tardigrad.errors import RunDirectoryError, Stopped
from tardigrad.logs import read_events
from tardigrad.parcels import Parcel
from tardigrad.saving import Sender
from tardigrad.stores import Store

SETTINGS = {"engine": "local", "workers": 2, "epochs": 2, "rule": "dc-asgd-a", "checkpoint_every": 1e-6}


def test_checkpoints_asked_for_stay_and_a_replay_may_begin_there(tmp_path):
    run = tardigrad.train("quadratic", directory=tmp_path, checkpoints_kept=3, **SETTINGS)
    kept = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("checkpoint-*.json"))
    assert 1 <= len(kept) <= 3
    assert kept[-1] <= run.summary["commits"]
    assert tardigrad.replay(tmp_path, start=kept[0]).equal


@pytest.mark.parametrize("error", [RunDirectoryError("the disk is full"), OSError(5, "input/output error")])
def test_one_that_cannot_be_written_is_noted_and_the_run_goes_on(tmp_path, monkeypatch, error):
    def fail(*args, **keywords):
        raise error

    monkeypatch.setattr(saving, "write_checkpoint", fail)
    run = tardigrad.train("quadratic", directory=tmp_path, **SETTINGS)
    assert run.summary["status"] == "finished"
    notes = [event[2] for event in read_events(tmp_path, kind="note")]
    assert notes
    assert audit(tmp_path).ok
    assert all(note.startswith("no checkpoint: ") and str(error) in note for note in notes)


def test_where_the_run_is_to_stop_it_is_an_error(tmp_path, monkeypatch):
    def fail(*args, **keywords):
        raise RunDirectoryError("the disk is full")

    monkeypatch.setattr(saving, "write_checkpoint", fail)
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        tardigrad.train("quadratic", directory=tmp_path, stop=lambda: True, **SETTINGS)


def test_a_store_that_does_not_answer_holds_up_neither_checkpoints_nor_the_end(tmp_path, monkeypatch):
    answered, seen, asked = Event(), set(), count()

    def stop():
        seen.update(list_checkpoints(tmp_path))
        if next(asked) == 3000:
            answered.set()
        return len(seen) >= 3 or answered.is_set()

    monkeypatch.setattr(Store, "keep", lambda self, parcel: answered.wait())
    monkeypatch.setattr(saving, "_SILENCE", 0.05)
    with pytest.raises(Stopped):
        tardigrad.train(
            "quadratic", directory=tmp_path, stop=stop, store="memory://hangs", **SETTINGS | {"epochs": 999}
        )
    assert not answered.is_set()
    assert len(seen) >= 3
    notes = [event[2] for event in read_events(tmp_path, kind="note")]
    assert notes[-1] == "not kept: memory://hangs has not answered for 0.05 s."
    answered.set()


class Gate:
    """A store whose first answer is waited for."""

    url, moved = "gate://", 0.0

    def __init__(self):
        self.begun, self.open, self.kept = Event(), Event(), []

    def keep(self, parcel):
        self.begun.set()
        self.open.wait()
        self.kept.append(parcel.version)


def test_of_those_that_wait_for_a_store_only_the_newest_is_kept():
    store = Gate()
    sender = Sender(store)
    parcels = [Parcel(version, 0, False, ()) for version in (1, 2, 3)]
    closed = []
    for parcel in parcels:
        parcel._open.callback(closed.append, parcel.version)
    sender.send(parcels[0])
    store.begun.wait()
    sender.send(parcels[1])
    sender.send(parcels[2])
    assert closed == [2]
    store.open.set()
    assert sender.finish() == ""
    assert store.kept == [1, 3]
    assert closed == [2, 1, 3]
    sender.send(Parcel(4, 0, False, ()))
    assert sender.finish() == ""
    assert store.kept == [1, 3, 4]


def test_what_a_store_says_is_told_once():
    class Full(Gate):
        def keep(self, parcel):
            raise RunDirectoryError("it is full")

    sender = Sender(Full())
    sender.send(Parcel(1, 0, False, ()))
    assert sender.finish() == "not kept: it is full"
    assert sender.finish() == ""
