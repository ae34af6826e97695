"""What `tardigrad status` says of runs in every state, and what it has one type."""

import json
import subprocess
import sys

import pytest

import tardigrad
from tardigrad import status
from tardigrad.cli import main
from tardigrad.config import RunConfig
from tardigrad.engines.base import View, WorkerView
from tardigrad.errors import Stopped
from tardigrad.invitation import Invitation
from tardigrad.records import Failure
from tardigrad.standing import _going_on, find_standing, mean_staleness
from tardigrad.steering import Steering


def local_run(place, **settings):
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(RunConfig(engine="local", **settings).as_json()))
    return place


def view():
    busy = WorkerView(0, 0, "computing", 11, 1200, 0.032, 1.04, 0.0)
    new = WorkerView(1, 2, "starting", 12, 700, None, None, 3.25)
    return View(version=1900, samples=30400, epoch=2.375, time=61.5, workers=[busy, new])


def said(capsys, place, *words):
    assert main(["status", str(place), *words]) == 0
    return capsys.readouterr().out


def change_process(place, **changes):
    path = place / "status.json"
    content = json.loads(path.read_text())
    content["process"] |= changes
    path.write_text(json.dumps(content))


@pytest.fixture
def live(tmp_path):
    steering = Steering(local_run(tmp_path / "run", batch_size=16, workers=2, epochs=5))
    steering.failed(12.5, Failure(1, 1, "died", 400, -9))
    before = WorkerView(0, 0, "computing", 11, 1100, 0.032, 1.04, 0.0)
    steering.tick(0.0, View(1700, 27200, 2.0, 60.0, [before]))
    steering.tick(1.0, view())
    return tmp_path / "run"


def test_a_live_run(live, capsys):
    text = said(capsys, live)
    assert ": running, process " in text
    assert "version 1,900: 30,400 samples, epoch 2.38 of 5, 3,200 samples/s" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["worker", "life", "state", "for", "pushes", "samples/s", "s", "a", "step", "staleness"] in rows
    assert ["0", "0", "computing", "0.0", "s", "1,200", "1,600", "0.032", "1.0"] in rows
    assert ["1", "2", "starting", "3.2", "s", "700"] in rows
    assert "12.5 s  worker 1 (life 1) died at version 400, exit code -9" in text
    assert "--resume" not in text


def test_a_run_that_others_join_says_where_its_workers_are_and_how_to_join(tmp_path, capsys):
    place = local_run(tmp_path / "run", workers=3)
    Invitation("10.0.0.2:7070", "run/secret", script="/home/me/train.py").write(place)
    near = WorkerView(0, 0, "computing", 11, 1100, 0.032, 1.04, 0.0)
    far = WorkerView(1, 0, "cut off", 0, 1100, 0.032, 1.04, 2.0, host="blue")
    Steering(place).tick(0.0, View(1700, 27200, 2.0, 60.0, [near, far]))
    text = said(capsys, place)
    rows = [line.split() for line in text.splitlines()]
    line = "tardigrad join 10.0.0.2:7070 --secret-file run/secret train.py"
    assert f"2 of 3 workers are there; more join with: {line}" in text
    assert [row[-1] for row in rows[3:6]] == ["where", "here", "blue"]
    assert "cut off" in text.splitlines()[5]


def test_a_script_that_waits_for_its_first_worker(tmp_path, capsys):
    Invitation("10.0.0.2:7070", "secret", script="train.py").write(tmp_path)
    assert main(["status", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "waits for its first worker" in said
    assert "tardigrad join 10.0.0.2:7070 --secret-file secret train.py" in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "joined"}, "tardigrad serve --resume {}"),
        ({"engine": "joined", "task": "script"}, "tardigrad serve --resume {}"),
        ({"engine": "local", "task": "script"}, "tardigrad run --directory {} SCRIPT"),
    ],
)
def test_what_to_type_depends_on_how_it_was_started(settings, words):
    assert _going_on(RunConfig(**settings).as_json()) == words


def test_a_run_that_begins(tmp_path, capsys):
    Steering(local_run(tmp_path))
    assert "nothing is known yet" in said(capsys, tmp_path)


def test_a_run_that_was_killed_shows_what_it_last_showed(live, capsys):
    change_process(live, started=1)
    text = said(capsys, live)
    assert "killed: process " in text
    assert "worker 1 (life 1) died" in text
    assert "no checkpoint to go on from" in text


def test_a_run_of_another_machine(live, capsys):
    change_process(live, boot="another", host="far")
    text = said(capsys, live)
    assert "of far, which this machine" in text
    assert "version 1,900" in text


@pytest.mark.parametrize("engine", ["simulated", "local"])
def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path, capsys, engine):
    place = tmp_path / "run"
    with pytest.raises(Stopped):
        tardigrad.train("quadratic", workers=2, directory=place, stop=lambda: True)
    config = json.loads((place / "config.json").read_text()) | {"engine": engine}
    (place / "config.json").write_text(json.dumps(config))
    text = said(capsys, place)
    assert "version 1: 16 samples, epoch 0.02, mean staleness 0.0" in text
    assert f"tardigrad train --resume {place}" in text
    assert ("stopped, and can go on" in text) is (engine == "local")
    assert ("if it does not run" in text) is (engine == "simulated")
    assert find_standing(place).may_go_on


def test_a_run_that_finished(tmp_path, capsys):
    place = tmp_path / "run"
    run = tardigrad.train("quadratic", workers=2, epochs=1, directory=place)
    text = said(capsys, place)
    assert f"{place}: finished" in text
    assert f"version {run.summary['commits']}: " in text
    assert f"mean staleness {run.summary['staleness']['mean']:.1f}" in text
    assert f"tardigrad export {place}" in text
    assert "--resume" not in text


def test_a_run_that_ended_by_an_error_before_a_checkpoint(tmp_path, capsys):
    local_run(tmp_path)
    content = {"status": "interrupted", "version": 3, "samples": 48, "epoch": 0.05, "staleness": {"mean": 0.5}}
    (tmp_path / "summary.json").write_text(json.dumps(content))
    text = said(capsys, tmp_path)
    assert "ended by an error or by hand" in text
    assert "--checkpoint-every MINUTES" in text


def test_on_a_terminal_it_goes_on_until_the_run_ends(live, monkeypatch, capsys):
    """Three looks: it runs, it runs, it has ended."""
    looks = []

    def moves(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            (live / "status.json").unlink()
            (live / "summary.json").write_text(
                json.dumps({"status": "finished", "version": 2000, "samples": 32000, "epoch": 5.0})
            )

    monkeypatch.setattr(status.time, "sleep", moves)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as rich knows
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = said(capsys, live)
    assert looks == [1.0, 1.0]
    assert "running" in text
    assert "finished" in text.rpartition("running")[2]


def test_ctrl_c_ends_the_looking_only(live, monkeypatch, capsys):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", interrupted)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert main(["status", str(live)]) == 0
    assert main(["status", str(live), "--once"]) == 0


def test_looking_costs_no_torch(live):
    code = f"import sys; from tardigrad.cli import main; main(['status', {str(live)!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_mean_staleness_of_counts():
    assert mean_staleness({"0": {"0": 1, "3": 1}, "1": {"2": 2}}) == 7 / 4
    assert mean_staleness({}) is None
