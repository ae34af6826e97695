"""The example scripts on real processes: the same files, by another word on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tardigrad.audit import audit

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("own_loop", "stream", "transformers")  # the others are held against plain PyTorch elsewhere
SCRIPTS = [ROOT / "examples" / f"script_{name}.py" for name in NAMES]

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_on_two_workers(script, tmp_path):
    call = [sys.executable, "-m", "tardigrad", "run", "--engine", "local", "--workers", "2", "--directory", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*call, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    expected = (ROOT / "examples" / "expected" / f"{script.stem}.txt").read_text()
    words = {line.rpartition(" ")[0] for line in expected.splitlines()}
    said = {line.rpartition(" ")[0] for line in done.stdout.splitlines()}
    assert words <= said, done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    found = audit(tmp_path / "run")
    assert found.ok, found.violations
    workers = {part[0] for event in _events(tmp_path / "run", "commit") for part in event[5]}
    assert workers == {0, 1}


def _events(run, kind):
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()[1:])
    return [event for event in lines if event[0] == kind]
