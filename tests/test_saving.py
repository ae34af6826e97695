"""Saving: with real workers a checkpoint is written beside training, and one that fails does not end the run."""

import pytest

import tardigrad
from tardigrad import saving
from tardigrad.audit import audit
from tardigrad.errors import RunDirectoryError
from tardigrad.logs import read_events

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
