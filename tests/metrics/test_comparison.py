"""Cells, choices, paired differences and windows, against numbers computed beside them."""

import statistics

import pytest
from fake_runs import RULES, config, evaluations, summary, write_cell, write_plan, write_run
from scipy import stats

from tardigrad.errors import RunDirectoryError
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs


def series(comparison, label, workers=16):
    return next(s for s in comparison.series if (s.label, s.workers) == (label, workers))


def test_mean_and_spread_over_seeds(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.010, 0.020, 0.060))
    cell = series(compare_runs(find_runs(tmp_path)), "asgd").cells[0]
    assert cell.seeds == (0, 1, 2)
    stat = cell.last_ten("test")
    assert stat.mean == pytest.approx(3.0)
    assert stat.std == pytest.approx(statistics.stdev([1.0, 2.0, 6.0]))
    assert stat.count == 3


def test_the_rate_is_chosen_on_validation_though_test_says_otherwise(tmp_path):
    write_cell(tmp_path, "asgd", lr=0.1, test=(0.01, 0.01), validation=(0.30, 0.30))
    write_cell(tmp_path, "asgd", lr=0.2, test=(0.50, 0.50), validation=(0.20, 0.20))
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.basis == "validation"
    assert series(comparison, "asgd").chosen.lr == 0.2


def test_of_equally_good_rates_the_smallest_is_chosen(tmp_path):
    for lr in (0.3, 0.1, 0.2):
        write_cell(tmp_path, "asgd", lr=lr, test=(0.02,))
    assert series(compare_runs(find_runs(tmp_path)), "asgd").chosen.lr == 0.1


def test_each_worker_count_chooses_its_own_rate(tmp_path):
    for workers, best in ((4, 0.2), (8, 0.1)):
        for lr in (0.1, 0.2):
            write_cell(tmp_path, "asgd", workers=workers, lr=lr, test=(0.01 if lr == best else 0.05,))
    comparison = compare_runs(find_runs(tmp_path))
    assert [series(comparison, "asgd", w).chosen.lr for w in (4, 8)] == [0.2, 0.1]
    assert comparison.worker_counts == [4, 8]


def test_without_validation_the_training_loss_chooses(tmp_path):
    write_cell(tmp_path, "asgd", lr=0.1, test=(0.05,), validation=None)
    write_cell(tmp_path, "asgd", lr=0.2, test=(0.03,), validation=None)
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.basis == "training loss"
    assert series(comparison, "asgd").chosen.lr == 0.2


def test_paired_differences_are_scipys(tmp_path):
    ours, theirs = (0.012, 0.031, 0.018, 0.022), (0.025, 0.037, 0.016, 0.041)
    write_cell(tmp_path, "dc-asgd", test=ours)
    write_cell(tmp_path, "asgd", test=theirs)
    comparison = compare_runs(find_runs(tmp_path))
    paired = comparison.paired(series(comparison, "dc-asgd").chosen, series(comparison, "asgd").chosen)
    expected = stats.ttest_rel([100 * v for v in theirs], [100 * v for v in ours]).confidence_interval(0.95)
    assert paired.mean == pytest.approx(100 * (sum(theirs) - sum(ours)) / 4)
    assert paired.interval == pytest.approx((expected.low, expected.high))
    assert paired.clear == (expected.low > 0)


def test_only_seeds_both_have_are_paired(tmp_path):
    write_cell(tmp_path, "dc-asgd", test=(0.01, 0.02))
    write_cell(tmp_path, "asgd", test=(0.03, 0.05, 0.99))
    comparison = compare_runs(find_runs(tmp_path))
    paired = comparison.paired(series(comparison, "dc-asgd").chosen, series(comparison, "asgd").chosen)
    assert paired.seeds == (0, 1)
    assert paired.differences == pytest.approx((2.0, 3.0))


def test_one_seed_has_no_interval_and_no_seed_no_pair(tmp_path):
    write_cell(tmp_path, "dc-asgd", test=(0.01,))
    write_cell(tmp_path, "asgd", test=(0.03,))
    write_run(tmp_path / "other", config=config("ssgd", seed=9), evaluations=evaluations([0.1]), summary=summary())
    comparison = compare_runs(find_runs(tmp_path))
    ours, asgd, other = (series(comparison, label).chosen for label in ("dc-asgd", "asgd", "ssgd"))
    paired = comparison.paired(ours, asgd)
    assert (paired.interval, paired.clear, paired.mean) == (None, False, pytest.approx(2.0))
    assert comparison.paired(ours, other) is None


