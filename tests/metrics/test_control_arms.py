"""What controls say, decided by paired intervals and never beyond them.

The treated rule at the untouched recipe: 45 46 46 45 47; asgd there: 58 59 57 60 58; its lead: 12.6 points.
"""

import pytest
from tuned_example import arms, read
from tuned_runs import Arm

from tardigrad.metrics.controls import control_sentences
from tardigrad.metrics.verdict import verdict

AS_TREATED = (0.46, 0.45, 0.46, 0.45, 0.47)  # 1, -1, 0, 0, 0 points: no difference


def sentence(folder, label, values, *, best=(0.5,) * 5, every=None, beside=None):
    """What is said of one control at the recipe's point."""
    c = read(folder, every, controls={label: (best, values)}, beside=beside)
    found = control_sentences(c)
    recipe = next(i for i, text in enumerate(found) if text.startswith("With 8 workers, at the untouched recipe"))
    return next(text for text in found[recipe:] if text.startswith(label))


def test_first_it_says_where_the_rule_and_asgd_stand(tmp_path):
    c = read(tmp_path, controls={"its-length": ((0.44, 0.45, 0.44, 0.445, 0.43), (0.46,) * 5)})
    found = control_sentences(c)
    assert found[0] == (
        "With 8 workers, at dc-asgd-a's best point (lr 0.1, lambda0=8.0): dc-asgd-a ends at 43.5 ± 1.00 %; asgd was "
        "not run at this learning rate with these seeds."
    )
    assert found[1] == (
        "its-length (asgd's gradient at its step length) ends 0.60 points worse than dc-asgd-a (95 % interval 0.08 to "
        "1.12; needs 7 seeds): beside their length, the direction of dc-asgd-a's steps matters."
    )
    assert found[2] == (
        "With 8 workers, at the untouched recipe (lr 0.2): dc-asgd-a ends at 45.8 ± 0.84 %, asgd at the same learning "
        "rate at 58.4 ± 1.14 %: 12.6 points worse than dc-asgd-a (95 % interval 10.5 to 14.7)."
    )


def test_a_flipped_sign_that_costs_shows_that_the_direction_matters(tmp_path):
    found = sentence(tmp_path, "sign-flipped", (0.57, 0.58, 0.58, 0.58, 0.59))
    # 12 12 12 13 12 points: mean 12.2, std 0.4472, half width 0.5553.
    assert found == (
        "sign-flipped (the compensation with its sign flipped) ends 12.2 points worse than dc-asgd-a (95 % interval "
        "11.6 to 12.8): the direction of dc-asgd-a's compensation matters."
    )


@pytest.mark.parametrize("label", ["sign-flipped", "sign-random"])
def test_a_spoilt_sign_that_costs_nothing_decides_nothing(tmp_path, label):
    found = sentence(tmp_path, label, AS_TREATED)
    assert found.endswith("within noise): whether the direction of dc-asgd-a's compensation matters is not decided.")


def test_a_spoilt_sign_that_helps_shows_a_wrong_direction(tmp_path):
    found = sentence(tmp_path, "sign-random", (0.41, 0.42, 0.41, 0.42, 0.42))
    assert found.endswith("here dc-asgd-a's compensation points the wrong way.")


def test_diverged_controls_are_counted(tmp_path):
    whole = sentence(tmp_path / "a", "sign-flipped", (0.91, 0.92, 0.91, 0.91, 0.92))
    assert "; 5 of 5 seeds diverged): the direction of dc-asgd-a's compensation matters." in whole
    partly = sentence(tmp_path / "b", "sign-flipped", (0.46, 0.46, 0.92, 0.45, 0.92))
    assert partly.endswith(
        "18.0 points worse than dc-asgd-a (better in 0 of 5 seeds; 2 of 5 seeds diverged): "
        "whether the direction of dc-asgd-a's compensation matters is not decided, because runs diverged."
    )


def test_asgd_that_does_as_well_with_steps_of_that_length_leaves_length_as_the_reason(tmp_path):
    assert sentence(tmp_path, "its-length", AS_TREATED).endswith(
        "within noise): with steps of that length asgd does as well, as far as 5 seeds show, and most of dc-asgd-a's "
        "lead over asgd at this learning rate is the length of its steps."
    )


