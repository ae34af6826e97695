"""Steering: what a run shows of itself, what it takes from outside, and that neither can end it."""

import json
import os
import subprocess
import sys

import pytest

from tardigrad.engines.base import View, WorkerView
from tardigrad.errors import RunDirectoryError
from tardigrad.presence import MOST_WORKERS, ProcessMark, process_of, read_status, require_nobody
from tardigrad.records import Failure
from tardigrad.steering import Steering


def view(samples=0, workers=2):
    known = [WorkerView(k, 0, "computing", 100 + k, 3, 0.5, 1.25, 0.1) for k in range(workers)]
    return View(version=samples // 16, samples=samples, epoch=samples / 1000, time=2.5, workers=known)


def shown(place):
    return json.loads((place / "status.json").read_text())


def ask(place, text):
    (place / "request.json").write_text(text)


def test_it_shows_the_run_at_most_once_a_second(tmp_path):
    steering = Steering(tmp_path)
    assert "version" not in shown(tmp_path)  # it lives, and nothing is known yet
    steering.tick(10.0, view(160))
    steering.tick(10.9, view(320))
    assert (shown(tmp_path)["samples"], shown(tmp_path)["samples_per_second"]) == (160, None)
    steering.tick(12.0, view(480))
    found = shown(tmp_path)
    assert (found["version"], found["samples"], found["epoch"], found["time"]) == (30, 480, 0.48, 2.5)
    assert found["samples_per_second"] == 160.0
    assert found["pushes_per_second"] == {"0": 0.0, "1": 0.0}
    assert found["workers"][1] == {
        "worker": 1, "incarnation": 0, "state": "computing", "pid": 101, "pushes": 3, "step_seconds": 0.5,
        "staleness": 1.25, "since": 0.1, "host": "",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_the_pace_is_of_the_last_seconds(tmp_path):
    steering = Steering(tmp_path)
    for second in range(20):
        steering.tick(second, view(100 * second if second < 10 else 1000))
    assert shown(tmp_path)["samples_per_second"] == 0.0


def test_the_last_events_are_shown(tmp_path):
    steering = Steering(tmp_path)
    steering.failed(1.0, Failure(2, 0, "raised", 7, None, "Traceback ...\n  there\nValueError: no such thing\n"))
    steering.left(1.0, 2, 0, "failed")
    steering.joined(1.5, 2, 1)
    steering.left(2.0, 1, 0, "removed")
    steering.failed(3.0, Failure(0, 0, "died", 9, -9))
    for _ in range(17):
        steering.noted(4.0, "and so on")
    steering.tick(0.0, view())
    words = [event["words"] for event in shown(tmp_path)["events"]]
    assert words[:4] == [
        "worker 2 (life 1) takes part",
        "worker 1 (life 0) takes part no longer: removed",
        "worker 0 (life 0) died at version 9, exit code -9",
        "and so on",
    ]
    assert len(words) == 20


def test_a_failure_says_what_was_raised(tmp_path):
    steering = Steering(tmp_path)
    steering.failed(1.0, Failure(2, 0, "raised", 7, None, "Traceback ...\n  there\nValueError: no such thing\n"))
    steering.tick(0.0, view())
    (event,) = shown(tmp_path)["events"]
    assert event == {
        "time": 1.0, "kind": "failed", "words": "worker 2 (life 0) raised at version 7: ValueError: no such thing",
    }  # fmt: skip


def test_a_wish_is_taken_once(tmp_path):
    steering = Steering(tmp_path)
    assert steering.tick(0.0, view()) is None
    ask(tmp_path, '{"workers": 6}')
    assert steering.tick(0.5, view()) is None  # not before its second has come
    assert steering.tick(1.0, view()) == 6
    assert steering.tick(2.0, view()) is None
    assert shown(tmp_path)["wished"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "6", "{", "[6]", "\udcff", "x" * 5000),
        *('{"workers": 0}', '{"workers": -3}', '{"workers": true}', '{"workers": "6"}', '{"workers": 2.5}'),
        f'{{"workers": {MOST_WORKERS + 1}}}',
    ],
)
def test_nonsense_becomes_a_note(tmp_path, text):
    steering = Steering(tmp_path)
    (tmp_path / "request.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert steering.tick(0.0, view()) is None
    (event,) = shown(tmp_path)["events"]
    assert event["kind"] == "note"
    assert "passed over" in event["words"]
    assert len(event["words"]) < 200
    assert steering.tick(1.0, view()) is None
    assert len(shown(tmp_path)["events"]) == 1


def test_a_wish_to_an_earlier_life_is_forgotten(tmp_path):
    ask(tmp_path, '{"workers": 6}')
    assert Steering(tmp_path).tick(0.0, view()) is None


def test_a_disk_that_is_full_ends_nothing(tmp_path, monkeypatch):
    steering = Steering(tmp_path)
    steering.tick(0.0, view(16))
    full = OSError(28, "No space left on device")

    def refuse(*_):
        raise full

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", refuse)
        for second in range(1, 5):
            assert steering.tick(second, view(160)) is None
    assert shown(tmp_path)["samples"] == 16
    steering.tick(9.0, view(320))
    found = shown(tmp_path)
    assert found["samples"] == 320
    assert sum("status.json could not be written" in event["words"] for event in found["events"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_directory_that_is_gone_ends_nothing(tmp_path):
    steering = Steering(tmp_path / "gone")
    assert steering.tick(0.0, view()) is None
    steering.close()


def test_a_number_that_is_not_finite_ends_nothing(tmp_path):
    steering = Steering(tmp_path)
    steering.tick(0.0, View(version=1, samples=1, epoch=float("nan"), time=0.0, workers=[]))
    steering.tick(1.0, view(16))
    assert "left as it was" in shown(tmp_path)["events"][0]["words"]


def test_nothing_is_left_at_the_end(tmp_path):
    steering = Steering(tmp_path)
    steering.tick(0.0, view())
    ask(tmp_path, '{"workers": 6}')
    steering.close()
    assert list(tmp_path.iterdir()) == []


def test_a_status_is_its_process(tmp_path):
    Steering(tmp_path)
    status = read_status(tmp_path)
    assert process_of(status) == ProcessMark.own()
    assert process_of(status).lives
    require_nobody(tmp_path)  # but this one


def test_a_process_that_ended_lives_no_more_even_before_it_is_reaped(tmp_path):
    code = f"from pathlib import Path; from tardigrad.steering import Steering; Steering(Path({str(tmp_path)!r}))"
    code += "; print('shown', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "shown\n"
        process = process_of(read_status(tmp_path))
        assert process.pid == child.pid
        assert process.lives
        with pytest.raises(RunDirectoryError, match=f"by process {child.pid}"):
            require_nobody(tmp_path)
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its number is still taken
    assert not process.lives
    require_nobody(tmp_path)
    child.communicate()
    assert not process.lives


def test_a_number_that_was_given_again_is_another_process():
    own = ProcessMark.own()
    assert not ProcessMark(own.pid, own.started - 1, own.boot, own.host).lives
    assert not ProcessMark(own.pid, own.started, "another boot", own.host).lives


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "process": {"pid": 1}}']
)
def test_a_status_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) is None
