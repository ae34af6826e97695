"""Tuned comparisons read back: which runs are trials, which are reported at which point, what is still missing."""

import shutil

import pytest
from fake_runs import RULES, config, evaluations, summary, write_cell, write_run
from tuned_example import STRONG, arms, read, series
from tuned_runs import CONTROLS, Arm, rewrite_plan, write_plausible_tuned, write_tuned

from tardigrad.errors import RunDirectoryError
from tardigrad.metrics.caveats import caveats
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.missing import missing
from tardigrad.metrics.runs import find_runs
from tardigrad.metrics.tuned_plan import changed_words, same_rule, tuned_plan
from tardigrad.metrics.verdict import verdict


def reread(folder):
    return compare_runs(find_runs(folder))


def test_each_algorithm_stands_at_its_chosen_point_and_at_the_recipe(tmp_path):
    c = read(tmp_path)
    ours = series(c, "dc-asgd-a")
    assert (ours.chosen.lr, ours.chosen.rule) == (0.1, STRONG)
    assert ours.chosen.last_ten("test").mean == pytest.approx(43.5)
    recipe = c.at_recipe(ours)
    assert (recipe.lr, recipe.rule) == (0.2, RULES["dc-asgd-a"])
    assert recipe.last_ten("test").mean == pytest.approx(45.8)
    assert [s.label for s in c.series] == ["sequential", "asgd", "dc-asgd-a", "dc-asgd"]
    assert (c.seeds, c.split, c.recipe_lr) == ([1, 2, 3, 4, 5], "test", 0.2)


def test_where_best_and_recipe_are_one_point_the_same_runs_serve_both(tmp_path):
    c = read(tmp_path)
    ours = series(c, "dc-asgd")
    assert c.at_recipe(ours) is ours.chosen
    assert (len(ours.cells), ours.runs) == (1, 5)


def test_one_rate_with_two_strengths_is_two_points(tmp_path):
    every = arms()
    every["dc-asgd-a"].lr = 0.2
    c = read(tmp_path, every)
    ours = series(c, "dc-asgd-a")
    assert (ours.chosen.rule, c.at_recipe(ours).rule) == (STRONG, RULES["dc-asgd-a"])
    assert c.at_recipe(ours).last_ten("test").mean == pytest.approx(45.8)


def test_trial_runs_enter_no_reported_number(tmp_path):
    # The trial runs written here have a test error of 0.1 %: had one of them a part in a mean, it would show.
    c = read(tmp_path)
    assert all(run.seed != 0 for run in c.runs)
    assert min(cell.best("test").mean for s in c.series for cell in s.cells) > 37.0
    assert len(c.tuning.trials) == 4 * 4 + 1


def test_a_seed_that_trials_used_is_not_reported(tmp_path):
    write_tuned(tmp_path, arms())
    rewrite_plan(tmp_path, lambda plan: plan["tuned"].update(seeds=[0, 1]))
    assert reread(tmp_path).seeds == [2, 3, 4, 5]


def test_trials_are_a_grid_of_their_own_on_validation_data(tmp_path):
    trials = read(tmp_path).trials
    assert (trials.split, trials.seeds) == ("validation", [0])
    ours = series(trials, "dc-asgd-a")
    assert [cell.lr for cell in ours.cells] == [0.05, 0.1, 0.2, 0.4]  # the other strength is not in it
    assert [cell.last_ten("validation").mean for cell in ours.cells] == pytest.approx([43.0, 40.0, 43.0, 46.0])
    assert ours.chosen.lr == 0.1


def test_the_plan_decides_what_was_chosen(tmp_path):
    write_tuned(tmp_path, arms())

    def choose(plan):
        plan["tuned"]["choices"][1]["lr"] = 0.2  # asgd: at the recipe's rate, though its trials say 0.05

    rewrite_plan(tmp_path, choose)
    c = reread(tmp_path)
    assert series(c, "asgd").chosen.last_ten("test").mean == pytest.approx(58.4)
    assert series(c.trials, "asgd").chosen.lr == 0.2


