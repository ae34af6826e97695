"""The benchmark of commits: what it calls an exchange is one, every rule is in the table, memory is seen."""

import shutil

import pytest
import torch

from benchmark_scripts import load, quick
from tardigrad.commit import COMMIT_PATHS
from tardigrad.rules import COMPENSATIONS
from tardigrad.rules.base import make_rule

COMPILER = shutil.which("g++") is not None
STREAMS = {"asgd": 3, "staleness-lr": 3, "dc-asgd-c": 4, "dc-asgd-a": 6, "dc-asgd": 6, "sign-flipped": 6}  # of a commit


@pytest.fixture(scope="module")
def benchmark():
    return load("commits")


@pytest.mark.timeout(600)  # it compiles a rule
def test_every_rule_is_timed_and_what_compiles_beside_it(tmp_path, capsys):
    words = ["--paths", "exact", *(["compiled"] if COMPILER else [])]
    found = quick("commits", tmp_path, *words)
    cases = [row for row in found["times"] if row["path"] != "torch"]
    rules = set(COMPENSATIONS.names()) - {"dc-lowrank"}  # which has a benchmark of its own
    expected = {(rule, "exact", what) for rule in rules for what in ("commit", "exchange")}
    if COMPILER:
        expected |= {("dc-asgd-a", "compiled", what) for what in ("commit", "exchange")}
    assert {(row["rule"], row["path"], row["what"]) for row in cases} == expected
    assert len(cases) == len(expected)
    references = [row["rule"] for row in found["times"] if row["path"] == "torch"]
    assert references == ["memcpy", "fused SGD", "fused SGD with momentum", "fused Adam"]
    for row in found["times"]:
        assert (row["parameters"], row["threads"]) == ("20,000", 1)
        assert 0.0 < row["its middle half"][0] <= row["ms"] <= row["its middle half"][1]
    for row in cases:
        assert row["its middle half, ratio"][0] <= row["ratio"] <= row["its middle half, ratio"][1]
        assert row["readings"] == 3
        assert row["limit"] is None  # of such a size nothing is asked
    held = {(row["rule"], row["path"], row["contributions"]) for row in found["memory"]}
    assert held == {(rule, path, 1) for rule, path, _ in expected}
    assert capsys.readouterr().out.count("sign-random") == 3  # its commit, its exchange, its memory


def test_the_streams_of_a_rule(benchmark):
    for name, streams in STREAMS.items():
        rule = make_rule(name)
        assert [benchmark.streams_of(rule, exchange) for exchange in (False, True)] == [streams, streams + 1]
    assert benchmark.streams_of(make_rule("dc-asgd-a", optimizer="sgd(momentum=0.9)"), True) == 9
    assert benchmark.streams_of(make_rule("clipping"), True) == 5  # the gradient is read twice
    assert benchmark.streams_of(make_rule("its-length"), True) == 11  # and of this one also weights, backup, state


@pytest.mark.parametrize(
    ("rule", "path", "limit"), [("dc-asgd-a", "compiled", 1.15), ("asgd", "compiled", 1.2), ("asgd", "exact", None)]
)
def test_limits_are_of_compiled_exchanges_of_the_middle_size(benchmark, rule, path, limit):
    table = benchmark.Table("25.6 M", benchmark.QUICK["20,000"], "cpu")
    table.rules[rule] = make_rule(rule)
    twice = [{"memcpy": 1.0, "fused Adam": 7.0, "it": it} for it in (7.0, 8.0, 9.0)]
    row = table.case_row(rule, path, True, twice)
    assert row["limit"] == limit
    assert row["ratio"] == pytest.approx({"dc-asgd-a": 8 / 7, "asgd": 2.0}[rule], rel=1e-3)
    assert row["within"] == (None if limit is None else rule == "dc-asgd-a")
    assert table.case_row(rule, path, False, twice)["limit"] is None


def test_an_exchange_writes_the_slot_of_a_worker_that_is_one_commit_late(benchmark):
    buffers = benchmark.Buffers(1000, "cpu")
    before = buffers.weights.clone()
    rule = make_rule("dc-asgd-a")
    case = benchmark.Case(rule, COMMIT_PATHS.load("exact")(rule, buffers.layout), buffers)
    case(exchange=True)
    assert torch.equal(buffers.slots[0], buffers.weights)
    assert torch.equal(buffers.slots[1], before)
    case(exchange=True)
    assert torch.equal(buffers.slots[1], buffers.weights)
    assert not torch.equal(buffers.slots[0], buffers.weights)
    slots = [slot.clone() for slot in buffers.slots]
    case(exchange=False)
    assert all(torch.equal(now, then) for now, then in zip(buffers.slots, slots, strict=True))


def test_references_leave_the_weights_where_they_are(benchmark):
    buffers = benchmark.Buffers(1000, "cpu")
    before = buffers.weights.clone()
    for step in benchmark.references(buffers).values():
        for _ in range(10):
            step()
    assert (buffers.weights - before).abs().max() < 1e-6


def test_memory_that_was_held_only_for_a_while_is_seen(benchmark):
    held = benchmark.Held(torch.device("cpu"))
    passing = torch.ones(10_000_000)
    del passing
    assert held.beyond() > 35e6
    again = benchmark.Held(torch.device("cpu"))
    assert again.beyond() < 8e6