def test_where_higher_is_better_the_advantage_turns(tmp_path):
    metric = {"name": "accuracy", "scale": 100.0, "unit": "%", "lower_is_better": False}
    for label, value in (("dc-asgd", 0.9), ("asgd", 0.8)):
        for lr, less in ((0.1, 0.0), (0.2, 0.3)):
            write_run(
                tmp_path / f"{label}{lr}",
                config=config(label, lr=lr),
                evaluations=evaluations([value - less], "same", metric="accuracy"),
                summary=summary(metric=metric),
            )
    comparison = compare_runs(find_runs(tmp_path))
    ours, theirs = series(comparison, "dc-asgd"), series(comparison, "asgd")
    assert (ours.chosen.lr, theirs.chosen.lr) == (0.1, 0.1)
    assert comparison.paired(ours.chosen, theirs.chosen).mean == pytest.approx(10.0)
    assert comparison.window(ours).lrs == (0.1,)


def ladder(tmp_path, values, **fields):
    for lr, value in values.items():
        write_cell(tmp_path, "dc-asgd", lr=lr, test=(value, value), **fields)


def test_the_window_is_what_stays_within_tolerance(tmp_path):
    ladder(tmp_path, {0.01: 0.16, 0.03: 0.029, 0.1: 0.010, 0.2: 0.030, 0.3: 0.031})
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.tolerance == 2.0
    window = comparison.window(series(comparison, "dc-asgd"))
    assert window.lrs == (0.03, 0.1, 0.2)
    assert window.factor == pytest.approx(0.2 / 0.03)
    assert (window.open_below, window.open_above) == (False, False)
    wider = compare_runs(find_runs(tmp_path), tolerance=2.2)
    assert wider.window(series(wider, "dc-asgd")).open_above


def test_the_window_has_no_gap_and_ends_at_a_diverged_seed(tmp_path):
    ladder(tmp_path, {0.01: 0.011, 0.03: 0.16, 0.1: 0.010})
    write_cell(tmp_path, "dc-asgd", lr=0.2, test=(0.011, 0.012), diverged=(1,))
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.window(series(comparison, "dc-asgd")).lrs == (0.1,)
    assert series(comparison, "dc-asgd").diverged == 1


def test_an_algorithm_that_diverges_at_its_chosen_rate_tolerates_none(tmp_path):
    write_cell(tmp_path, "asgd", lr=0.1, test=(0.02, 0.92), diverged=(1,))
    comparison = compare_runs(find_runs(tmp_path))
    window = comparison.window(series(comparison, "asgd"))
    assert (window.lrs, window.factor) == ((), 1.0)


def test_time_to_a_target(tmp_path):
    records = evaluations([0.5, 0.2, 0.1, 0.15], "same", time=3.0)
    write_run(tmp_path / "a", config=config(), evaluations=records, summary=summary())
    comparison = compare_runs(find_runs(tmp_path))
    cell = comparison.series[0].chosen
    assert comparison.time_to(cell, 20.0) == [6.0]
    assert comparison.time_to(cell, 10.0) == [9.0]
    assert comparison.time_to(cell, 9.0) == [None]


def test_a_diverged_run_arrives_nowhere(tmp_path):
    records = evaluations([0.1, 0.9], time=3.0, diverged=True)
    write_run(tmp_path / "a", config=config(), evaluations=records, summary=summary("diverged"))
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.time_to(comparison.series[0].chosen, 20.0) == [None]


def test_the_recipes_rate_comes_from_argument_plan_or_sequential(tmp_path):
    write_cell(tmp_path, "sequential", workers=1, lr=0.1, test=(0.05,))
    write_cell(tmp_path, "sequential", workers=1, lr=0.2, test=(0.01,))
    write_cell(tmp_path, "asgd", lr=0.2, test=(0.05,))
    runs = find_runs(tmp_path)
    assert compare_runs(runs).recipe_lr == 0.2
    assert "sequential" in compare_runs(runs).recipe_lr_source
    write_plan(tmp_path, ["sequential", "asgd"], recipe_lr=0.1)
    assert compare_runs(runs).recipe_lr == 0.1
    assert compare_runs(runs, recipe_lr=0.3).recipe_lr == 0.3


