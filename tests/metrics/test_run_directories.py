"""Reading run directories back: what is there, what is torn, what is missing."""

import gzip
import json

import pytest
from fake_runs import METRIC, config, evaluations, log_lines, summary, write_cell, write_plan, write_run

from tardigrad.errors import RunDirectoryError
from tardigrad.metrics.runs import find_plan, find_runs, load_run


@pytest.fixture
def run(tmp_path):
    return write_run(
        tmp_path / "run",
        config=config("dc-asgd-a", workers=4, lr=0.2, seed=7),
        evaluations=evaluations([0.5, 0.2]),
        summary=summary(workers=4),
        log=log_lines(workers=4, commits=5, ratio=lambda version: 0.5),
    )


def test_a_run_is_read_back(run):
    record = load_run(run)
    assert (record.label, record.workers, record.lr, record.seed) == ("dc-asgd-a", 4, 0.2, 7)
    assert [r["version"] for r in record.evaluations] == [0, 90, 180]
    assert (record.status, record.diverged, record.clock) == ("finished", False, "virtual")
    assert (record.metric.name, record.metric.scale, record.metric.axis) == ("error", METRIC["scale"], "error (%)")
    assert record.environment["torch"] == "2.13.0"


def test_a_rule_without_a_label_is_its_own_label(run):
    fields = config("dc-asgd-a") | {"label": None}
    (run / "config.json").write_text(json.dumps(fields))
    assert load_run(run).label == "dc-asgd-a"


def test_a_real_engine_counts_wall_time(run):
    (run / "config.json").write_text(json.dumps(config(engine="local")))
    assert load_run(run).clock == "wall"


def test_events_come_in_order_and_by_kind(run):
    record = load_run(run)
    assert record.header()["workers"] == 4
    assert [event[0] for event in record.events()] == ["pull", "commit"] * 5
    assert [event[2] for event in record.events("commit")] == [1, 2, 3, 4, 5]


def test_a_torn_last_line_of_the_log_is_left_out(run):
    text = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(text[:-20])
    assert [event[2] for event in load_run(run).events("commit")] == [1, 2, 3, 4]


def test_events_are_read_over_all_segments(run):
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log-000001.jsonl.gz").write_bytes(gzip.compress("".join(lines[:4]).encode()))
    (run / "log-000002.jsonl").write_text("".join(lines[4:7]))
    (run / "log.jsonl").write_text("".join(lines[7:]))
    record = load_run(run)
    assert record.header()["workers"] == 4
    assert [event[2] for event in record.events("commit")] == [1, 2, 3, 4, 5]


def test_a_broken_line_inside_the_log_is_an_error(run):
    lines = (run / "log.jsonl").read_text().splitlines()
    lines[4] = lines[4][:10]
    (run / "log.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunDirectoryError, match=r"log\.jsonl is damaged \(line 5"):
        list(load_run(run).events())


def test_a_log_without_header_is_refused(run):
    (run / "log.jsonl").write_text('["join", 0.0, 0, 0]\n')
    with pytest.raises(RunDirectoryError, match="does not begin with a header"):
        load_run(run).header()


def test_a_torn_last_evaluation_is_left_out(run):
    (run / "summary.json").unlink()
    text = (run / "evaluations.jsonl").read_text()
    (run / "evaluations.jsonl").write_text(text[:-15])
    record = load_run(run)
    assert [r["version"] for r in record.evaluations] == [0, 90]
    assert record.status == "unfinished"
    assert record.metric is None


def test_a_run_that_has_only_begun_is_readable(run):
    for name in ("summary.json", "evaluations.jsonl", "environment.json", "log.jsonl"):
        (run / name).unlink()
    record = load_run(run)
    assert (record.evaluations, record.environment, record.status) == ((), {}, "unfinished")
    with pytest.raises(RunDirectoryError, match=r"log\.jsonl is missing"):
        list(record.events())


@pytest.mark.parametrize("name", ["config.json", "environment.json", "evaluations.jsonl"])
def test_a_missing_file_of_an_ended_run_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(RunDirectoryError, match=rf"{name} is missing.*(Type|Train)"):
        load_run(run)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "summary.json"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_file_is_named(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(RunDirectoryError, match=rf"{name} is damaged.*Delete"):
        load_run(run)


def test_a_newer_format_is_refused(run):
    (run / "config.json").write_text(json.dumps(config() | {"format": 2}))
    with pytest.raises(RunDirectoryError, match="format 2, this version reads 1"):
        load_run(run)


def test_a_foreign_config_is_refused(run):
    (run / "config.json").write_text(json.dumps({"format": 1, "rule": "asgd"}))
    with pytest.raises(RunDirectoryError, match="lacks workers, lr, seed, task"):
        load_run(run)


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    write_cell(tmp_path / "a" / "b", "asgd", test=(0.1, 0.2))
    write_cell(tmp_path / "c", "dc-asgd", test=(0.3,))
    (tmp_path / "a" / "b" / "asgd-w16-lr0.1-s0" / "checkpoint").mkdir()
    (tmp_path / "a" / "b" / "asgd-w16-lr0.1-s0" / "checkpoint" / "config.json").write_text("{}")
    assert len(find_runs(tmp_path)) == 3
    assert len(find_runs([tmp_path / "a", tmp_path / "a" / "b" / "asgd-w16-lr0.1-s1"])) == 2
    assert [run.label for run in find_runs([tmp_path / "c", tmp_path / "a"])] == ["dc-asgd", "asgd", "asgd"]


def test_a_place_without_runs_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"holds no run.*Type"):
        find_runs(tmp_path)
    with pytest.raises(RunDirectoryError, match="does not exist"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match="no run was given"):
        find_runs([])


def test_the_plan_beside_the_runs_is_found(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.1,))
    assert find_plan(find_runs(tmp_path)) == {}
    write_plan(tmp_path, ["dc-asgd", "asgd"], recipe_lr=0.5)
    assert find_plan(find_runs(tmp_path))["recipe_lr"] == 0.5
