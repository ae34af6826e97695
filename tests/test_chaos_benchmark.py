"""The chaos benchmark: a run whose server is killed goes on, what is left behind is seen, and its book is continued."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "chaos.py"
    spec = importlib.util.spec_from_file_location("benchmark_chaos", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_a_run_whose_server_kills_itself_is_resumed_and_judged(benchmark, tmp_path, capsys):
    words = ["--seeds", "3", "--epochs", "1", "--work", str(tmp_path), "--output", str(tmp_path / "chaos.json")]
    benchmark.main(words)
    found = json.loads((tmp_path / "chaos.json").read_text())
    assert found["not good"] == []
    assert found["environment"]["cpu"]
    summary = found["summary"]
    assert (summary["runs"], summary["with all invariants"], summary["finished"]) == (1, 1, 1)
    assert (
        summary["servers killed"] == 1 == summary["resumed"] + summary["killed before the first checkpoint, begun anew"]
    )
    assert summary["faults planned"]["kill-server"] == 1
    assert summary["seen in the surviving logs"]["restarts"] >= 1
    assert "seed   3" in capsys.readouterr().out
    benchmark.main(words)
    assert "seed   3" not in capsys.readouterr().out  # it is in the book
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_seeds_go_through_every_combination_and_enough_servers_are_killed(benchmark):
    settings = [benchmark.settings_of(seed, 4) for seed in range(200)]
    combinations = Counter((s["rule"], s["consistency"], s["leases"]) for s in settings)
    assert len(combinations) == 12
    assert min(combinations.values()) >= 16
    assert sum(benchmark.chaos_of(seed).endswith("+server") for seed in range(200)) == 25
    assert sum(seed % 8 == benchmark.FROM_OUTSIDE for seed in range(200)) == 25


def test_a_process_that_is_left_is_found_and_ended(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "GRACE", 0.0)
    (tmp_path / "pymp-1").mkdir()
    (tmp_path / "pymp-1" / "socket").touch()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as left:
        shared = set(os.listdir("/dev/shm"))
        found = benchmark.left_behind(left.pid, shared, tmp_path, killed=False)
        assert f"process {left.pid} cat" in found
        assert "temporary file pymp-1/socket" in found
        assert left.wait() == -signal.SIGKILL
        assert benchmark.left_behind(left.pid, shared, tmp_path, killed=True) == []


def test_a_run_that_does_not_end_counts_as_hung(benchmark, tmp_path, monkeypatch):
    waits, nobody_writes = tmp_path / "waits", tmp_path / "pipe"
    os.mkfifo(nobody_writes)
    waits.write_text(f"#!/bin/sh\nread line < {nobody_writes}\n")
    waits.chmod(0o755)
    monkeypatch.setattr(benchmark.sys, "executable", str(waits))
    result = benchmark.Result(0, {}, "0", {})
    code, _ = benchmark.attempt(["train"], tmp_path / "run", None, result, 0.1)
    assert (code, result.hung, result.good) == (-signal.SIGKILL, True, False)
