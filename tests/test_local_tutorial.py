"""The tutorials of real workers: their commands are run, and print what the pages show, but for numbers."""

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from tardigrad.chaos import ACCEPTED, fault_plan
from tardigrad.presence import process_of, read_status

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("run-it-on-your-machine", "when-a-worker-dies")}
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def shown_below(page, line):
    """What a page shows below a command."""
    block = re.search(rf"^\$ {re.escape(line)}\n(.*?)^```", PAGES[page], re.M | re.S)
    assert block, f"{page} has no command {line!r}"
    return block[1]


def shape(text):
    """The words of each line, every number alike."""
    return [_NUMBER.sub("#", line).split() for line in text.strip().splitlines()]


def tardigrad(line, place, **keywords):
    """Run a command as one would type it."""
    assert line.startswith("tardigrad ")
    words = [sys.executable, "-m", *shlex.split(line)]
    return subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=120, **keywords)


def typed(page, start):
    """The commands of a page that begin so."""
    return [line for line in re.findall(r"^\$ (tardigrad .*)$", PAGES[page], re.M) if line.startswith(start)]


@pytest.mark.long
def test_a_first_run_and_its_export(tmp_path):
    page = "run-it-on-your-machine"
    (train,) = typed(page, "tardigrad train digits --engine local --workers 2 --epochs 5")
    done = tardigrad(train, tmp_path)
    assert done.returncode == 0, done.stderr
    assert shape(done.stderr + done.stdout) == shape(shown_below(page, train))
    (export,) = typed(page, "tardigrad export")
    done = tardigrad(export, tmp_path)
    assert shape(done.stdout) == shape(shown_below(page, export))
    assert len(safetensors.torch.load_file(tmp_path / "model.safetensors")) == 8


@pytest.fixture
def slow_run(tmp_path):
    """The tutorial's run with a slow worker, once both of its workers have pushed; ended whatever happens."""
    (train,) = typed("run-it-on-your-machine", "tardigrad train digits --engine local --workers 2 --speeds")
    words = [sys.executable, "-m", *shlex.split(train.replace("--epochs 100", "--epochs 100000 --commit-path exact"))]
    run = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            assert select.select([run.stderr], [], [], 60)[0], "nothing was reported within a minute"
            assert run.stderr.readline().startswith("epoch ")
        yield run
    finally:
        run.kill()
        run.communicate()


@pytest.mark.long
def test_status_workers_and_stop(tmp_path, slow_run):
    page, place = "run-it-on-your-machine", tmp_path / "runs" / "slow"
    assert process_of(read_status(place)).pid == slow_run.pid
    first, later = typed(page, "tardigrad status")
    wanted = shape(shown_below(page, first))
    done = tardigrad(first, tmp_path)
    assert [line[0] for line in shape(done.stdout)] == [line[0] for line in wanted]
    assert shape(done.stdout)[2] == wanted[2]
    (more,) = typed(page, "tardigrad workers")
    assert tardigrad(more, tmp_path).stdout == shown_below(page, more)
    done = tardigrad(later, tmp_path)
    assert shape(done.stdout)[-1] == shape(shown_below(page, later))[-1]
    assert len(shape(done.stdout)) == len(shape(shown_below(page, later)))
    os.kill(slow_run.pid, signal.SIGINT)
    _, said = slow_run.communicate(timeout=60)
    assert slow_run.returncode == 3, said
    farewell = re.search(r"```text\n(tardigrad: SIGINT.*?)```", PAGES[page], re.S)[1]
    assert shape(said)[-3:] == shape(farewell)
    (resume,) = typed(page, "tardigrad train --resume")
    done = tardigrad(f"{resume} --stop-after 1s", tmp_path)
    assert done.returncode == 3, done.stderr
    lines = (place / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["version"] for line in lines] == sorted({json.loads(line)["version"] for line in lines})


@pytest.mark.long
def test_faults_on_purpose(tmp_path):
    page = "when-a-worker-dies"
    line = next(line for line in typed(page, "tardigrad train") if "corrupt" in line)
    done = tardigrad(line, tmp_path)
    assert done.returncode == 0, done.stderr
    want, got = shape(shown_below(page, line)), shape(done.stderr + done.stdout)
    events = [[words for words in lines if words[0] == "#" and words[1] == "s:"] for lines in (want, got)]
    assert sorted(events[0]) == sorted(events[1])
    assert got[-2:] == want[-2:]
    assert "rejected" in got[-3]


def test_every_fault_that_can_be_asked_for_is_on_the_page():
    section = PAGES["when-a-worker-dies"].partition("## Try it")[2]
    sentences = [words for words in re.findall(r"^\| `([^`]+)`", section, re.M)]
    known = {fault_plan(words, workers=3, pushes=100).faults[0].kind for words in ACCEPTED}
    assert {fault_plan(words, workers=3, pushes=100).faults[0].kind for words in sentences} == known
