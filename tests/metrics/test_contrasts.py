"""Paired differences of a tuned comparison, against the table in tuned_example, which was computed by hand."""

import math

import pytest
from tuned_example import arms, read, series
from tuned_runs import Arm

from tardigrad.metrics.contrasts import (
    best_against,
    beyond_half,
    contrast,
    controls_against,
    own_losses,
    penalties,
    plain_beside,
    recipe_against,
    treated_cell,
)


@pytest.fixture
def example(tmp_path):
    return read(tmp_path)


def of(found, label):
    return next(one for one in found if one.cell.label == label)


def holds(one, mean, interval, needed):
    assert one.difference == pytest.approx(mean)
    assert one.interval == pytest.approx(interval, abs=5e-5)
    assert one.needed == needed


def test_best_against_best(example):
    found = best_against(example, 8, series(example, "asgd").chosen)
    assert [one.cell.label for one in found] == ["dc-asgd-a", "dc-asgd"]
    holds(of(found, "dc-asgd-a"), -1.5, (-2.1208, -0.8792), 4)
    holds(of(found, "dc-asgd"), -1.4, (-1.9194, -0.8806), 3)
    holds(of(best_against(example, 8, example.sequential.chosen), "dc-asgd-a"), 4.7, (3.4898, 5.9102), 3)
    assert (of(found, "dc-asgd-a").kind, of(found, "dc-asgd-a").seeds) == ("better", 5)


def test_at_the_recipe(example):
    found = recipe_against(example, 8, example.at_recipe(series(example, "asgd")))
    holds(of(found, "dc-asgd-a"), -12.6, (-14.6777, -10.5223), 3)


def test_the_recipe_penalty_is_against_sequential_at_the_same_recipe(example):
    found = penalties(example, 8)
    assert [one.cell.label for one in found] == ["asgd", "dc-asgd-a", "dc-asgd"]
    holds(of(found, "dc-asgd-a"), 4.8, (4.2447, 5.3553), 3)
    holds(of(found, "asgd"), 17.4, (15.7341, 19.0659), 2)
    assert of(found, "asgd").kind == "worse"


def test_the_own_loss_is_against_the_algorithms_own_best_point(example):
    found = own_losses(example, 8)
    assert [one.cell.label for one in found] == ["asgd", "dc-asgd-a"]  # dc-asgd is at its best there
    holds(of(found, "dc-asgd-a"), 2.3, (0.4583, 4.1417), 6)


def test_a_difference_within_noise_says_how_many_seeds_it_needs(tmp_path):
    every = arms()
    every["dc-asgd"].best = (0.45, 0.46, 0.45, 0.445, 0.445)  # 0, 0, 1, -1, 0 points: mean 0, so no number will do
    c = read(tmp_path, every)
    one = contrast(c, series(c, "dc-asgd").chosen, series(c, "asgd").chosen)
    assert (one.kind, one.needed) == ("noise", math.inf)


def test_one_seed_or_no_spread_or_divergence_needs_no_number(tmp_path):
    every = arms()
    every["dc-asgd"].best = (0.44,)
    every["dc-asgd-a"].best = (0.44, 0.45, 0.43, 0.445, 0.435)  # one point less than asgd in every seed
    every["dc-asgd-a"].recipe = (0.45, 0.92, 0.46, 0.45, 0.47)
    c = read(tmp_path, every)
    asgd = series(c, "asgd").chosen
    one, same = (contrast(c, series(c, label).chosen, asgd) for label in ("dc-asgd", "dc-asgd-a"))
    assert (one.kind, one.interval, one.needed, one.seeds) == ("one", None, None, 1)
    assert (same.kind, same.needed, same.difference) == ("noise", None, pytest.approx(-1.0))
    diverged = contrast(c, c.at_recipe(series(c, "dc-asgd-a")), c.at_recipe(series(c, "asgd")))
    assert (diverged.kind, diverged.needed) == ("diverged", None)


