"""Forest plots hold the differences they show: what is drawn is read back from the figure."""

from itertools import pairwise

import pytest
from fake_runs import config, evaluations, summary, write_cell, write_run
from tuned_example import arms, read

from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs
from tardigrad.report.forest import control_forest, forest
from tardigrad.report.style import LOOKS


def markers(axis):
    """Row name -> (difference, whether the marker is filled)."""
    names = [label.get_text() for label in axis.get_yticklabels()]
    places = axis.get_yticks()
    found = {}
    for line in axis.lines:
        if line.get_markersize() == 6.5:
            place = list(places).index(line.get_ydata()[0])
            found[names[place] or place] = (line.get_xdata()[0], line.get_markerfacecolor() != "white")
    return found


def intervals(axis):
    return sorted(tuple(line.get_xdata()) for line in axis.lines if line.get_marker() == "|")


def test_it_shows_the_differences_by_hand(by_hand):
    left, right = forest(by_hand, "best").axes
    assert left.get_title(loc="left") == "8 workers, minus asgd"
    found = markers(left)
    assert found["dc-asgd-a"] == (pytest.approx(-1.5), True)
    assert found["dc-asgd"] == (pytest.approx(-1.4), True)
    assert set(found) == {"dc-asgd-a", "dc-asgd", "clipping"}  # asgd minus asgd is no difference
    assert (pytest.approx(-2.1208, abs=1e-4), pytest.approx(-0.8792, abs=1e-4)) in intervals(left)
    assert sorted(value for value, _ in markers(right).values())[0] == pytest.approx(4.7)


def test_at_the_recipe_the_right_side_is_the_recipe_penalty(by_hand):
    left, right = forest(by_hand, "recipe").axes
    assert markers(left)["dc-asgd-a"][0] == pytest.approx(-12.6)
    assert pytest.approx(4.8) in [value for value, _ in markers(right).values()]
    assert pytest.approx(17.4) in [value for value, _ in markers(right).values()]


def test_it_says_which_side_is_better_and_draws_a_zero_line(by_hand):
    for axis in forest(by_hand, "best").axes:
        assert axis.get_xlabel().startswith("← better          worse →\n")
        assert any(list(line.get_xdata()) == [0.0, 0.0] for line in axis.lines)


def test_where_higher_is_better_the_sides_turn(tmp_path):
    metric = {"name": "accuracy", "scale": 100.0, "unit": "%", "lower_is_better": False}
    for label, values in (("asgd", (0.5, 0.6, 0.55)), ("dc-asgd", (0.6, 0.7, 0.64))):
        for seed, value in enumerate(values):
            records = evaluations([value], "same", metric="accuracy")
            place = tmp_path / f"{label}{seed}"
            write_run(place, config=config(label, seed=seed), evaluations=records, summary=summary(metric=metric))
    (axis, _) = forest(compare_runs(find_runs(tmp_path)), "best").axes
    assert axis.get_xlabel().startswith("← worse          better →\n")
    assert markers(axis)["dc-asgd"] == (pytest.approx(29.0 / 3.0), True)


def test_a_difference_within_noise_is_hollow(tmp_path):
    every = arms()
    every["dc-asgd"].best = (0.45, 0.455, 0.44, 0.46, 0.435)
    assert markers(forest(read(tmp_path, every), "best").axes[0])["dc-asgd"] == (pytest.approx(-0.2), False)


def test_rows_stand_in_the_tables_order_from_the_top(tuned):
    axis = forest(tuned, "best").axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[::-1] == [
        "ssgd", "m-synchronous", "asgd", "staleness-lr", "dc-asgd-c", "dc-asgd-a", "dc-asgd", "clipping",
    ]  # fmt: skip


def test_each_worker_count_has_a_row_of_panels(tuned):
    axes = forest(tuned, "best").axes
    names = ("asgd", "sequential")
    expected = [f"{workers} workers, minus {name}" for workers in (8, 32) for name in names]
    assert [axis.get_title(loc="left") for axis in axes] == expected
    assert axes[0].get_xlim() == axes[2].get_xlim()


def test_controls_are_held_against_the_rule_at_both_its_points(by_hand):
    best, recipe = control_forest(by_hand).axes
    assert markers(best)["its-length"] == (pytest.approx(0.6), True)
    assert markers(best)["asgd"] == (pytest.approx(3.4), True)
    assert [label.get_text() for label in best.get_yticklabels()][::-1] == [
        "asgd", "its-length", "sign-flipped", "clipping",
    ]  # fmt: skip
    assert "5 of 5 diverged" in [text.get_text() for text in recipe.texts]
    assert "dc-asgd-a's (points)" in best.get_xlabel()


def test_small_and_large_differences_in_one_picture_stretch_the_middle(tmp_path):
    every = arms()
    every["dc-asgd"].best = (0.85, 0.86, 0.85, 0.86, 0.85)
    every["dc-asgd-a"].best = (0.449, 0.458, 0.441, 0.454, 0.446)
    every["ssgd"] = arms()["asgd"]
    every["ssgd"].best = (0.448, 0.461, 0.441, 0.454, 0.446)
    axis = forest(read(tmp_path, every), "best").axes[0]
    assert axis.get_xscale() == "symlog"
    assert "(logarithmic beyond ±" in axis.get_xlabel()


def test_an_interval_far_beyond_the_means_is_cut_with_an_arrow(tmp_path):
    every = {label: arm for label, arm in arms().items() if label in ("sequential", "asgd", "dc-asgd-a")}
    every["dc-asgd-a"].best = (0.10, 0.80)
    axis = forest(read(tmp_path, every), "best").axes[0]
    arrows = {line.get_marker() for line in axis.lines} & {"<", ">"}
    assert arrows == {"<", ">"}
    low, high = axis.get_xlim()
    assert all(low <= edge <= high for pair in intervals(axis) for edge in pair)


def test_names_lie_inside_the_picture(tuned):
    for figure in (forest(tuned, "best"), forest(tuned, "recipe"), control_forest(tuned)):
        figure.draw_without_rendering()
        words = [label for axis in figure.axes for label in (*axis.get_yticklabels(), axis.xaxis.label, *axis.texts)]
        boxes = [word.get_window_extent() for word in words if word.get_text()]
        assert all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
        below = [axis.xaxis.label.get_window_extent() for axis in figure.axes if axis.get_xlabel()]
        assert all(a.x1 < b.x0 for a, b in pairwise(below))


def test_controls_have_looks_of_their_own():
    colours = [LOOKS[label].colour for label in LOOKS]
    assert len(set(colours)) == len(colours) == 15


def test_nothing_to_hold_against_each_other_gives_no_picture(tmp_path):
    write_cell(tmp_path, "dc-asgd", test=(0.02, 0.03))
    c = compare_runs(find_runs(tmp_path))
    assert forest(c, "best") is None
    assert control_forest(c) is None
