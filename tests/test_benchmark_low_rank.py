"""The benchmark of dc-lowrank: its parts are those of one commit, its window is full, what is too large is left out."""

import argparse

import pytest
import torch

from benchmark_scripts import load, quick
from tardigrad.window import WindowPlan

PARTS = ["add and Gram row", "S d", "system", "S^T y", "rest"]


@pytest.fixture(scope="module")
def benchmark():
    return load("low_rank")


def test_every_cell_is_in_the_table(tmp_path, capsys):
    found = quick("low_rank", tmp_path)
    cells = [(row["parameters"], row["threads"], row["window"], row["kept"]) for row in found["times"]]
    kept = ("as the weights", "bfloat16")
    assert cells == [("20,000", 1, window, how) for how in kept for window in (2, 8)]
    for row in found["times"]:
        assert list(row["parts, ms"]) == PARTS
        assert all(milliseconds > 0.0 for milliseconds in row["parts, ms"].values())
        assert row["its middle half"][0] <= row["ms"] <= row["its middle half"][1]
        assert {"over floor", "over asgd", "over dc-asgd-a exact", "recomputed Gram, ms", "sketched, ms"} <= set(row)
        assert row["window, MB"] == row["dry run: window, MB"]
        size = 20_000 * row["window"] * (2 if row["kept"] == "bfloat16" else 4)
        assert row["window, MB"] == pytest.approx(size / 1e6, rel=0.01)
    whats = [row["what"] for row in found["accuracy"]]
    assert whats == ["sketched inner products", "bfloat16 rows"]
    folded, rounded = (row["relative error of c, median"] for row in found["accuracy"])
    assert 1e-5 < rounded < 0.01 < folded < 1.0
    assert capsys.readouterr().out.count("window 8") == 4


def test_what_does_not_fit_is_left_out_and_says_so(benchmark, monkeypatch):
    options = argparse.Namespace(device="cpu", quick=True)
    table = benchmark.Table("20,000", benchmark.QUICK["20,000"], options)
    monkeypatch.setattr(benchmark, "MOST", 2**20)
    assert table.row(100, "bfloat16")["left out"].startswith("it needs 0.0")
    benchmark.show("times", [table.row(100, "bfloat16")])


def test_every_row_of_a_full_window_is_the_gradient_and_a_commit_is_late(benchmark):
    options = argparse.Namespace(device="cpu", quick=True)
    table = benchmark.Table("20,000", benchmark.QUICK["20,000"], options)
    case = table.case("dc-lowrank(window=5)", "exact")
    watched = benchmark.full_window(case, WindowPlan(5), table.layout, table.gradient, lambda: None)
    assert watched.size == 5
    square = table.gradient.double().square().sum()
    torch.testing.assert_close(watched.gram, square.expand(5, 5))
    torch.testing.assert_close(watched.against(table.gradient), square.expand(5), rtol=1e-5, atol=0.0)
    before = table.weights.clone()
    case()
    assert set(watched.split(1e9)) == set(PARTS)  # all of them were asked for
    assert sum(watched.split(1e9).values()) == pytest.approx(1e9)
    assert (table.weights - before).abs().max() < 1e-6
    assert watched.size == 5


def test_the_whole_gram_matrix_is_the_sum_over_parts_of_the_columns(benchmark):
    rows = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(benchmark.recomputed_gram(rows), rows @ rows.T)


@pytest.mark.parametrize("size", [1000, 64, 10])
def test_a_sketch_keeps_inner_products_in_the_mean(benchmark, size):
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, size, generator=generator)
    sketch = benchmark.Sketch(size, buckets=64)
    assert sketch(first).shape == (64,)
    torch.testing.assert_close(sketch(first + 2 * second), sketch(first) + 2 * sketch(second))
    error = float(sketch(first) @ sketch(second) - first @ second)
    assert abs(error) <= 4 * (2 / 64) ** 0.5 * float(first.norm() * second.norm()) * (size > 64) + 1e-4
    assert sketch(first).norm() == pytest.approx(float(first.norm()), rel=0.5)
