"""Run directories for the report's tests, written by the same code as those of the metrics' tests."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "metrics"))  # fake_runs and plausible_runs


@pytest.fixture(scope="session")
def plausible(tmp_path_factory):
    """Seven algorithms, five learning rates, three seeds, 16 workers; some at 92 %, others at 1 to 3 %."""
    from plausible_runs import write_plausible

    return write_plausible(tmp_path_factory.mktemp("plausible"))


@pytest.fixture(scope="session")
def comparison(plausible):
    """The same, read and compared."""
    from tardigrad.metrics.comparison import compare_runs
    from tardigrad.metrics.runs import find_runs

    return compare_runs(find_runs(plausible))


@pytest.fixture(scope="session")
def tuned_runs(tmp_path_factory):
    """A tuned comparison: nine algorithms at 8 and 32 workers, with controls, five seeds."""
    from tuned_runs import write_plausible_tuned

    return write_plausible_tuned(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="session")
def tuned(tuned_runs):
    """The same, read and compared."""
    from tardigrad.metrics.comparison import compare_runs
    from tardigrad.metrics.runs import find_runs

    return compare_runs(find_runs(tuned_runs))


@pytest.fixture
def by_hand(tmp_path):
    """The comparison whose differences stand in tuned_example, with two controls and clipping."""
    from tuned_example import arms, read
    from tuned_runs import Arm

    controls = {
        "its-length": ((0.44, 0.45, 0.44, 0.445, 0.43), (0.46, 0.47, 0.46, 0.46, 0.48)),
        "sign-flipped": ((0.50, 0.53, 0.52, 0.50, 0.51), (0.92,) * 5),
    }
    every = arms() | {"clipping": Arm(0.1, (0.44,) * 5, (0.50, 0.51, 0.50, 0.50, 0.51))}
    return read(tmp_path / "by-hand", every, controls=controls, beside=(0.47, 0.48, 0.46, 0.47, 0.465))
