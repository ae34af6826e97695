"""Benchmarks run, tiny, and say what they promise to say; no time is judged here."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

import tardigrad
from benchmark_scripts import FOLDER, load, quick
from tardigrad.config import RunConfig
from tardigrad.leases import Leases
from tardigrad.recipes import load_recipe
from tardigrad.worker import Worker

HERE = Path(__file__).resolve().parent
# Each is run by the file named after it, or by this one.
TRIED = {
    "between": "test_benchmark_between.py",
    "carriers": "test_benchmark_carriers.py",
    "chaos": "test_chaos_benchmark.py",
    "commits": "test_benchmark_commits.py",
    "between_hosts": "test_benchmark_between_hosts.py",
    "compensation_at_the_start": "test_benchmarks.py",
    "low_rank": "test_benchmark_low_rank.py",
    "own_script": "test_benchmark_own_script.py",
    "saturation": "test_benchmark_saturation.py",
    "simulator_overhead": "test_benchmarks.py",
    "start_up": "test_benchmark_start_up.py",
    "training": "test_benchmark_training.py",
}


def test_every_benchmark_is_tried():
    assert {path.stem for path in FOLDER.glob("*.py")} == TRIED.keys()
    untried = [name for name, file in TRIED.items() if not re.search(rf'"{name}(\.py)?"', (HERE / file).read_text())]
    assert untried == []


@pytest.mark.parametrize(("setting", "pairs"), [("digits", 2), ("cifar10-small", 2)])
def test_the_simulators_overhead_is_paired_and_written(setting, pairs, tmp_path):
    found = quick("simulator_overhead", tmp_path, "--settings", setting)
    assert [row["case"] for row in found["rows"]] == [
        "asgd, 1 workers", "asgd, 64 workers", "dc-asgd-c, 64 workers", "dc-asgd-a, 64 workers", "dc-asgd, 64 workers",
    ]  # fmt: skip
    assert [row["limit"] for row in found["rows"]] == [1.10, 1.15, 1.15, 1.15, 1.15]
    for row in found["rows"]:
        assert row["pairs"] >= pairs
        assert row["processor ratio"] > 0.0
        assert row["its middle half"][0] <= row["processor ratio"] <= row["its middle half"][1]


def test_the_plain_loop_takes_the_steps_of_one_worker():
    """What the simulator is held against does the same work, to the last bit but for its own random crops."""
    benchmark = load("simulator_overhead")
    task = dataclasses.replace(benchmark.SETTINGS["cifar10-small"].task(), augment=None)
    loop = benchmark.PlainLoop(task, RunConfig(batch_size=32, lr=0.001, memory_format="channels_last"))
    loop.steps(3)
    body = Worker(task, seed=0, arithmetic=loop.arithmetic)
    server = tardigrad.ParameterServer(
        body.weights,
        tardigrad.rule("asgd"),
        lr=0.001,
        leases=Leases(len(task.train), 32, epochs=1),
        buffers=body.buffers,
        layout=body.layout,
    )
    for _ in range(3):
        server.receive(body.compute(0, server.pull(0)))
    theirs = [parameter.detach() for parameter in loop.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(server.weights(), theirs, strict=True))


def test_compensations_at_the_start_are_measured_at_every_commit(tmp_path, capsys):
    benchmark, found = load("compensation_at_the_start"), quick("compensation_at_the_start", tmp_path)
    assert found["arms"].keys() == benchmark.ARMS.keys() == benchmark.LOOKS.keys()
    for name, row in found["arms"].items():
        assert (row["status"], row["epochs"], len(row["ratios"])) == ("finished", 1.0, 12)
        assert (row["largest"] > 0.0) is (name != "asgd")
        assert row["ratios"][row["largest at commit"] - 1] == row["largest"]
        assert row["seconds an epoch"] > 0.0
        assert row["server bytes"]["total"] > 0
        assert math.isfinite(row["test"]["loss"])
    assert found["arms"]["dc-asgd-a, one epoch of warm-up"]["warmup"] == 1.0
    assert found["config"]["workers"] == 8
    assert (tmp_path / "bench" / "found.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("dc-asgd-a, clipped at 1") == 2


def test_the_first_commits_alone():
    benchmark = load("compensation_at_the_start")
    row = benchmark.measured("dc-asgd", load_recipe("quadratic"), 5, True)
    assert (row["status"], len(row["ratios"])) == ("stopped", 5)
    assert "seconds an epoch" not in row


def test_a_run_that_diverges_is_a_result(monkeypatch):
    benchmark = load("compensation_at_the_start")
    monkeypatch.setattr(benchmark, "ARMS", {"dc-asgd-a": {"rule": "dc-asgd-a", "lr": 1e20}})
    row = benchmark.measured("dc-asgd-a", load_recipe("quadratic"), 50, False)
    assert row["status"] == "diverged"
    assert len(row["ratios"]) < 50
    assert "diverged at version" in row["message"]
    assert "Remedies" not in row["message"]
