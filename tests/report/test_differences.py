"""Tables of differences hold the numbers of tuned_example, which were computed by hand."""

import pytest
from fake_runs import write_cell

from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import Metric, find_runs
from tardigrad.report.differences import difference_tables, signed
from tardigrad.report.table import columns, final_table, markdown_of


def rows(table):
    """One dict per row; columns of one title are numbered."""
    titles = [
        f"{column.title} {i}" if column.title == "needs" else column.title for i, column in enumerate(table.columns)
    ]
    return [dict(zip(titles, cells, strict=True)) for cells in zip(*(c.cells for c in table.columns), strict=True)]


def of(table, label, **fields):
    return next(r for r in rows(table) if r["algorithm"] == label and fields.items() <= r.items())


@pytest.fixture
def tables(by_hand):
    return {table.name: table for table in difference_tables(by_hand)}


def test_best_against_best(tables):
    row = of(tables["differences-best"], "dc-asgd-a")
    assert list(row.values()) == [
        "dc-asgd-a", "8", "0.1", "43.5 ± 1.00", "-1.50 [-2.12, -0.88]", "4", "+4.70 [+3.49, +5.91]", "3", "5",
    ]  # fmt: skip
    assert of(tables["differences-best"], "asgd")["minus asgd"] == "n/a"
    assert of(tables["differences-best"], "asgd")["needs 5"] == "n/a"
    assert "below 0 is better" in tables["differences-best"].note


def test_the_recipe_with_penalty_and_own_loss(tables):
    row = of(tables["differences-recipe"], "dc-asgd-a")
    assert list(row.values()) == [
        "dc-asgd-a", "8", "0.2", "45.8 ± 0.84", "-12.6 [-14.7, -10.5]", "3", "+4.80 [+4.24, +5.36]", "3",
        "+2.30 [+0.46, +4.14]", "6", "0 of 5",
    ]  # fmt: skip
    own = "own loss: minus its own best"
    # sequential: 2, 2, 3, 1, 3 points: mean 2.2, std 0.8367, half width 1.0388.
    alone = of(tables["differences-recipe"], "sequential")
    assert (alone[own], alone["recipe penalty: minus sequential"]) == ("+2.20 [+1.16, +3.24]", "n/a")
    assert (row[own], of(tables["differences-recipe"], "dc-asgd")[own]) == ("+2.30 [+0.46, +4.14]", "n/a")


def test_controls_at_both_points(tables):
    table = tables["controls-table"]
    found = [(row["algorithm"], row["point"]) for row in rows(table)]
    each = ["dc-asgd-a", "asgd", "its-length", "sign-flipped", "clipping"]
    assert found == [(label, point) for point in ("best", "recipe") for label in each]
    assert of(table, "its-length", point="best")["minus dc-asgd-a"] == "+0.60 [+0.08, +1.12]"
    assert of(table, "its-length", point="best")["needs 6"] == "7"
    # asgd at the same rate 47 48 46 47 46.5: 3, 3, 2, 2.5, 3.5 points: mean 2.8, std 0.5701, half width 0.7079.
    assert of(table, "its-length", point="best")["minus asgd at the same rate"] == "-2.80 [-3.51, -2.09]"
    assert of(table, "asgd", point="best")["lr"] == "0.1"
    assert of(table, "sign-flipped", point="recipe")["diverged"] == "5 of 5"
    assert of(table, "sign-flipped", point="recipe")["needs 6"] == "n/a"
    assert of(table, "dc-asgd-a", point="best")["minus dc-asgd-a"] == "n/a"


def test_several_worker_counts_stand_below_each_other(tuned):
    best = next(table for table in difference_tables(tuned) if table.name == "differences-best")
    assert [row["workers"] for row in rows(best)] == ["8"] * 8 + ["32"] * 8


def test_a_grid_has_no_such_tables(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.02, 0.03))
    write_cell(tmp_path, "dc-asgd", test=(0.01, 0.02))
    assert difference_tables(compare_runs(find_runs(tmp_path))) == []


@pytest.mark.parametrize(("value", "text"), [(0.001, "0.00"), (-0.001, "0.00"), (1.0, "+1.00"), (-12.34, "-12.3")])
def test_differences_carry_their_sign(value, text):
    assert signed(value, Metric("error", 100.0, "%")) == text


def test_a_table_as_markdown_has_equal_rows(tables):
    lines = markdown_of(tables["differences-best"].columns).splitlines()
    assert len(lines) == 2 + 4
    assert {line.count("|") for line in lines} == {10}


def test_the_final_table_has_time_to_the_target_memory_and_what_was_tuned_too(by_hand):
    found = {column.title: column.cells for column in columns(final_table(by_hand))}
    labels = found["algorithm"]
    assert [label.partition(",")[0] for label in labels] == ["sequential", "asgd", "dc-asgd-a", "dc-asgd", "clipping"]
    assert found["tuned too"] == ("n/a", "n/a", "lambda0=8.0", "n/a", "n/a")
    assert found["virtual time to 40.8 %, s"] == ("480", "never", "never", "never", "never")
    assert found["server memory, MiB"] == ("4.82",) * 5  # 5,053,224 bytes
    assert found["at recipe's lr 0.2"] == ("41.0 ± 0.71", "58.4 ± 1.14", "45.8 ± 0.84", "43.6 ± 1.14", "50.4 ± 0.55")
    assert found["diverged"] == ("0 of 10", "0 of 10", "0 of 10", "0 of 5", "0 of 10")
    assert found["wall time, s"] == ("1.7",) * 5


def test_a_grid_has_none_of_these_columns(tmp_path):
    write_cell(tmp_path, "sequential", workers=1, test=(0.02, 0.03))
    titles = " ".join(column.title for column in columns(final_table(compare_runs(find_runs(tmp_path)))))
    assert not any(word in titles for word in ("memory", "tuned", "time to"))
