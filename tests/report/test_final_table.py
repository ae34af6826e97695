"""The final table: its numbers against those written, and how it is printed."""

import io
import statistics

import pytest
from fake_runs import RULES, config, evaluations, summary, write_cell, write_plan, write_run
from rich.console import Console

from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs
from tardigrad.report.table import columns, final_table, markdown, render, safeguards


@pytest.fixture
def table(tmp_path):
    write_cell(tmp_path, "sequential", workers=1, test=(0.010, 0.012))
    write_cell(tmp_path, "asgd", lr=0.03, test=(0.030, 0.040))
    write_cell(tmp_path, "asgd", lr=0.1, test=(0.140, 0.920), diverged=(1,))
    write_cell(tmp_path, "dc-asgd", lr=0.1, test=(0.020, 0.030))
    write_plan(tmp_path, ["sequential", "asgd", "dc-asgd"], recipe_lr=0.1)
    return final_table(compare_runs(find_runs(tmp_path)))


def printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    render(table, console)
    return console.file.getvalue()


def test_rows_hold_what_was_written(table):
    sequential, asgd, ours = table.rows
    assert (sequential.label, sequential.workers, sequential.staleness) == ("sequential", 1, 0.0)
    assert (asgd.lr, asgd.seeds, asgd.diverged, asgd.runs) == (0.03, 2, 1, 4)
    assert asgd.last_ten.mean == pytest.approx(3.5)
    assert asgd.last_ten.std == pytest.approx(statistics.stdev([3.0, 4.0]))
    assert asgd.recipe.mean == pytest.approx((14.0 + 92.0) / 2)
    assert (ours.safeguards, asgd.safeguards) == ("damped", "")
    assert (asgd.time, asgd.wall) == (200.0, pytest.approx(1.7))
    assert 13 < asgd.staleness < 17


def test_the_best_epoch_stands_beside_the_mean_of_the_last_ten(tmp_path):
    test = [0.05, 0.01] + [0.03] * 10
    write_run(tmp_path / "a", config=config(), evaluations=evaluations(test), summary=summary())
    row = final_table(compare_runs(find_runs(tmp_path), recipe_lr=0.1)).rows[0]
    assert (row.best.mean, row.last_ten.mean, row.recipe.mean) == pytest.approx((1.0, 3.0, 3.0))


def test_a_rate_that_was_not_run_leaves_its_cell_empty(tmp_path):
    write_cell(tmp_path, "asgd", lr=0.03, test=(0.03,))
    table = final_table(compare_runs(find_runs(tmp_path), recipe_lr=0.1))
    assert table.rows[0].recipe is None
    assert not any("recipe" in column.title for column in columns(table))


def test_the_table_says_on_which_data_the_best_epoch_was_chosen(table):
    titles = [column.title for column in columns(table)]
    assert "best epoch, chosen on test" in titles
    assert "test error, %, mean of last ten" in titles
    assert "at recipe's lr 0.1" in titles
    assert "virtual time, s" in titles


def test_wall_time_stands_once_where_there_is_no_other(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.03,), engine="local")
    titles = [column.title for column in columns(final_table(compare_runs(find_runs(tmp_path))))]
    assert [title for title in titles if "time" in title] == ["wall time, s"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_printed_lines_keep_the_width_and_cells_stay_whole(table, width):
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert "3.50 ± 0.71" in text
    assert "dc-asgd, damped" in text
    assert "1 of 4" in text
    assert "2.00 ± 0.00" not in text


def test_a_narrow_terminal_names_what_it_leaves_out(table):
    assert "Left out for want of width: seeds; wall time, s; staleness; virtual time, s." in printed(table, 80)
    assert "Left out" not in printed(table, 160)


def test_markdown_has_a_line_per_row_and_equal_columns(table):
    lines = markdown(table).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {len(columns(table)) + 1}
    assert lines[3].startswith("| asgd | 16 | 0.03 | 3.50 ± 0.71 |")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("asgd", ""),
        (RULES["dc-asgd-a"], ""),
        ("dc-asgd-a(clip_compensation=1.0, damped=False)", "clipped at 1"),
        ("dc-asgd(clip_compensation=0.5, damped=True)", "damped, clipped at 0.5"),
    ],
)
def test_safeguards_are_named(rule, words):
    assert safeguards(config(rule=rule)) == words
