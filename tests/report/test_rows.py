"""The numbers of a report as CSV."""

import csv

import pytest

from tardigrad.metrics.runs import find_runs
from tardigrad.report.rows import COLUMNS, write_rows
from tardigrad.training import train


def test_one_line_a_run(tmp_path):
    train("digits", epochs=1, batch_size=128, workers=2, rule="dc-asgd", seed=3, directory=tmp_path / "runs" / "one")
    run = train("quadratic", epochs=2, batch_size=128, workers=1, rule="asgd", directory=tmp_path / "other" / "two")
    write_rows(find_runs([tmp_path / "runs"]), tmp_path / "out" / "runs.csv")
    (row,) = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert tuple(row) == COLUMNS
    assert (row["run"], row["label"], row["workers"], row["seed"], row["status"]) == (
        "one",
        "dc-asgd",
        "2",
        "3",
        "finished",
    )
    stored = find_runs([tmp_path / "runs"])[0]
    last = stored.evaluations[-1]
    assert float(row["test_final"]) == pytest.approx(100.0 * last["test"]["error"], rel=1e-5)
    assert float(row["validation_last_ten"]) == pytest.approx(100.0 * last["validation"]["error"], rel=1e-5)
    assert float(row["time"]) == pytest.approx(last["time"], rel=1e-5)
    assert float(row["staleness_mean"]) == pytest.approx(stored.summary["staleness"]["mean"], rel=1e-5)
    assert int(row["memory_total"]) == stored.summary["memory"]["total"]
    write_rows(find_runs([run.directory]), tmp_path / "out" / "runs.csv")
    (row,) = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert row["validation_final"] == ""  # the quadratic has no validation data


def test_a_run_that_has_not_ended_has_a_line_too(tmp_path):
    train("quadratic", epochs=1, batch_size=128, workers=1, rule="asgd", directory=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    write_rows(find_runs([tmp_path / "run"]), tmp_path / "runs.csv")
    (row,) = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert row["status"] == "unfinished"
    assert row["memory_total"] == ""
