"""The verdict's sentences for a clear win, for noise, for one seed, for divergence and for runs of no comparison."""

import pytest
from fake_runs import config, evaluations, summary, write_cell, write_plan, write_run

from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.grid_verdict import best_parallel
from tardigrad.metrics.runs import find_runs
from tardigrad.metrics.verdict import as_text, verdict


def read(folder, **options):
    return verdict(compare_runs(find_runs(folder), **options))


def sentences(result, title):
    return next(list(section.sentences) for section in result.sections if section.title.startswith(title))


def test_a_clear_win_says_by_how_much_and_how_sure(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.030, 0.034, 0.032))
    write_cell(tmp_path, "dc-asgd", test=(0.010, 0.012, 0.011))
    result = read(tmp_path)
    found = sentences(result, "Each algorithm")
    assert found[0] == "With 16 workers, asgd at learning rate 0.1 ends at 3.20 ± 0.20 % over 3 seeds."
    # Differences 2.0, 2.2, 2.1: mean 2.1, half width 4.3027 * 0.1 / sqrt(3) = 0.248.
    assert found[1] == "Better than asgd: dc-asgd by 2.10 points (lr 0.1; 95 % interval 1.85 to 2.35)."
    assert "2.10 points better than asgd" in result.headline


def test_a_loss_is_called_a_loss(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.010, 0.012, 0.011))
    write_cell(tmp_path, "dc-asgd", test=(0.030, 0.034, 0.032))
    assert "Worse than asgd: dc-asgd by 2.10 points (lr 0.1; 95 % interval 1.85 to 2.35)." in read(tmp_path).sentences


def test_a_difference_whose_interval_contains_0_is_noise(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.020, 0.030, 0.025))
    write_cell(tmp_path, "dc-asgd", test=(0.021, 0.025, 0.026))
    # Differences -0.1, 0.5, -0.1: mean 0.1, half width 4.3027 * 0.3464 / sqrt(3) = 0.861.
    result = read(tmp_path)
    expected = "Within noise of asgd: dc-asgd 0.10 points better (lr 0.1; 95 % interval -0.76 to 0.96)."
    assert sentences(result, "Each algorithm")[1] == expected
    assert "within noise" in result.headline


def test_with_one_seed_nothing_can_be_said(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.08,))
    write_cell(tmp_path, "dc-asgd", test=(0.01,))
    result = read(tmp_path)
    expected = "One seed only, so nothing can be said against asgd: dc-asgd 7.00 points better (lr 0.1; seed 0)."
    assert sentences(result, "Each algorithm")[1] == expected
    assert "one seed, so nothing can be said" in result.headline
    assert not any(text.startswith("Better than") for text in result.sentences)
    assert any("without any measure of chance" in text for text in sentences(result, "To keep"))


def test_the_same_difference_in_every_seed_is_no_proof(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.25, 0.37))
    write_cell(tmp_path, "dc-asgd", test=(0.13, 0.25))  # equal to rounding only: 12.0 and 12.0
    assert sentences(read(tmp_path), "Each algorithm")[1] == (
        "Within noise of asgd: dc-asgd 12.0 points better "
        "(lr 0.1; the same in all 2 seeds, which leaves no spread to judge by)."
    )


def test_one_diverged_seed_is_neither_a_win_nor_noise(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.02, 0.92, 0.02), diverged=(1,))
    write_cell(tmp_path, "dc-asgd", test=(0.01, 0.01, 0.01))
    found = sentences(read(tmp_path), "Each algorithm")
    assert found[0].endswith("over 3 seeds (1 of 3 seeds diverged).")
    assert found[1] == (
        "Undecided against asgd in the mean, because runs diverged and no interval describes that: "
        "dc-asgd 31.0 points better (lr 0.1; better in 3 of 3 seeds)."
    )


def test_the_recipes_rate_costs_what_it_costs(tmp_path):
    write_cell(tmp_path, "sequential", workers=1, lr=0.1, test=(0.010, 0.011, 0.012))
    write_cell(tmp_path, "asgd", lr=0.1, test=(0.140, 0.160, 0.92), diverged=(2,))
    write_cell(tmp_path, "asgd", lr=0.03, test=(0.030, 0.031, 0.032))
    write_cell(tmp_path, "dc-asgd", lr=0.1, test=(0.020, 0.022, 0.021))
    write_cell(tmp_path, "staleness-lr", lr=0.03, test=(0.020, 0.022, 0.021))
    write_plan(tmp_path, ["sequential", "asgd", "dc-asgd"], recipe_lr=0.1)
    found = sentences(read(tmp_path), "The recipe")
    assert found[0].startswith("At learning rate 0.1, the recipe's own, sequential ends at 1.10 ± 0.10 %.")
    # Differences 1.0, 1.1, 0.9: half width 4.3027 * 0.1 / sqrt(3) = 0.248.
    assert found[1] == "With 16 workers, dc-asgd: 1.00 point (95 % interval 0.75 to 1.25)."
    assert found[2] == "With 16 workers, asgd: 39.6 points in the mean (1 of 3 seeds diverged)."
    assert found[3] == "With 16 workers, not run at this rate: staleness-lr."


