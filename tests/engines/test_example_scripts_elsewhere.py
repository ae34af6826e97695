"""The example scripts where workers come in from elsewhere: the same files, under serve and join, torchrun and Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agents_here import free_port

from tardigrad.audit import audit

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("script_*.py"))
TARDIGRAD = [sys.executable, "-m", "tardigrad"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
PLAIN = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture
def start(tmp_path):
    started = []

    def starting(*words):
        process = subprocess.Popen(
            list(map(str, words)), cwd=tmp_path, env=os.environ | PLAIN, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield starting
    for process in started:
        process.kill()
        process.communicate()


def said(process):
    """What it printed, once it has ended well."""
    printed, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return printed


def require_as_expected(printed, script):
    """The words of the script on one machine; the numbers are those of two workers."""
    expected = (ROOT / "examples" / "expected" / f"{script.stem}.txt").read_text()
    found = [line.rpartition(" ")[0] for line in printed.splitlines()]
    for words in {line.rpartition(" ")[0] for line in expected.splitlines()}:
        assert any(line.endswith(words) for line in found), printed  # Ray puts the process before a line


def require_sound(run, workers=2):
    summary, config = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "config"))
    assert (summary["status"], summary["lost_samples"], config["workers"]) == ("finished", 0, workers)
    found = audit(run)
    assert found.ok, found.verdict


def test_all_scripts_are_tried():
    assert len(SCRIPTS) >= 5


@every_script
def test_under_serve_and_join(script, start, tmp_path):
    where = ["--listen", f"127.0.0.1:{free_port()}", "--trusted-network", "--directory", "run"]
    server = start(*TARDIGRAD, "serve", "--workers", "2", *where, script)
    for line in server.stderr:
        if "workers join with" in line:
            break
    printed = said(start(*TARDIGRAD, "join", "run", "--workers", "2", script))  # by a worker, where it runs
    require_as_expected(printed + said(server), script)
    require_sound(tmp_path / "run")


@every_script
def test_under_torchrun(script, start, tmp_path):
    words = ["-m", "tardigrad", "run", "--engine", "local", "--directory", "run", script]
    require_as_expected(said(start(*TORCHRUN, *words)), script)
    require_sound(tmp_path / "run")


@pytest.mark.xdist_group("ray")
@every_script
def test_under_ray(script, start, tmp_path):
    pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'tardigrad[ray]'")
    words = ["run", "--engine", "ray", "--workers", "2", "--directory", "run", script]
    require_as_expected(said(start(*TARDIGRAD, *words)), script)
    require_sound(tmp_path / "run")