def test_algorithms_keep_the_plans_order(tmp_path):
    for label in ("asgd", "dc-asgd", "mine"):
        write_cell(tmp_path, label, test=(0.05,))
    assert [s.label for s in compare_runs(find_runs(tmp_path)).series] == ["asgd", "dc-asgd", "mine"]
    write_plan(tmp_path, ["mine", "dc-asgd", "asgd"])
    assert [s.label for s in compare_runs(find_runs(tmp_path)).series] == ["mine", "dc-asgd", "asgd"]


def test_without_a_plan_algorithms_stand_in_an_order_of_their_own(tmp_path):
    for label in ("clipping", "its-length", "dc-asgd", "mine", "m-synchronous", "asgd", "sign-flipped", "ssgd"):
        write_cell(tmp_path, label, test=(0.05,))
    assert [s.label for s in compare_runs(find_runs(tmp_path)).series] == [
        "ssgd", "m-synchronous", "asgd", "dc-asgd", "clipping", "sign-flipped", "its-length", "mine",
    ]  # fmt: skip


def test_unfinished_and_interrupted_runs_are_left_out_and_named(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.02, 0.04))
    records = evaluations([0.9])
    write_run(tmp_path / "killed", config=config(seed=2), evaluations=records)
    write_run(tmp_path / "stopped", config=config(seed=3), evaluations=records, summary=summary("interrupted"))
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.series[0].chosen.last_ten("test").mean == pytest.approx(3.0)
    assert comparison.left_out == ("2 of 4 runs have not ended and are left out: killed, stopped.",)


def test_a_run_under_way_can_be_looked_at(tmp_path):
    write_run(tmp_path / "a", config=config(), evaluations=evaluations([0.9, 0.5]))
    comparison = compare_runs(find_runs(tmp_path))
    assert comparison.series[0].chosen.scores[0].test.final == pytest.approx(50.0)
    assert "No run has ended" in comparison.left_out[0]


def test_a_repeated_run_counts_once(tmp_path):
    write_cell(tmp_path / "first", "asgd", test=(0.02,))
    write_cell(tmp_path / "again", "asgd", test=(0.02,))
    comparison = compare_runs(find_runs(tmp_path))
    assert len(comparison.runs) == 1
    assert "repeats" in comparison.left_out[0]


def test_one_label_with_two_configurations_is_two_algorithms(tmp_path):
    stronger = RULES["dc-asgd-a"].replace("lambda0=2.0", "lambda0=8.0")
    write_cell(tmp_path / "a", "dc-asgd-a", test=(0.02,))
    write_cell(tmp_path / "b", "dc-asgd-a", test=(0.06,), rule=stronger)
    labels = [s.label for s in compare_runs(find_runs(tmp_path)).series]
    assert labels == ["dc-asgd-a (lambda0=2.0)", "dc-asgd-a (lambda0=8.0)"]
    write_cell(tmp_path / "c", "asgd", test=(0.02,))
    write_cell(tmp_path / "d", "asgd", test=(0.06,), schedule="constant")
    labels = [s.label for s in compare_runs(find_runs(tmp_path)).series]
    assert "asgd (schedule=constant)" in labels


def test_several_tasks_are_refused(tmp_path):
    write_cell(tmp_path / "a", "asgd", test=(0.02,))
    write_cell(tmp_path / "b", "asgd", test=(0.02,), task="quadratic")
    with pytest.raises(RunDirectoryError, match="several tasks \\(digits, quadratic\\)"):
        compare_runs(find_runs(tmp_path))
    with pytest.raises(RunDirectoryError, match="no run"):
        compare_runs([])


def test_the_tolerance_of_a_metric_without_percent_is_a_tenth_of_the_best(tmp_path):
    metric = {"name": "loss", "scale": 1.0, "unit": "", "lower_is_better": True}
    write_run(
        tmp_path / "a",
        config=config(),
        evaluations=evaluations([0.5], "same", metric="distance"),
        summary=summary(metric=metric | {"name": "distance"}),
    )
    assert compare_runs(find_runs(tmp_path)).tolerance == pytest.approx(0.05)
