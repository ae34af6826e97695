"""Comparisons: the grid, what a second call does, and what happens to a run that fails."""

import json

import pytest

from tardigrad.compare import Comparison, finished_status, make_comparison, run_comparison
from tardigrad.errors import RunDirectoryError, UnknownName
from tardigrad.recipes import load_recipe


def tiny(**grid):
    base = load_recipe("quadratic").replace(epochs=1, batch_size=128)
    return Comparison(base, **{"algorithms": ("sequential", "asgd", "dc-asgd"), "seeds": (0, 1), **grid})


def test_the_grid_is_every_combination_once():
    grid = tiny(workers=(2, 4), lrs=(0.1, 0.2))
    runs = grid.runs()
    # the sequential runs are the same for 2 and for 4 workers
    assert len(runs) == 2 * 2 * (2 * 2 + 1)
    assert len({config.directory_name for config in runs}) == len(runs)
    assert {config.workers for config in runs if config.label == "sequential"} == {1}
    assert {config.workers for config in runs if config.label == "asgd"} == {2, 4}


def test_presets_are_what_they_are_called():
    grid = make_comparison(
        "digits", algorithms=("ssgd", "ssgd-linear", "sequential", "dc-asgd-a(lambda0=4)"), seeds=(0,)
    )
    ssgd, linear, sequential, compensated = grid.runs()
    assert ssgd.consistency == "synchronous"
    assert ssgd.rule == "asgd"
    assert "linear" in linear.consistency
    assert sequential.workers == 1
    assert compensated.label == "dc-asgd-a(lambda0=4)"
    assert "lambda0=4" in compensated.rule
    assert "mean_square_decay=0.95" in compensated.rule


def test_a_second_call_runs_nothing_again(tmp_path):
    first = run_comparison(tiny(), tmp_path / "out")
    assert [outcome.status for outcome in first] == ["finished"] * 6
    assert not any(outcome.reused for outcome in first)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("summary.json")}
    second = run_comparison(tiny(), tmp_path / "out")
    assert all(outcome.reused for outcome in second)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("summary.json")}


def test_a_larger_grid_runs_only_what_is_new(tmp_path):
    run_comparison(tiny(), tmp_path / "out")
    outcomes = run_comparison(tiny(seeds=(0, 1, 2)), tmp_path / "out")
    assert sum(outcome.reused for outcome in outcomes) == 6
    assert sum(not outcome.reused for outcome in outcomes) == 3
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("damage", ["no summary", "interrupted"])
def test_an_unfinished_run_is_run_anew(tmp_path, damage):
    run_comparison(tiny(), tmp_path / "out")
    place = tmp_path / "out" / tiny().runs()[1].directory_name
    whole = (place / "weights.safetensors").read_bytes()
    if damage == "no summary":
        (place / "summary.json").unlink()
    else:
        summary = json.loads((place / "summary.json").read_text())
        (place / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    (place / "weights.safetensors").write_bytes(b"torn")
    outcomes = run_comparison(tiny(), tmp_path / "out")
    assert sum(not outcome.reused for outcome in outcomes) == 1
    assert finished_status(place, tiny().runs()[1]) == "finished"
    assert (place / "weights.safetensors").read_bytes() == whole


def test_side_by_side_gives_the_same_results_as_in_turn(tmp_path):
    run_comparison(tiny(), tmp_path / "turn")
    run_comparison(tiny(), tmp_path / "side", jobs=2)
    for config in tiny().runs():
        one, two = (tmp_path / name / config.directory_name / "weights.safetensors" for name in ("turn", "side"))
        assert one.read_bytes() == two.read_bytes()


def test_a_diverged_run_is_a_result_and_is_not_run_again(tmp_path):
    grid = tiny(algorithms=("asgd",), lrs=(500.0,), seeds=(0,))
    grid = Comparison(grid.base.replace(epochs=30), grid.algorithms, grid.workers, grid.lrs, grid.seeds)
    assert [outcome.status for outcome in run_comparison(grid, tmp_path / "out")] == ["diverged"]
    assert [outcome.reused for outcome in run_comparison(grid, tmp_path / "out")] == [True]


def test_a_failing_run_does_not_stop_the_others(tmp_path):
    base = load_recipe("quadratic").replace(epochs=1, speeds=(1.0, 1.0, 1.0))  # three speeds for other than 3 workers
    outcomes = run_comparison(Comparison(base, ("sequential", "asgd"), workers=(8,), seeds=(0,)), tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["finished", "failed"]
    assert "3 factors for 8 workers" in outcomes[1].message


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunDirectoryError, match="not a comparison"):
        run_comparison(tiny(), tmp_path)


def test_an_unknown_algorithm_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UnknownName, match="nothing"):
        run_comparison(tiny(algorithms=("asgd", "nothing")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_defaults_is_not_taken_for_this_one(tmp_path):
    grid = tiny(algorithms=("asgd",), seeds=(0,))
    run_comparison(grid, tmp_path / "out")
    place = tmp_path / "out" / grid.runs()[0].directory_name
    stored = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(stored | {"straggler_factor": 11.0}))
    assert finished_status(place, grid.runs()[0]) is None
    before = (place / "summary.json").read_bytes()
    (outcome,) = run_comparison(grid, tmp_path / "out")
    assert outcome.status == "failed"
    assert "finished run" in outcome.message
    assert (place / "summary.json").read_bytes() == before


def test_a_comparison_stops_in_time_and_goes_on(tmp_path, monkeypatch):
    whole = run_comparison(tiny(), tmp_path / "whole")
    asked = iter([False] * 4 + [True] * 100)  # the clock of the first run runs out after a few commits
    monkeypatch.setattr("tardigrad.compare.time.time", lambda: 2.0 if next(asked) else 0.0)
    first = run_comparison(tiny(), tmp_path / "out", deadline=1.0)
    assert [outcome.status for outcome in first] == ["stopped"] * 6
    begun = tmp_path / "out" / tiny().runs()[0].directory_name
    assert "stopped at version 4" in first[0].message  # one question before the run, four after commits
    assert [path for path in (tmp_path / "out").iterdir() if path.is_dir()] == [begun]
    monkeypatch.undo()
    second = run_comparison(tiny(), tmp_path / "out")
    assert [outcome.status for outcome in second] == ["finished"] * 6
    for outcome in whole:
        one, two = (tmp_path / name / outcome.config.directory_name for name in ("whole", "out"))
        for file in ("weights.safetensors", "log.jsonl"):
            assert (one / file).read_bytes() == (two / file).read_bytes()
