"""The CIFAR-10 script, on real images where they are: alone, and on two real workers by another word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tardigrad.audit import audit

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "with_data" / "cifar10.py"
SMALL = ["--images", "320", "--epochs", "1", "--depth", "8"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not os.environ.get("TARDIGRAD_DATA"), reason="needs the data: set TARDIGRAD_DATA"),
]


def said(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, *words, str(SCRIPT), *SMALL]
    done = subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_alone_and_on_two_workers(tmp_path):
    assert said(cwd=tmp_path).startswith("epoch 1: ")
    run = ["-m", "tardigrad", "run", "--engine", "local", "--workers", "2", "--directory", "run"]
    assert said(*run, cwd=tmp_path).startswith("epoch 1: ")
    found = audit(tmp_path / "run")
    assert found.ok, found.verdict
    assert (found.epochs, found.applied) == (1, 320)