def test_without_a_common_seed_there_is_no_difference(tmp_path):
    every = arms()
    every["dc-asgd"].best = ()
    c = read(tmp_path, every)
    assert "dc-asgd" not in [s.label for s in c.series]


CONTROLS = {
    "its-length": ((0.44, 0.45, 0.44, 0.445, 0.43), (0.46, 0.47, 0.46, 0.46, 0.48)),
    "sign-flipped": ((0.50, 0.53, 0.52, 0.50, 0.51), (0.92,) * 5),
}


def test_controls_stand_at_the_points_of_the_rule_they_spoil(tmp_path):
    every = arms() | {"clipping": Arm(0.1, (0.44,) * 5, (0.50, 0.51, 0.50, 0.50, 0.51))}
    c = read(tmp_path, every, controls=CONTROLS)
    best, recipe = (controls_against(c, 8, point) for point in ("best", "recipe"))
    assert [one.cell.label for one in best] == ["its-length", "sign-flipped", "clipping"]
    # 1, 0, 1, 0.5, 0.5 points: mean 0.6, std 0.4183, half width 0.5194.
    holds(best[0], 0.6, (0.0806, 1.1194), 7)
    assert (best[0].cell.lr, recipe[0].cell.lr, best[2].cell.lr, recipe[2].cell.lr) == (0.1, 0.2, 0.1, 0.2)
    assert recipe[0].difference == pytest.approx(0.8)
    assert recipe[1].cell.diverged == 5
    assert treated_cell(c, 8, "best") is series(c, "dc-asgd-a").chosen


def test_controls_of_two_strengths_at_one_rate_are_told_apart(tmp_path):
    every = arms()
    every["dc-asgd-a"].lr = 0.2
    c = read(tmp_path, every, controls=CONTROLS)
    best, recipe = (controls_against(c, 8, point)[0] for point in ("best", "recipe"))
    assert (best.cell.last_ten("test").mean, recipe.cell.last_ten("test").mean) == pytest.approx((44.1, 46.6))


def test_asgd_beside_the_treated_rule_is_asgd_at_its_rate(tmp_path):
    c = read(tmp_path, controls=CONTROLS, beside=(0.47, 0.48, 0.46, 0.47, 0.465))
    beside = plain_beside(c, treated_cell(c, 8, "best"))
    assert (beside.lr, beside.last_ten("test").mean) == (0.1, pytest.approx(46.9))
    assert plain_beside(c, treated_cell(c, 8, "recipe")) is c.at_recipe(series(c, "asgd"))
    assert "asgd" not in {one.cell.label for one in controls_against(c, 8, "best")}


def test_asgd_that_did_not_run_at_that_rate_is_not_there(tmp_path):
    c = read(tmp_path, controls=CONTROLS)
    assert plain_beside(c, treated_cell(c, 8, "best")) is None


def test_most_of_a_lead_is_what_surely_makes_more_than_half_of_it(tmp_path):
    # asgd 58 59 57 60 58, the rule 45 46 46 45 47; half way 51.5 52.5 51.5 52.5 52.5.
    near = {"its-length": ((0.44,) * 5, (0.50, 0.51, 0.51, 0.51, 0.52))}  # 1.5 1.5 0.5 1.5 0.5 beyond it
    unsure = {"its-length": ((0.44,) * 5, (0.50, 0.53, 0.51, 0.53, 0.52))}  # 1.5 -0.5 0.5 -0.5 0.5
    for place, controls, most in (("a", near, True), ("b", unsure, False)):
        c = read(tmp_path / place, controls=controls)
        treated = treated_cell(c, 8, "recipe")
        part = controls_against(c, 8, "recipe")[0].cell
        assert beyond_half(c, part, treated, plain_beside(c, treated)) is most


def test_without_controls_nothing_is_treated(example):
    assert treated_cell(example, 8, "best") is None
    assert controls_against(example, 8, "best") == []
