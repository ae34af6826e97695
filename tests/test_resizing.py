"""Asking a live run for more or fewer workers: what is written, what is waited for, what is refused."""

import itertools
import json

import pytest

from tardigrad import resizing
from tardigrad.cli import main
from tardigrad.config import RunConfig
from tardigrad.engines.base import View, WorkerView
from tardigrad.errors import InvalidArgument, RunDirectoryError
from tardigrad.resizing import ask_for_workers
from tardigrad.steering import Steering


class LocalRun:
    """A run of this process, as far as its directory knows; it moves whenever somebody waits for it."""

    def __init__(self, place, monkeypatch, *, workers=4, obeys=True, ends=False):
        (place / "config.json").write_text(json.dumps(RunConfig(engine="local", workers=workers).as_json()))
        self.steering, self.workers, self.obeys, self.ends = Steering(place), workers, obeys, ends
        self.clock, self.wished = itertools.count(), []
        monkeypatch.setattr(resizing.time, "sleep", lambda _: self.move())
        monkeypatch.setattr(resizing.time, "monotonic", itertools.count().__next__)
        self.move()

    def move(self):
        known = [WorkerView(k, 0, "computing", 1, 3, 0.5, 1.0, 0.1) for k in range(self.workers)]
        known.append(WorkerView(99, 0, "stopped", 1, 3, 0.5, 1.0, 0.1))
        if self.ends:
            self.steering.close()
            return
        wish = self.steering.tick(next(self.clock), View(10, 160, 0.1, 1.0, known))
        if wish is not None:
            self.wished.append(wish)
            self.workers = wish if self.obeys else self.workers


@pytest.mark.parametrize("number", [6, 1, 4])
def test_it_waits_until_the_run_shows_them(tmp_path, monkeypatch, capsys, number):
    run = LocalRun(tmp_path, monkeypatch)
    assert main(["workers", str(tmp_path), "--set", str(number)]) == 0
    assert run.wished == [number]
    assert capsys.readouterr().out == f"{tmp_path}: {number} {'worker' if number == 1 else 'workers'}\n"


def test_it_does_not_wait_for_ever(tmp_path, monkeypatch, capsys):
    run = LocalRun(tmp_path, monkeypatch, obeys=False)
    assert main(["workers", str(tmp_path), "--set", "6"]) == 0
    assert run.wished == [6]
    assert f"4 workers, on the way to 6; to watch: tardigrad status {tmp_path}" in capsys.readouterr().out
    assert main(["status", str(tmp_path)]) == 0
    assert "4 workers, on the way to 6" in capsys.readouterr().out


def test_without_a_number_it_says_how_many_there_are(tmp_path, monkeypatch, capsys):
    run = LocalRun(tmp_path, monkeypatch, workers=3)
    assert main(["workers", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 3 workers\n"
    assert run.wished == []


def test_a_run_that_ends_meanwhile_is_no_error(tmp_path, monkeypatch, capsys):
    run = LocalRun(tmp_path, monkeypatch)
    run.ends = True
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished", "version": 9, "samples": 9, "epoch": 1.0}))
    assert main(["workers", str(tmp_path), "--set", "6"]) == 0
    assert f"{tmp_path}: finished" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, -1, 1025])
def test_a_number_out_of_range_is_refused(tmp_path, number):
    with pytest.raises(InvalidArgument, match="from 1 to 1024"):
        ask_for_workers(tmp_path, number)


@pytest.mark.parametrize(
    ("engine", "sentence"), [("simulated", "its workers are no processes"), ("local", "only a live run takes wishes")]
)
def test_a_run_that_cannot_take_it_is_left_alone(tmp_path, engine, sentence):
    (tmp_path / "config.json").write_text(json.dumps(RunConfig(engine=engine).as_json()))
    with pytest.raises(RunDirectoryError, match=sentence):
        ask_for_workers(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        ask_for_workers(tmp_path, 6)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="damaged"):
        ask_for_workers(tmp_path, 6)
