"""Benchmarks run, tiny, and say what they promise to say; no time is judged here."""

import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.leases import Leases
from tardigrad.recipes import load_recipe
from tardigrad.worker import Worker

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_is_tried_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        "chaos", "compensation_at_the_start", "local_costs", "local_scaling", "simulator_overhead",
    }  # fmt: skip


@pytest.mark.parametrize(("setting", "pairs"), [("digits", 2), ("cifar10-small", 2)])
def test_the_simulators_overhead_is_paired_and_written(setting, pairs, tmp_path):
    output = tmp_path / "bench" / "overhead.json"
    load("simulator_overhead").main(["--quick", "--settings", setting, "--output", str(output)])
    found = json.loads(output.read_text())
    assert [row["case"] for row in found["rows"]] == [
        "asgd, 1 workers", "asgd, 64 workers", "dc-asgd-c, 64 workers", "dc-asgd-a, 64 workers", "dc-asgd, 64 workers",
    ]  # fmt: skip
    assert [row["limit"] for row in found["rows"]] == [1.10, 1.15, 1.15, 1.15, 1.15]
    for row in found["rows"]:
        assert row["pairs"] >= pairs
        assert row["processor ratio"] > 0.0
        assert row["its middle half"][0] <= row["processor ratio"] <= row["its middle half"][1]
    assert found["environment"]["cpu"]


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
    benchmark, output = load("compensation_at_the_start"), tmp_path / "start.json"
    benchmark.main(["--recipe", "quadratic", "--commits", "12", "--epochs", "1", "--output", str(output)])
    found = json.loads(output.read_text())
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
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
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


def test_the_scaling_of_real_workers_is_compared_with_their_own_speeds(tmp_path, capsys):
    output = tmp_path / "bench" / "scaling.json"
    words = ["--quick", "--rounds", "1", "--seeds", "0", "--epochs", "1", "--target", "0.05"]
    load("local_scaling").main([*words, "--output", str(output)])
    found = json.loads(output.read_text())
    assert "synthetic" in found["images"]
    assert found["threads of each worker"] == 1
    pace = {row["case"]: row for row in found["pace"]}
    assert len(pace) == 5
    for row in pace.values():
        assert len(row["readings"]) == 1
        assert 0.0 < row["lowest"] <= row["samples/s"] <= row["highest"]
    both = pace["2 workers, one slowed 4 x, asynchronous"]
    own = pace["1 worker"]["samples/s"] + pace["1 worker, slowed 4 x"]["samples/s"]
    assert both["of the workers' own speeds"] == pytest.approx(both["samples/s"] / own, abs=1e-3)
    assert pace["1 worker"]["over 1 worker"] == 1.0
    for row in found["error"]:
        (reading,) = row["readings"]
        assert row["reached"] == (reading["seconds"] is not None) == (reading["best"] <= 0.05)
        assert row["reached"] or reading["epochs"] > 0.8
    assert len(found["error"]) == 3


def test_a_case_measures_as_many_steps_as_take_as_long_as_one_at_full_speed():
    benchmark = load("local_scaling")
    measure = benchmark.Measure("timed", "", steps=100)
    counted = {case.name: measure.counted(case) for case in benchmark.PACE}
    assert counted["1 worker"] == counted["plain loop"] == 100
    assert counted["1 worker, slowed 4 x"] == 25
    assert counted["2 workers, one slowed 4 x, asynchronous"] == 125
    assert counted["2 workers, one slowed 4 x, synchronous"] == counted["2 processes, one slowed 4 x, DDP"] == 50


def test_what_real_workers_cost_is_measured(tmp_path, capsys):
    output = tmp_path / "bench" / "costs.json"
    load("local_costs").main(["--quick", "--output", str(output)])
    found = json.loads(output.read_text())
    assert [row["rule"] for row in found["exchange"]] == ["asgd", "dc-asgd-a", "dc-asgd"]
    for row in found["exchange"]:
        assert row["exchange, ms"] > 0.0
        assert row["memcpy, ms"] > 0.0
    assert found["messages, microseconds"] > 0.0
    start = found["start-up"]
    assert start["workers"] == 2
    assert start["import torch, s"] > 0.0
    assert start["all compute, s"] > 0.0


def test_an_exchange_of_the_benchmark_is_one_commit_late():
    exchanges = load("local_costs").Exchanges("dc-asgd-a", 100)
    for _ in range(4):
        exchanges()
    server = exchanges.server
    assert server.version == 4
    assert [server.read_version(worker) for worker in range(2)] == [3, 4]
    assert torch.equal(exchanges.down[1].flat[:100], server.weights()[0])
    exchanges.close()
