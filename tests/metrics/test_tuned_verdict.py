"""The verdict on a tuned comparison: its sentences, with numbers from the table in tuned_example."""

import pytest
from tuned_example import arms, read, series
from tuned_runs import Arm

from tardigrad.metrics.tuned_verdict import subject
from tardigrad.metrics.verdict import verdict


def told(result, title):
    return next(list(section.sentences) for section in result.sections if section.title.startswith(title))


@pytest.fixture
def result(tmp_path):
    return verdict(read(tmp_path))


def test_the_headline_says_best_against_best_and_the_untouched_recipe(tmp_path):
    controls = {"its-length": ((0.44,) * 5, (0.46,) * 5)}
    every = arms() | {"clipping": Arm(0.1, (0.44,) * 5, (0.50,) * 5)}
    assert verdict(read(tmp_path, every, controls=controls)).headline == (
        "With 8 workers, best against best, dc-asgd-a ends at 43.5 ± 1.00 % error (lr 0.1, lambda0=8.0): 1.50 points "
        "better than asgd (lr 0.05; 95 % interval 0.88 to 2.12) and 4.70 points worse than sequential (lr 0.4; 95 % "
        "interval 3.49 to 5.91). At the untouched recipe it ends at 45.8 ± 0.84 %: 12.6 points better than asgd (lr "
        "0.2; 95 % interval 10.5 to 14.7) and 4.80 points worse than sequential (lr 0.2; 95 % interval 4.24 to 5.36)."
    )


def test_the_headline_says_how_many_seeds_a_small_difference_needs(tmp_path):
    every = arms()
    del every["dc-asgd"]
    every["dc-asgd-a"].best = (0.45, 0.455, 0.44, 0.46, 0.435)  # 0, 0.5, 0, -0.5, 1 points better
    assert (
        "0.20 points better than asgd (lr 0.05; 95 % interval -0.51 to 0.91; within noise; 5 seeds, a difference of "
        "this size needs 66)" in verdict(read(tmp_path, every)).headline
    )


def test_the_sections_in_order(result):
    assert [section.title for section in result.sections] == [
        "Best against best",
        "The untouched recipe",
        "Time to the same quality",
        "Which learning rates each tolerates",
        "To keep in mind",
    ]


def test_best_against_best_sorts_and_says_where_more_seeds_are_needed(tmp_path):
    every = arms()
    every["dc-asgd"].best = (0.45, 0.455, 0.44, 0.46, 0.435)  # 0, 0.5, 0, -0.5, 1 points better: mean 0.2, std 0.5701
    found = told(verdict(read(tmp_path, every)), "Best")
    assert found[0].startswith(
        "Each algorithm at the learning rate, and where it was tried the strength, that its trial"
    )
    assert "Reported seeds: 1, 2, 3, 4 and 5; trial runs: 0." in found[0]
    assert found[1:4] == [
        "With 8 workers, asgd at learning rate 0.05 ends at 45.0 ± 0.79 % over 5 seeds.",
        "Better than asgd: dc-asgd-a by 1.50 points (lr 0.1, lambda0=8.0; 95 % interval 0.88 to 2.12).",
        # (0.5701 / 0.2)^2 * 7.85 is 64; Student's t adds two.
        "Within noise of asgd: dc-asgd 0.20 points better (lr 0.2; 95 % interval -0.51 to 0.91; needs 66 seeds).",
    ]


def test_sequential_that_wins_is_said_to_win(result):
    assert told(result, "Best")[-1].startswith("With 8 workers, sequential training ends better than every parallel")


def test_the_recipe_names_penalties_and_own_losses(result):
    found = told(result, "The untouched")
    assert found[0] == (
        "At learning rate 0.2, the recipe's own, sequential ends at 41.0 ± 0.71 %. What the others lose against that:"
    )
    assert found[1:4] == [
        "With 8 workers, dc-asgd: 2.60 points (95 % interval 0.72 to 4.48).",
        "With 8 workers, dc-asgd-a: 4.80 points (95 % interval 4.24 to 5.36).",
        "With 8 workers, asgd: 17.4 points (95 % interval 15.7 to 19.1).",
    ]
    assert found[4] == (
        "Better than asgd: dc-asgd-a by 12.6 points (lr 0.2; 95 % interval 10.5 to 14.7); dc-asgd by 14.8 points "
        "(lr 0.2; 95 % interval 13.8 to 15.8)."
    )
    assert found[5] == "Against its own best point, sequential: 2.20 points (95 % interval 1.16 to 3.24)."
    assert found[6] == (
        "With 8 workers, what each loses there against its own best point: asgd: 13.4 points (95 % interval 12.6 to "
        "14.2); dc-asgd-a: 2.30 points (95 % interval 0.46 to 4.14; needs 6 seeds); nothing dc-asgd, whose best point "
        "is the untouched recipe."
    )


def test_an_algorithm_that_has_not_run_at_the_recipe_is_named(tmp_path):
    every = arms()
    every["dc-asgd-a"].recipe = ()
    assert "With 8 workers, not run at this rate: dc-asgd-a." in told(verdict(read(tmp_path, every)), "The untouched")


def test_synchronous_training_that_ends_better_wins_at_equal_samples(tmp_path):
    every = arms() | {"ssgd": Arm(0.4, (0.41, 0.42, 0.41, 0.43, 0.41), (0.5,) * 5)}
    del every["dc-asgd"]
    found = told(verdict(read(tmp_path, every)), "Synchronous")
    # 2, 3, 2, 1, 1.5 points: mean 1.9, std 0.7416, half width 0.9208.
    assert found[0] == (
        "With 8 workers, best against best and at equal samples, ssgd ends 1.90 points better than dc-asgd-a (lr 0.1, "
        "lambda0=8.0; 95 % interval 0.98 to 2.82): in final error "
        "synchronous training wins."
    )