def test_a_length_that_makes_most_of_the_lead_but_not_all(tmp_path):
    found = sentence(tmp_path, "its-length", (0.47, 0.48, 0.48, 0.475, 0.49))  # 2 2 2 2.5 2 points worse
    assert found.endswith(
        "beside their length, the direction of dc-asgd-a's steps matters, though most of dc-asgd-a's lead over asgd at "
        "this learning rate is the length of its steps."
    )


def test_a_length_that_makes_little_of_the_lead_shows_the_direction(tmp_path):
    found = sentence(tmp_path, "its-length", (0.55, 0.56, 0.56, 0.56, 0.57))
    assert found.endswith("beside their length, the direction of dc-asgd-a's steps matters.")


def test_a_length_that_does_better_is_said_to(tmp_path):
    found = sentence(tmp_path, "its-length", (0.41, 0.42, 0.41, 0.42, 0.42))
    assert found.endswith("a plain gradient of dc-asgd-a's length does better than dc-asgd-a itself.")


def test_no_lead_means_nothing_is_said_of_most_of_it(tmp_path):
    every = arms()
    every["asgd"].recipe = (0.46, 0.46, 0.455, 0.46, 0.47)
    found = sentence(tmp_path, "its-length", AS_TREATED, every=every)
    assert found.endswith("whether the direction of dc-asgd-a's steps adds anything to their length is not decided.")


def test_a_direction_that_suffices_without_its_length(tmp_path):
    assert sentence(tmp_path, "its-direction", AS_TREATED).endswith(
        "whether the length of dc-asgd-a's steps matters is not decided; its direction alone leads asgd at this "
        "learning rate by 12.6 points (95 % interval 10.3 to 14.9)."
    )


def test_a_direction_that_needs_its_length(tmp_path):
    found = sentence(tmp_path, "its-direction", (0.58, 0.60, 0.57, 0.60, 0.575))
    assert found.endswith("the length of dc-asgd-a's steps matters.")
    better = sentence(tmp_path / "b", "its-direction", (0.41, 0.42, 0.41, 0.42, 0.42))
    assert ": dc-asgd-a's direction does better with asgd's step length; its direction alone leads asgd" in better


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.50, 0.51, 0.50, 0.50, 0.51), "dc-asgd-a does more than clipping gradients does."),
        ((0.41, 0.42, 0.41, 0.42, 0.42), "clipping gradients does better than dc-asgd-a."),
        (AS_TREATED, "whether dc-asgd-a does more than clipping gradients does is not decided."),
    ],
)
def test_clipping_is_held_against_the_rule_at_its_own_points(tmp_path, values, words):
    every = arms() | {"clipping": Arm(0.1, values, values)}
    c = read(tmp_path, every, controls={"its-length": ((0.44,) * 5, (0.46,) * 5)})
    found = [text for text in control_sentences(c) if text.startswith("clipping")]
    assert len(found) == 2
    assert found[1].endswith(words)


def test_one_seed_decides_nothing(tmp_path):
    found = sentence(tmp_path, "sign-flipped", (0.57,))
    assert "than dc-asgd-a (seed 1): whether the direction" in found
    assert found.endswith("is not decided, from one seed.")


def test_where_the_best_point_is_the_recipe_it_is_told_once(tmp_path):
    every = arms()
    every["dc-asgd-a"] = Arm(0.2, every["dc-asgd-a"].recipe)
    found = control_sentences(read(tmp_path, every, controls={"sign-flipped": ((0.57,) * 5,)}))
    assert [text.startswith("With") for text in found] == [True, False]


def test_an_unknown_control_has_its_number_without_a_conclusion(tmp_path):
    found = sentence(tmp_path, "its-shadow", (0.57, 0.58, 0.58, 0.58, 0.59))
    assert found == "its-shadow ends 12.2 points worse than dc-asgd-a (95 % interval 11.6 to 12.8)."


def test_the_verdict_has_them_under_a_heading_of_their_own(tmp_path):
    c = read(tmp_path, controls={"sign-flipped": ((0.57,) * 5, (0.6,) * 5)}, beside=(0.47, 0.48, 0.46, 0.47, 0.465))
    section = next(s for s in verdict(c).sections if s.title.startswith("Controls"))
    assert section.title == "Controls: where the gain of dc-asgd-a comes from"
    assert "asgd at the same learning rate at 46.9 ± 0.74 %: 3.40 points worse" in section.sentences[0]