def test_specs_that_say_the_same_are_the_same_rule(tmp_path):
    assert same_rule("dc-asgd-a(lambda0=2, damped=False)", "dc-asgd-a(damped=False, lambda0=2.0)")
    assert not same_rule("dc-asgd-a(lambda0=2)", "dc-asgd-a(lambda0=4)")
    assert changed_words(STRONG, RULES["dc-asgd-a"]) == "lambda0=8.0"
    assert changed_words("asgd", "asgd") == ""
    assert changed_words("dc-asgd-c(lambda0=1)", "asgd") == "dc-asgd-c(lambda0=1)"


def test_a_whole_comparison_lacks_nothing(tmp_path):
    controls = {label: ((0.5,) * 5, (0.6,) * 5) for label in CONTROLS}
    every = arms() | {"clipping": Arm(0.1, (0.44,) * 5, (0.5,) * 5)}
    c = read(tmp_path, every, controls=controls)
    assert missing(c.tuning) == []
    assert not verdict(c).headline.startswith("This comparison")


def test_what_is_missing_is_named(tmp_path):
    every = arms()
    every["asgd"].recipe = every["asgd"].recipe[:3]
    every["dc-asgd"].best = every["dc-asgd"].best[:4]
    controls = {"sign-flipped": ((0.5,) * 5, ())}
    write_tuned(tmp_path, every, controls=controls)
    c = reread(tmp_path)
    assert missing(c.tuning) == [
        "No learning rate is chosen yet for: clipping with 8 workers.",
        "Of the reported runs 8 are missing or have not ended.",
        "Seeds 4 and 5: asgd with 8 workers at the untouched recipe.",
        "Seed 5: dc-asgd with 8 workers at its best point.",
        "All seeds: sign-flipped with 8 workers at the untouched recipe.",
    ]
    result = verdict(c)
    assert result.headline.startswith("This comparison is not whole yet. With 8 workers")
    assert result.sections[0].title == "Missing so far"


def test_what_is_missing_at_both_points_and_several_worker_counts_is_said_once(tmp_path):
    write_plausible_tuned(tmp_path)
    for run in tmp_path.iterdir():
        if run.name.startswith(("ssgd-w", "its-length-w32")) and "-s5-" in run.name:
            shutil.rmtree(run)
    assert missing(reread(tmp_path).tuning) == [
        "Of the reported runs 6 are missing or have not ended.",
        "Seed 5: ssgd with 8 and 32 workers; its-length with 32 workers.",
    ]


def test_while_choices_grow_what_is_chosen_is_reported(tmp_path):
    write_tuned(tmp_path, arms())
    rewrite_plan(tmp_path, lambda plan: plan["tuned"]["choices"].pop(2))
    c = reread(tmp_path)
    assert [s.label for s in c.series] == ["sequential", "asgd", "dc-asgd"]
    assert "No learning rate is chosen yet for: dc-asgd-a with 8 workers." in missing(c.tuning)


def test_while_only_trials_have_run_they_are_shown_on_validation_data(tmp_path):
    every = arms()
    for arm in every.values():
        arm.best, arm.recipe = (), None
    write_tuned(tmp_path, every)
    c = reread(tmp_path)
    assert c.tuning is None
    assert c.split == "validation"
    assert verdict(c).headline.startswith("Only trial runs have ended so far: shown are they, on validation data, and")
    assert not any("no test data" in sentence for sentence in caveats(c))
    rewrite_plan(tmp_path, lambda plan: plan["tuned"]["choices"].clear())
    assert "dc-asgd-a (lambda0=8.0)" in [s.label for s in reread(tmp_path).series]


