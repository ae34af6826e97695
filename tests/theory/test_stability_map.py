"""The map's growth, read from the recursion itself, is the spectral radius; and its page's picture in numbers."""

import numpy as np
import pytest

from tardigrad.errors import InvalidArgument
from tardigrad.theory.stability import growth
from tardigrad.theory.stability_map import growth_map


@pytest.mark.parametrize(("momentum", "curvature"), [(0.0, 0.5), (0.9, 0.02)])
@pytest.mark.parametrize("step", [None, 1.0, 10.0])
def test_growth_in_the_map_is_the_spectral_radius(momentum, curvature, step):
    estimates, delays = [0.0, 0.02, 0.7, 3.0, 300.0], [1, 4, 30]
    drawn = growth_map(curvature, estimates, delays, momentum=momentum, step=step)
    assert drawn.shape == (3, 5)
    setting = {"lr": 1.0, "momentum": momentum, "step": step}
    for row, delay in zip(drawn, delays, strict=True):
        exact = [growth([[curvature]], [[estimate]], delay=delay, **setting) for estimate in estimates]
        assert row == pytest.approx(exact, rel=4e-3)


def test_stable_strip_as_it_is_and_half_plane_damped():
    """At a long delay: h / 2 < e < 1 / lr + h / 2 as it is, e > h / (2 - lr h) damped."""
    estimates = np.array([0.2, 0.3, 1.2, 1.35, 20.0])
    assert list(growth_map(0.5, estimates, [120])[0] < 1.0) == [False, True, True, False, False]
    estimates = np.array([0.3, 0.36, 1.35, 20.0, 1000.0])
    assert list(growth_map(0.5, estimates, [120], step=1.0)[0] < 1.0) == [False, True, True, True, True]


def test_a_map_begins_at_delay_1():
    with pytest.raises(InvalidArgument, match="delay"):
        growth_map(0.5, [1.0], [0])
