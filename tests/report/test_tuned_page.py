"""The page of a tuned comparison: all parts in order, whole in itself, and a page while it is still under way."""

import pytest
from test_page import Reader
from tuned_example import arms
from tuned_runs import Arm, write_tuned

from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs
from tardigrad.metrics.verdict import verdict
from tardigrad.report.choices import choices
from tardigrad.report.curves import error_against
from tardigrad.report.page import write_report
from tardigrad.report.rates import error_against_rate


@pytest.fixture(scope="module")
def written(tuned_runs, tmp_path_factory):
    return write_report(tuned_runs, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def page(written):
    return Reader(written.html.read_text(encoding="utf-8"))


def test_pictures_are_written_in_order(written):
    assert [path.stem for path in written.pngs] == [
        "forest-best", "forest-recipe", "controls", "learning-rate", "epochs", "time", "epochs-recipe", "staleness",
        "compensation",
    ]  # fmt: skip


def test_pictures_tables_choices_and_verdict_come_in_this_order(page):
    order = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert order[9:] == ["table", "differences-best", "differences-recipe", "controls-table", "choices", "verdict"]
    assert page.open == []


def test_the_whole_verdict_stands_on_the_page(page, tuned):
    flat = " ".join(page.text.split())
    assert all(" ".join(sentence.split()) in flat for sentence in verdict(tuned).sentences)


def test_the_page_says_how_many_runs_of_which_kind_there_are(page):
    # 9 algorithms, of which one is sequential: 9 + 8 points of 5 seeds at best, 7 + 6 more at the recipe, and twice
    # 4 controls at 2 points; per algorithm 4 trial runs, and twice one of another strength.
    reported, trials = 5 * (9 + 8 + 7 + 6 + 16), 4 * 17 + 2
    flat = " ".join(page.text.split())
    told = f"{reported} reported, of seeds 1, 2, 3, 4 and 5; {trials} trial runs, of seeds 0."
    assert f"{reported + trials} runs: {told}" in flat


def test_names_of_pictures_and_tables_are_different(page):
    order = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(order)) == len(order)


def test_the_choices_say_how_it_was_tuned(tuned):
    found = {choice.name: " | ".join(choice.lines) for choice in choices(tuned)}
    assert found["Learning rate"].startswith(
        "Tuned for each algorithm and worker count with 4 to 5 settings tried (trial seeds: 0), learning rates first"
    )
    measure = "smallest validation error, mean of the last 10 evaluations (at most the last half)"
    assert measure in found["Learning rate"]
    assert "Untouched recipe: 0.2, the recipe's own." in found["Learning rate"]


def test_the_picture_of_learning_rates_shows_trials_on_validation_data_with_rings(tuned):
    figure = error_against_rate(tuned.trials, rings=True)
    axis = figure.axes[0]
    assert axis.get_title(loc="left") == "Validation error after training, 8 workers, 1 seed"
    rings = [line.get_data() for line in axis.lines if line.get_markersize() == 14]
    assert len(rings) == 9
    assert all(y[0] == pytest.approx(40.0) for _, y in rings)
    assert sorted(x[0] for x, _ in rings) == pytest.approx(
        sorted([0.05] * 2 + [0.1] * 2 + [0.2] * 2 + [0.4] * 3), rel=0.13
    )
    low, high = axis.get_xlim()
    inside = [line for line in axis.lines if line.get_transform() == axis.transData]
    assert all(low < x < high for line in inside for x in line.get_xdata())


def test_curves_stand_at_the_best_point_or_at_the_recipe(by_hand):
    best, recipe = (error_against(by_hand, point=point).axes[0] for point in ("best", "recipe"))
    assert best.get_title(loc="left") == "Test error, 8 workers, each at its own best point"
    assert recipe.get_title(loc="left") == "Test error, 8 workers, all at the untouched recipe, learning rate 0.2"
    assert "dc-asgd-a, lr 0.1" in [text.get_text() for text in best.texts]
    assert "dc-asgd-a" in [text.get_text() for text in recipe.texts]
    ends = [line.get_ydata()[-1] for line in recipe.lines if len(line.get_xdata()) == 4]
    assert sorted(ends) == pytest.approx(sorted([40.0, 57.4, 44.8, 42.6, 49.4]))  # the means less one point
    assert best.get_ylim()[0] > 30  # small differences are what is looked for


def test_a_half_finished_comparison_has_a_page_that_says_what_is_missing(tmp_path):
    every = arms()
    every["asgd"].recipe = every["asgd"].recipe[:2]
    every["dc-asgd-a"].best, every["dc-asgd-a"].recipe = (), ()
    every["clipping"] = Arm(0.1, (), None)
    write_tuned(tmp_path / "runs", every, controls={"sign-flipped": ((0.5,), ())})
    paths = write_report(tmp_path / "runs", tmp_path / "out")
    text = " ".join(Reader(paths.html.read_text()).text.split())
    assert "This comparison is not whole yet." in text
    assert "Missing so far" in text
    assert "Seeds 3, 4 and 5: asgd with 8 workers at the untouched recipe." in text
    assert "All seeds: dc-asgd-a with 8 workers; clipping with 8 workers; sign-flipped with 8 workers at the" in text
    assert "Seeds 2, 3, 4 and 5: sign-flipped with 8 workers at its best point." in text


def test_with_trial_runs_only_there_is_a_page_that_says_so(tmp_path):
    every = arms()
    for arm in every.values():
        arm.best, arm.recipe = (), None
    paths = write_report(write_tuned(tmp_path / "runs", every), tmp_path / "out")
    assert "Only trial runs have ended so far" in paths.html.read_text()
    assert "learning-rate" in [path.stem for path in paths.pngs]


def test_one_worker_count_and_one_seed_have_a_page(tmp_path):
    c = compare_runs(find_runs(write_tuned(tmp_path / "runs", arms(), seeds=(1,))))
    assert "one seed, so nothing can be said" in verdict(c).headline
    assert write_report(tmp_path / "runs", tmp_path / "out").html.exists()