def test_without_a_reported_run_or_a_trial_it_says_so(tmp_path):
    write_tuned(tmp_path, arms())
    rewrite_plan(tmp_path, lambda plan: plan.update(seeds=[7]) or plan["tuned"].update(seeds=[9]))
    with pytest.raises(RunDirectoryError, match="none of these runs is one that"):
        reread(tmp_path)


def test_runs_of_another_setting_are_left_out_and_named(tmp_path):
    write_tuned(tmp_path, arms())
    stranger = config("asgd", workers=8, lr=0.05, seed=1, epochs=40)
    write_run(tmp_path / "longer", config=stranger, evaluations=evaluations([0.01] * 4), summary=summary(workers=8))
    c = reread(tmp_path)
    assert series(c, "asgd").chosen.last_ten("test").mean == pytest.approx(45.0)
    assert c.left_out == ("Run with other settings than the rest of asgd, and left out: longer.",)


def test_the_setting_of_the_trials_counts_not_that_of_most(tmp_path):
    every = arms()
    every["asgd"].best = every["asgd"].best[:1]
    every["asgd"].recipe = ()
    write_tuned(tmp_path, every)
    for seed in (1, 2, 3):
        stranger = config("asgd", workers=8, lr=0.05, seed=seed, epochs=40)
        place = tmp_path / f"longer{seed}"
        write_run(place, config=stranger, evaluations=evaluations([0.01] * 4), summary=summary(workers=8))
    assert series(reread(tmp_path), "asgd").chosen.last_ten("test").mean == pytest.approx(45.0)
    for trial in tmp_path.glob("trial-asgd*"):
        shutil.rmtree(trial)
    assert series(reread(tmp_path), "asgd").chosen.last_ten("test").mean == pytest.approx(1.0)


def test_a_seed_the_plan_does_not_name_is_left_out(tmp_path):
    write_tuned(tmp_path, arms())
    write_run(
        tmp_path / "odd", config=config("asgd", workers=8, lr=0.05, seed=77), evaluations=evaluations([0.01] * 4),
        summary=summary(workers=8),
    )  # fmt: skip
    assert reread(tmp_path).left_out == ("Of a seed that the comparison does not name, and left out: odd.",)


def test_one_run_of_it_is_just_a_run(tmp_path):
    write_tuned(tmp_path, arms())
    one = next(path for path in tmp_path.iterdir() if path.name.startswith("asgd-w8-lr0.05-s1"))
    assert verdict(reread(one)).headline.startswith("One run, asgd with 8 workers at learning rate 0.05: 45.0 % test")


def test_a_damaged_plan_says_what_to_do(tmp_path):
    write_tuned(tmp_path, arms())
    rewrite_plan(tmp_path, lambda plan: plan["tuned"]["choices"][0].pop("recipe_rule"))
    with pytest.raises(RunDirectoryError, match=r"'tuned' that cannot be read \(KeyError: 'recipe_rule'\)"):
        reread(tmp_path)


def test_two_comparisons_of_which_one_is_tuned_are_refused(tmp_path):
    write_tuned(tmp_path / "tuned", arms())
    write_cell(tmp_path / "grid", "asgd", test=(0.02,))
    (tmp_path / "grid" / "comparison.json").write_text('{"format": 1, "algorithms": ["asgd"]}')
    runs = find_runs([tmp_path / "tuned", tmp_path / "grid"])
    with pytest.raises(RunDirectoryError, match="is a tuned comparison: it cannot stand in one report"):
        compare_runs(runs)


def test_a_plan_without_tuning_is_none():
    assert tuned_plan({"format": 1, "algorithms": ["asgd"]}) is None


def test_several_trial_seeds_name_several_runs(tmp_path):
    write_tuned(tmp_path, arms())

    def several(plan):
        for choice in plan["tuned"]["choices"]:
            for trial in choice["trials"]:
                trial["runs"] = [trial["run"], "another"]

    rewrite_plan(tmp_path, several)
    assert reread(tmp_path).tuning.plan.choices[0].trials[0].runs[1] == "another"
