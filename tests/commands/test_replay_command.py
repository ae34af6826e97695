"""`tardigrad replay`: what it prints and how it leaves."""

import json
import shutil

import pytest

import tardigrad
from recorded_runs import edit, number_of
from tardigrad.commands.replay import replay as command
from tardigrad.errors import ReplayError
from tardigrad.replaying import replay


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory):
    place = tmp_path_factory.mktemp("quadratic") / "run"
    tardigrad.train("quadratic", epochs=1, workers=4, directory=place)
    return place


def test_the_command_says_equal_and_leaves_with_0(quadratic, capsys):
    assert command([str(quadratic)]) == 0
    text = capsys.readouterr().out
    assert "bitwise equal: 64 commits, 2 digests, final weights" in text
    assert "all invariants hold: 64 commits, 1 finished epochs, 1024 samples applied once" in text


def test_the_command_leaves_with_1_where_something_differs(quadratic, tmp_path, capsys):
    place = shutil.copytree(quadratic, tmp_path / "run")
    edit(place, lambda lines: lines[number_of(lines, "commit", version=9)].__setitem__(3, 7.0))
    assert command([str(place)]) == 1
    assert "lr at version 9: the run 7.0, replayed 0.1" in capsys.readouterr().out
    edit(place, lambda lines: lines.pop(number_of(lines, "commit", version=9)))
    assert command([str(place)]) == 1
    assert "invariants do not hold:\n  log.jsonl line" in capsys.readouterr().out


def test_the_command_refuses_an_older_log(quadratic, tmp_path):
    place = shutil.copytree(quadratic, tmp_path / "run")
    edit(place, lambda lines: lines[0].update(format=1))
    with pytest.raises(ReplayError, match="format 1"):
        command([str(place)])


def test_the_command_asks_what_if_and_saves(quadratic, tmp_path, capsys):
    out, weights = tmp_path / "out", tmp_path / "w.safetensors"
    words = ["--rule", "asgd", "--directory", str(out), "--save", str(weights), "--until", "32"]
    assert command([str(quadratic), *words]) == 0
    text = capsys.readouterr().out
    assert "the same schedule under asgd: 32 commits" in text
    assert f"tardigrad report {quadratic} {out}" in text
    assert weights.is_file()
    assert json.loads((out / "summary.json").read_text())["commits"] == 32


def test_a_replay_does_not_need_the_trace_that_drove_the_run(quadratic, tmp_path):
    trace = shutil.copytree(quadratic, tmp_path / "trace")
    run = tardigrad.train("quadratic", epochs=1, workers=4, delay=f"trace({str(trace)!r})", directory=tmp_path / "r")
    shutil.rmtree(trace)
    assert replay(run.directory).equal
