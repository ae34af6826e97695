"""A value outside its range is refused with a sentence that names the owner, the value and the range."""

import numpy as np
import pytest

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_choice, require_flag, require_integer, require_number


@pytest.mark.parametrize("value", [0.0, 1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_within_the_range_become_floats(value):
    found = require_number("part", "x", value, low=0.0, high=1.0)
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True, 1j])
def test_numbers_outside_are_refused(value):
    with pytest.raises(InvalidArgument) as caught:
        require_number("part", "x", value, low=0.0, high=1.0)
    assert str(caught.value) == f"part: x={value!r} is not a number in [0, 1]."


def test_open_ends_are_written_with_round_brackets():
    with pytest.raises(InvalidArgument, match=r"in \(0, 1\)"):
        require_number("part", "x", 0.0, low=0.0, high=1.0, include_low=False, include_high=False)
    with pytest.raises(InvalidArgument, match=r"in \(0, 1\)"):
        require_number("part", "x", 1.0, low=0.0, high=1.0, include_low=False, include_high=False)


def test_infinity_is_accepted_only_where_the_range_includes_it():
    assert require_number("part", "x", float("inf")) == float("inf")
    with pytest.raises(InvalidArgument):
        require_number("part", "x", float("inf"), high=float("inf"), include_high=False)


@pytest.mark.parametrize("value", [1, 3, np.int32(2)])
def test_integers_within_the_range_become_ints(value):
    assert type(require_integer("part", "n", value, low=1, high=3)) is int


@pytest.mark.parametrize("value", [0, 4, 2.0, "2", True, None])
def test_integers_outside_are_refused(value):
    with pytest.raises(InvalidArgument, match="is not an integer from 1 to 3"):
        require_integer("part", "n", value, low=1, high=3)
    with pytest.raises(InvalidArgument, match="is not an integer >= 5"):
        require_integer("part", "n", value, low=5)


def test_flags_are_true_or_false_and_nothing_else():
    assert require_flag("part", "on", True) is True
    for value in (1, 0, "yes", None):
        with pytest.raises(InvalidArgument, match=f"on={value!r} is not True or False"):
            require_flag("part", "on", value)


def test_choices_are_listed():
    assert require_choice("part", "how", "a", ("a", "b")) == "a"
    with pytest.raises(InvalidArgument, match="how='c' is not one of 'a', 'b'"):
        require_choice("part", "how", "c", ("a", "b"))
