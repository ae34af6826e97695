"""Durations as people type them."""

import math

import pytest

from tardigrad.errors import InvalidArgument
from tardigrad.options import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("9m", 540.0), ("1h30m", 5400.0), ("1h 5s", 3605.0), ("0.5m", 30.0), ("", math.inf)],
)
def test_a_duration_in_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0", "0m", "soon", "9 minutes", "-5m", "5m9h", " "])
def test_anything_else_gets_a_sentence(text):
    with pytest.raises(InvalidArgument, match="type 9m, 90s or 1h30m"):
        seconds_of(text)