def test_synchronous_training_that_ends_worse_or_alike_does_not_win(tmp_path):
    every = arms() | {"ssgd": Arm(0.4, (0.47, 0.46, 0.47, 0.48, 0.46), (0.5,) * 5)}
    assert told(verdict(read(tmp_path / "a", every)), "Synchronous")[0].endswith("asynchronous training wins.")
    every["ssgd"].best = (0.43, 0.46, 0.42, 0.45, 0.43)
    assert told(verdict(read(tmp_path / "b", every)), "Synchronous")[0].endswith("neither is shown to win.")


def test_time_to_the_target_and_to_where_asgd_ends(result):
    # The mean curves: + 30, + 15, + 1, - 1 points at 160/workers, 2 x, 3 x, 4 x; sequential ends at 38.8.
    assert told(result, "Time") == [
        "Until the mean curve over the seeds first reaches 40.8 % error, which is 2.00 points worse than sequential "
        "ends; each algorithm at its best point.",
        "With 8 workers, virtual time: sequential 480 s; never asgd, dc-asgd-a and dc-asgd.",
        "With 8 workers, virtual time to 45.0 % error, where asgd ends: dc-asgd 60 s; dc-asgd-a 60 s; asgd 80 s; "
        "sequential 480 s.",
    ]


def test_the_faster_of_synchronous_and_asynchronous_is_named(tmp_path):
    every = arms() | {"ssgd": Arm(0.4, (0.41, 0.42, 0.41, 0.43, 0.41), (0.5,) * 5)}
    del every["dc-asgd"]
    found = told(verdict(read(tmp_path, every)), "Synchronous")
    # ssgd's last evaluation is at 40.6 %; dc-asgd-a, in the mean, never is below 42.5 %.
    assert found[1] == (
        "With 8 workers, virtual time to 40.8 % error: ssgd 80 s, dc-asgd-a never; synchronous training is there first."
    )


def test_where_neither_gets_there_the_worse_end_is_the_target(tmp_path):
    every = arms() | {"ssgd": Arm(0.4, (0.47, 0.46, 0.47, 0.48, 0.46), (0.5,) * 5)}
    del every["dc-asgd"]
    found = told(verdict(read(tmp_path, every)), "Synchronous")
    assert found[1] == (
        "With 8 workers, virtual time to 46.8 % error, where the worse of the two ends: ssgd 80 s, dc-asgd-a 60 s; "
        "asynchronous training is there first."
    )


def test_windows_come_from_the_trial_runs(result):
    found = told(result, "Which")
    assert found[0] == "From the trial runs (seed 0, validation data)."
    assert found[1].startswith("Learning rates tried: 0.05, 0.1, 0.2 and 0.4. A rate is tolerated when")
    assert "asgd, 8 workers: 0.05 alone, up to the smallest tried (40.0 % at 0.05)." in found
    assert found[-1] == (
        "dc-asgd-a, 8 workers, at 0.1, trial runs on validation: lambda0=2.0 40.0 %; lambda0=8.0 38.0 % (chosen)."
    )


def test_what_to_keep_in_mind(result):
    found = told(result, "To keep")
    assert "Each interval is 95 % on its own: of many, one in twenty excludes 0 by chance." in found
    assert any(sentence.startswith("How many seeds a difference needs is computed") for sentence in found)
    assert any(sentence.startswith("Learning rates were chosen on seed 0 alone") for sentence in found)
    assert any("may lie outside: sequential with 1 worker (0.4, the largest)" in sentence for sentence in found)
    assert "Runs have fewer than 20 evaluations: the mean of the last 10 is over the last 2." in found


def test_an_algorithm_for_which_the_trials_chose_badly_is_named(tmp_path):
    every = arms()
    every["sequential"].recipe = (0.37, 0.38, 0.36, 0.39, 0.37)  # 1 1 2 1 2 points better than at its "best" point
    found = told(verdict(read(tmp_path, every)), "To keep")
    assert found[0] == (
        "The trials chose badly for sequential with 1 worker by 1.40 points (95 % interval 0.72 to 2.08): so much "
        "better does it end at the untouched recipe than at its best point. Best against best is unfair to it."
    )


def test_the_subject_is_the_rule_the_controls_spoil_else_the_best_asynchronous_one(tmp_path):
    c = read(tmp_path / "a")
    assert subject(c, 8).label == "dc-asgd-a"  # 43.5 against dc-asgd's 43.6, on validation data
    every = arms()
    every["dc-asgd"].best = (0.42,) * 5
    assert subject(read(tmp_path / "b", every), 8).label == "dc-asgd"
    treated = read(tmp_path / "c", every, controls={"its-length": ((0.44,) * 5, ())})
    assert subject(treated, 8).label == "dc-asgd-a"


def test_one_algorithm_so_far_is_nothing_to_compare(tmp_path):
    every = {"sequential": arms()["sequential"]}
    result = verdict(read(tmp_path, every))
    assert result.headline == "So far there are runs of sequential (1 worker): nothing to compare."


def test_a_series_without_a_best_point_yet_is_not_compared(tmp_path):
    every = arms()
    every["dc-asgd-a"].best = ()
    c = read(tmp_path, every)
    assert series(c, "dc-asgd-a").chosen is None
    start = "This comparison is not whole yet. With 8 workers, best against best, dc-asgd "
    assert verdict(c).headline.startswith(start)
