"""SIGINT and SIGTERM: the first stops a run where it can go on, the second ends it at once."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch

from tardigrad.cli import main
from tardigrad.signals import StopSignals

LONG = ["train", "quadratic", "--workers", "3", "--epochs", "15", "--evaluate-every", "0.5", "--seed", "1"]


def begin(place, *words):
    """A run as one would type it, in a process of its own; returned when its third evaluation is reported."""
    command = [sys.executable, "-m", "tardigrad", *words, "--directory", str(place)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    for _ in range(3):
        assert select.select([run.stderr], [], [], 60)[0], "nothing was reported within a minute"
        assert run.stderr.readline().startswith("epoch ")
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stops_at_the_first_signal_and_goes_on_as_if_nothing_had_happened(tmp_path, number, capsys):
    run = begin(tmp_path / "stopped", *LONG)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 3, said
    assert f"{number.name}: finishing the commit and writing a checkpoint" in said
    assert "stopped at version " in said
    assert re.search(r", epoch \d+\.\d\d, mean staleness (1\.[89]|2\.0)\n", said)
    assert f"to go on: tardigrad train --resume {tmp_path / 'stopped'}\n" in said
    assert "Traceback" not in said
    assert not (tmp_path / "stopped" / "summary.json").exists()
    if number == signal.SIGTERM:
        return
    assert main(["train", "--resume", str(tmp_path / "stopped")]) == 0
    assert main([*LONG, "--directory", str(tmp_path / "whole")]) == 0
    both = [safetensors.torch.load_file(tmp_path / name / "weights.safetensors") for name in ("stopped", "whole")]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("stopped", "whole")]
    assert logs[0] == logs[1]
    assert json.loads((tmp_path / "stopped" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(number):
    """The run never asks whether to stop: only the second signal can end it."""
    code = "import signal; from tardigrad.signals import StopSignals\nwith StopSignals():\n print('in', flush=True)\n"
    code += " while True: signal.pause()"
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "in\n"
    run.send_signal(number)
    assert run.stderr.readline() == "\n"
    assert "once more: leave at once" in run.stderr.readline()
    assert run.poll() is None
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert f"{number.name} again" in said


def test_the_old_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert not signals.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked()
        assert signals.received == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_signals_do_what_they_did():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def body():
        with StopSignals() as signals:
            seen.append((signal.getsignal(signal.SIGTERM), signals.asked()))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
    assert signal.getsignal(signal.SIGTERM) == before