def test_windows_say_which_rates_and_whether_they_end(tmp_path):
    for lr, value in ((0.01, 0.16), (0.03, 0.029), (0.1, 0.010), (0.3, 0.019)):
        write_cell(tmp_path, "dc-asgd", lr=lr, test=(value, value))
    write_cell(tmp_path, "asgd", lr=0.03, test=(0.03, 0.03))
    write_cell(tmp_path, "asgd", lr=0.1, test=(0.92, 0.92), diverged=(0, 1))
    found = sentences(read(tmp_path), "Which")
    assert "at most 2.00 points worse" in found[0]
    assert found[1:] == [
        "asgd, 16 workers: 0.03 alone, up to the smallest tried (3.00 ± 0.00 % at 0.03).",
        "dc-asgd, 16 workers: 0.03 to 0.3, a factor of 10, up to the largest tried (1.00 ± 0.00 % at 0.1).",
    ]


def test_time_to_the_same_quality_ranks_the_fastest_first(tmp_path):
    for label, workers, test, time in (
        ("sequential", 1, [0.5, 0.01], 100.0),
        ("asgd", 16, [0.5, 0.05], 10.0),
        ("ssgd", 16, [0.5, 0.025], 30.0),
    ):
        for seed in (0, 1):
            records = evaluations(test, time=time, diverged=False)
            tail = [records[-1] | {"version": 1000 + i, "time": 2 * time + i} for i in range(1, 12)]
            write_run(
                tmp_path / f"{label}{seed}",
                config=config(label, workers=workers, seed=seed),
                evaluations=[*records, *tail],
                summary=summary(workers=workers),
            )
    found = sentences(read(tmp_path, tolerance=2.0), "Time")
    assert found == [
        "With 16 workers, virtual time to 3.00 % error (2.00 points worse than sequential ends): "
        "ssgd 60 s; sequential 200 s; never asgd.",
        "With 16 workers, virtual time to 5.00 % error (where asgd ends): asgd 20 s; ssgd 60 s; sequential 200 s.",
    ]


def test_it_says_when_sequential_or_synchronous_wins(tmp_path):
    write_cell(tmp_path, "sequential", workers=1, test=(0.010, 0.011, 0.012))
    write_cell(tmp_path, "ssgd", test=(0.020, 0.022, 0.021))
    write_cell(tmp_path, "asgd", test=(0.050, 0.053, 0.051))
    found = sentences(read(tmp_path), "To keep")
    assert found[0].startswith("With 16 workers, sequential training ends better than every parallel algorithm")
    assert found[1].startswith("With 16 workers, synchronous ssgd ends better than the best asynchronous")


def test_a_rate_chosen_at_the_edge_is_named(tmp_path):
    for label, best in (("asgd", 0.2), ("dc-asgd", 0.1)):
        for lr in (0.03, 0.1, 0.2):
            write_cell(tmp_path, label, lr=lr, test=(0.01 if lr == best else 0.05, 0.02))
    found = " ".join(sentences(read(tmp_path), "To keep"))
    assert "may lie outside: asgd with 16 workers (0.2, the largest)." in found
    assert "can pass for a better rule" in found


def test_the_best_is_named_by_validation_not_by_test(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.01, 0.01), validation=(0.05, 0.05))
    write_cell(tmp_path, "dc-asgd", test=(0.03, 0.03), validation=(0.02, 0.02))
    assert best_parallel(compare_runs(find_runs(tmp_path)), 16).label == "dc-asgd"


def test_one_run_compares_nothing(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.05,))
    result = read(tmp_path)
    assert result.headline == (
        "One run, asgd with 16 workers at learning rate 0.1: 5.00 % test error (mean of the last 6 evaluations), "
        "best epoch 5.00 %. One run compares nothing."
    )
    assert [section.title for section in result.sections] == ["To keep in mind"]


def test_one_diverged_run_repeats_what_was_said(tmp_path):
    write_run(
        tmp_path / "a",
        config=config(),
        evaluations=evaluations([0.9], diverged=True),
        summary=summary("diverged", message="training diverged at version 40."),
    )
    assert read(tmp_path).headline.endswith("and it diverged. training diverged at version 40.")


def test_a_run_without_evaluations_says_so(tmp_path):
    write_run(tmp_path / "a", config=config(), evaluations=[])
    assert "without an evaluation so far" in read(tmp_path).headline


def test_seeds_of_one_algorithm_compare_nothing(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.05, 0.06))
    assert "nothing to compare it with" in read(tmp_path).headline


def test_without_asgd_and_sequential_the_first_is_the_reference(tmp_path):
    write_cell(tmp_path, "dc-asgd-a", test=(0.05, 0.051, 0.052))
    write_cell(tmp_path, "dc-asgd", test=(0.01, 0.012, 0.011))
    result = read(tmp_path)
    assert sentences(result, "Each algorithm")[1].startswith("Better than dc-asgd-a: dc-asgd by 4.00 points")
    assert "4.00 points better than dc-asgd-a" in result.headline


@pytest.mark.parametrize("width", [60, 100])
def test_the_text_keeps_its_width_and_its_words(tmp_path, width):
    write_cell(tmp_path, "asgd", test=(0.05, 0.06))
    write_cell(tmp_path, "dc-asgd", test=(0.02, 0.01))
    result = read(tmp_path)
    text = as_text(result, width=width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert all(" ".join(sentence.split()) in flat for sentence in result.sentences)
