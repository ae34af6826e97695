"""The benchmark of training: a series goes on where it stopped, and its tables show losses as plainly as gains."""

import json
from pathlib import Path

import pytest

from benchmark_scripts import load, quick

RACE = {
    "slow": ("batch by speed",), "stragglers": ("plain loop", "Hogwild"), "churn": ("DDP", "dc-asgd"),
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmark():
    return load("training")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A quick one: its words, and what it wrote."""
    place = tmp_path_factory.mktemp("series")
    words = ["--journal", str(place / "journal.jsonl")]
    return ["--quick", *words, "--output", str(place / "bench" / "found.json")], quick("training", place, *words)


@pytest.mark.long
@pytest.mark.xdist_group("series")
def test_the_pace_of_every_kind_of_training(series):
    found = series[1]
    assert "synthetic" in found["images"]
    assert found["threads of each worker"] == 1
    rows = {row["case"]: row for row in found["pace"]["mlp"]}
    assert list(rows) == ["plain loop", "simulated, 4 workers", "2 workers, synchronous"]
    for row in rows.values():
        assert row["readings"] == [row["samples/s"]] == [row["lowest"]] == [row["highest"]]
        samples = 16 if "synchronous" in row["case"] else 8  # such a commit is of both workers' batches
        assert row["samples/s"] / row["commits/s"] == pytest.approx(samples, rel=1e-2)
        ratio = row["samples/s"] / rows["plain loop"]["samples/s"]
        assert row["over the plain loop"] == pytest.approx(ratio, abs=1e-3)


@pytest.mark.long
@pytest.mark.xdist_group("series")
def test_the_race_of_every_kind_of_training(series):
    rows = series[1]["race"]
    assert {name: tuple(row["case"] for row in rows if row["scenario"] == name) for name in RACE} == RACE
    for row in rows:
        (reading,) = row["readings"]
        assert row["reached"] == (reading["seconds"] is not None) == (row["median seconds"] is not None)
        if row["reached"]:
            assert reading["best"] <= series[1]["target error"]
            assert reading["seconds"] <= series[1]["limit"]
        assert reading["epochs"] >= 0.0
    (killed,) = (row for row in rows if row["case"] == "DDP")
    assert killed["readings"][0]["lives"] == 2
    assert len(series[1]["scenarios"]) == 4


@pytest.mark.long
@pytest.mark.xdist_group("series")
def test_what_is_done_is_not_done_again(benchmark, series, monkeypatch, capsys):
    words, before = series
    monkeypatch.setattr(benchmark, "RUN", {})
    benchmark.main(words)
    assert "already" in capsys.readouterr().out
    after = json.loads(Path(words[-1]).read_text())
    assert [one for name in ("pace", "race") for one in (before[name], after[name])] == [
        one for name in ("pace", "race") for one in (before[name], before[name])
    ]
    assert len(after["continued"]) == 1
    with pytest.raises(SystemExit, match="of another series"):
        benchmark.main([*words, "--target", "0.7"])


@pytest.mark.long
@pytest.mark.xdist_group("series")
def test_a_line_that_was_being_written_when_the_series_was_killed_is_measured_again(benchmark, series, tmp_path):
    words = series[0]
    whole = Path(words[2]).read_text()
    (tmp_path / "torn.jsonl").write_text(whole[: whole.rindex("found") + 20])
    options = benchmark.parsed(["--quick", "--journal", str(tmp_path / "torn.jsonl")])
    torn = benchmark.Series(options)
    left = [unit for unit in torn.units() if not torn.journal.done(**unit.key)]
    assert [unit.case.name for unit in left] == ["dc-asgd"]
    again = benchmark.Series(options).journal.lines
    assert again[:-1] == torn.journal.lines


def test_a_measurement_that_fails_does_not_end_the_series(benchmark, monkeypatch, tmp_path, capsys):
    def fails(case, measure):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(benchmark, "RUN", dict.fromkeys(benchmark.RUN, fails))
    monkeypatch.setattr(benchmark.Series, "step", lambda series, setting: 0.01)
    with pytest.raises(SystemExit, match="2 measurements failed"):
        benchmark.main(["--quick", "--parts", "race", "--scenarios", "churn"])
    assert "no such luck" in capsys.readouterr().err


def test_a_full_round_of_everything_comes_first(benchmark, tmp_path):
    series = benchmark.Series(benchmark.parsed(["--journal", str(tmp_path / "journal.jsonl")]))
    units = list(series.units())
    turns = [unit.turn for unit in units]
    assert turns == sorted(turns)
    first = [unit for unit in units if unit.turn == 0]
    assert len(units) == 3 * len(first)
    scenarios = {name: [unit.case for unit in first if unit.scenario == name] for name in benchmark.SCENARIOS}
    assert [len(arms) for arms in scenarios.values()] == [10, 12, 10, 10]
    assert {case.speeds for case in scenarios["slow"]} == {(), (1.0, 0.25)}
    assert {case.name: case.batches for case in scenarios["slow"] if case.batches} == {
        "batch by speed": (51, 13), "batch by speed, lr x 2": (51, 13),
    }  # fmt: skip
    assert sum(unit.expected(0.0125) for unit in units) < 75 * 60


def test_a_case_measures_as_many_steps_as_take_as_long_as_one_at_full_speed(benchmark):
    measure = benchmark.Measure("small", "synthetic", "", 1000, steps=100)
    counted = {case.name: measure.counted(case) for case in benchmark.PACE["small"]}
    assert counted["1 worker, asgd"] == counted["plain loop"] == 100
    assert counted["1 worker, slowed 4 x"] == 25
    assert counted["2 workers, one slowed 4 x, asgd"] == 125
    assert counted["2 workers, one slowed 4 x, synchronous"] == counted["2 processes, one slowed 4 x, DDP"] == 50


def line(scenario, case, seed, seconds):
    found = {"seconds": seconds, "epochs": 1.3, "best": 0.4 if seconds else 0.6, "lives": 1}
    return {"scenario": scenario, "case": case, "turn": seed, "found": found}


def test_losses_are_shown_as_plainly_as_gains(benchmark):
    arms = {"plain loop": 20.0, "DDP": 12.0, "SSGD": 10.0, "asgd": 8.0, "dc-asgd": 12.5, "Hogwild": None}
    lines = [line("equal", name, seed, seconds) for name, seconds in arms.items() for seed in (0, 1, 2)]
    lines += [line("slow", *one) for one in (("SSGD", 0, None), ("asgd", 0, 8.0), ("SSGD", 1, None), ("asgd", 1, 9.0))]
    rows = {(row["scenario"], row["case"]): row for row in benchmark.race_rows(lines, batch=32)}
    assert rows["equal", "asgd"]["best synchronous over it"] == 1.25
    assert rows["equal", "dc-asgd"]["best synchronous over it"] == 0.8
    assert rows["equal", "Hogwild"]["best synchronous over it"] == 0.0
    assert "best synchronous over it" not in rows["slow", "asgd"]
    assert rows["slow", "asgd"]["median seconds"] == 8.5
    table = benchmark.markdown({"race": list(rows.values()), "limit": 60.0, "target error": 0.5})
    for cell in ("| asgd | 8.0 (1.25) |", "| dc-asgd | 12.5 (0.80, loss) |", "| SSGD | **10.0** | not within 60 s |"):
        assert cell in table
    assert "| Hogwild | not within 60 s |" in table


def test_half_of_the_seeds_that_do_not_arrive_is_never(benchmark):
    lines = [line("equal", "asgd", seed, 8.0 if seed == 0 else None) for seed in (0, 1)]
    (row,) = benchmark.race_rows(lines, batch=32)
    assert (row["median seconds"], row["reached"], row["of"], row["highest"]) == (None, 1, 2, None)
    (row,) = benchmark.race_rows([*lines, line("equal", "asgd", 2, 10.0)], batch=32)
    assert (row["median seconds"], row["lowest"], row["highest"]) == (10.0, 8.0, None)
