"""One run's numbers, each recomputed here from the values that were written."""

import math

import pytest
from fake_runs import config, evaluations, summary, write_run

from tardigrad.metrics.runs import Metric, load_run
from tardigrad.metrics.scores import choice_basis, choice_score, curve, metric_of, score

PERCENT = Metric("error", 100.0, "%")


@pytest.fixture
def scored(tmp_path):
    def make(test, validation=None, *, status="finished", metric=PERCENT, **fields):
        records = evaluations(test, validation, diverged=status == "diverged", metric=metric.name)
        run = write_run(tmp_path / "run", config=config(**fields), evaluations=records, summary=summary(status))
        return score(load_run(run), metric)

    return make


def test_last_best_and_mean_of_the_last_ten(scored):
    values = [0.60, 0.59, 0.58, 0.57, 0.56, 0.55, 0.54, 0.53, 0.52, 0.51, 0.50, 0.40]
    values += [0.01, 0.30, 0.29, 0.28, 0.27, 0.26, 0.25, 0.24, 0.23, 0.22]
    test = scored(values).test
    assert test.final == pytest.approx(22.0)
    assert test.best == pytest.approx(1.0)
    assert test.best_epoch == 13.0
    assert test.last_ten == pytest.approx(100 * sum(values[-10:]) / 10)
    assert test.averaged == 10


def test_version_0_never_counts(scored):
    # The writer puts 0.9 at version 0: it would be the best of these, and make the mean one over two.
    test = scored([0.95, 0.94, 0.93]).test
    assert (test.best, test.averaged) == (pytest.approx(93.0), 1)
    assert test.last_ten == pytest.approx(93.0)


@pytest.mark.parametrize(("length", "averaged"), [(1, 1), (2, 1), (4, 2), (9, 4), (19, 9), (20, 10), (21, 10)])
def test_the_mean_takes_in_at_most_the_last_half(scored, length, averaged):
    values = [0.9 - 0.01 * i for i in range(length)]
    test = scored(values).test
    assert test.averaged == averaged
    assert test.last_ten == pytest.approx(100 * sum(values[-averaged:]) / averaged)


def test_of_equal_bests_the_earliest_epoch_is_named(scored):
    assert scored([0.3, 0.2, 0.2]).test.best_epoch == 2.0


def test_where_higher_is_better_the_best_is_the_highest(scored):
    test = scored([0.3, 0.8, 0.5], metric=Metric("accuracy", 100.0, "%", lower_is_better=False)).test
    assert (test.best, test.best_epoch) == (pytest.approx(80.0), 2.0)


def test_a_diverged_run_is_worth_its_diverged_weights(scored):
    test = scored([0.02] * 11 + [0.92], status="diverged").test
    assert (test.last_ten, test.averaged) == (pytest.approx(92.0), 1)
    assert test.best == pytest.approx(2.0)


def test_a_number_missing_among_the_last_ten_leaves_no_mean(scored):
    test = scored([0.4, 0.3, None, 0.1]).test
    assert test.last_ten is None
    assert test.best == pytest.approx(10.0)
    assert scored([0.4, None, 0.2, 0.1]).test.last_ten == pytest.approx(15.0)


def test_a_split_that_was_not_measured_has_no_numbers(scored):
    validation = scored([0.2, 0.1]).validation
    assert (validation.final, validation.best, validation.last_ten, validation.averaged) == (None, None, None, 0)


def test_the_rate_is_chosen_by_validation_never_by_test(scored):
    scores = scored([0.5] * 12, [0.1] * 12)
    assert choice_basis([scores]) == "validation"
    assert choice_score(scores, "validation", PERCENT) == pytest.approx(10.0)


def test_without_validation_the_training_loss_chooses(scored):
    scores = scored([0.5] * 12)
    assert choice_basis([scores]) == "training loss"
    assert choice_score(scores, "training loss", PERCENT) == pytest.approx(2.3 * 0.5)


def test_a_run_without_a_number_is_chosen_last(scored):
    assert choice_score(scored([0.5, None]), "training loss", PERCENT) == math.inf
    assert choice_score(scored([0.5, 0.4]), "validation", PERCENT) == math.inf


def test_higher_is_better_turns_the_choice_around(scored):
    accuracy = Metric("accuracy", 1.0, "", lower_is_better=False)
    assert choice_score(scored([0.5], [0.7], metric=accuracy), "validation", accuracy) == pytest.approx(-0.7)


def test_a_curve_leaves_out_version_0_and_missing_numbers(scored):
    run = scored([0.5, None, 0.3]).run
    assert curve(run, "test", PERCENT) == ([1.0, 3.0], [pytest.approx(50.0), pytest.approx(30.0)])
    assert curve(run, "test", PERCENT, against="time")[0] == [10.0, 30.0]


def test_the_metric_of_an_unfinished_run_is_guessed(tmp_path):
    records = evaluations([0.5], metric="distance")
    run = load_run(write_run(tmp_path / "a", config=config(), evaluations=records))
    assert metric_of([run]).name == "distance"
    run = load_run(write_run(tmp_path / "b", config=config(), evaluations=evaluations([0.5])))
    assert metric_of([run]) == PERCENT
