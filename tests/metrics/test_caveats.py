"""What a reader is told beside the numbers: workers that failed."""

from fake_runs import config, evaluations, summary, write_local, write_run

from tardigrad.metrics.caveats import caveats
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs


def test_failures_are_told_in_one_line(tmp_path):
    write_local(tmp_path / "a", seed=0, failures={"died": 2, "hung": 1})
    write_local(tmp_path / "b", seed=1, failures={"raised": 1})
    write_local(tmp_path / "c", seed=2)
    (words,) = [sentence for sentence in caveats(compare_runs(find_runs(tmp_path))) if "failed" in sentence]
    assert words.startswith("Workers failed in 2 of 3 runs (4 failures, 4 restarts): ")


def test_where_none_failed_none_is_told(tmp_path):
    write_local(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", config=config("dc-asgd-a", seed=1), evaluations=evaluations([0.5]), summary=summary())
    assert not [sentence for sentence in caveats(compare_runs(find_runs(tmp_path))) if "failed" in sentence]
