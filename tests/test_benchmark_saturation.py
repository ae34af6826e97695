"""The benchmark of saturation: its tables hold what they promise, and its workers wait; no time is judged."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from tardigrad.blueprint import Blueprint
from tardigrad.records import Lease, Snapshot

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def saturation(monkeypatch):
    """The benchmark as a module; the seam that it builds its workers by is put back."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(Blueprint, "build_worker", Blueprint.build_worker)
    spec = importlib.util.spec_from_file_location("benchmark_saturation", FOLDER / "saturation.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    module.waiting.install()
    return module


@pytest.mark.timeout(240)
def test_saturation_is_measured_and_written(saturation, tmp_path):
    output = tmp_path / "bench" / "saturation.json"
    saturation.main(["--quick", "--output", str(output)])
    found = json.loads(output.read_text())
    (series,) = found["saturation"]
    assert (series["rule"], series["path"], series["parameters"]) == ("dc-asgd-a", "exact", 1000)
    assert series["bound, commits/s"] == pytest.approx(1e3 / series["exchange, ms"], rel=0.01)
    assert [row["workers"] for row in series["rows"]] == [1, 2]
    assert series["rises until"] in (1, 2)
    for row in series["rows"]:
        assert 0.0 < row["lowest"] <= row["commits/s"] <= row["highest"]
        assert row["commits/s"] < 1.1 * row["workers"] / 0.001, "a gradient takes its time"
        assert row["exchange here, ms"] > 0.0
        assert row["server busy"] > 0.0
        assert set(row["server holds, MiB"]) == {"weights", "backups", "state", "held"}
        assert row["planned, MiB"] > 0.0
    assert [row["workers"] for row in found["simulator"]] == [1, 4]
    for row in found["simulator"]:
        assert row["events/s"] > 0
        assert row["with a log, events/s"] > 0
        assert 20 < row["log, bytes a commit"] < 1000
    assert found["environment"]["cpu"]


def test_a_waiting_worker_hands_in_the_same_gradient_and_computes_nothing(saturation):
    waiting = saturation.waiting
    up = torch.zeros(10)
    worker = waiting.WaitingWorker(waiting.waiting(parameters=10), seed=0, weights=torch.zeros(10), gradient=up)
    snapshot = Snapshot(0, [], Lease(0, 0, 1), torch.full((10,), 5.0), {}, 0)
    push = worker.compute(3, snapshot)
    assert (push.worker, push.samples, push.norm) == (3, 1, 1.0)
    assert push.gradient.data_ptr() == up.data_ptr()
    assert torch.equal(up, torch.full((10,), 1e-3))
    up[0] = 7.0
    worker.compute(3, snapshot)
    assert up[0] == 7.0, "it was written once"


def test_windows_begin_when_every_worker_has_pushed_twice(saturation, monkeypatch):
    class Commit:
        def __init__(self, worker):
            self.worker = worker

    clock = iter(range(100))
    monkeypatch.setattr(saturation.time, "perf_counter", lambda: float(next(clock)))
    windows = saturation.Windows(workers=2, seconds=2.0)
    for worker in (0, 0, 0, 1, 1):
        windows.committed(0.0, Commit(worker))
    assert windows.rates == []
    for _ in range(6):
        windows.committed(0.0, Commit(0))
    assert windows.rates == [1.0, 1.0, 1.0]
    assert windows.done()
