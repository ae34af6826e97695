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
