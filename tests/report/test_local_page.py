"""A page of runs with real workers: wall time, new kinds of events, failures."""

from fake_runs import write_local

from tardigrad.report.page import write_report


def test_a_page_of_runs_with_real_workers(tmp_path):
    for seed in range(2):
        write_local(tmp_path / "runs" / str(seed), seed=seed, failures={"died": 1})
    page = write_report(tmp_path / "runs", tmp_path / "out").html.read_text(encoding="utf-8")
    assert "Workers failed in 2 of 2 runs (2 failures, 2 restarts)" in page
    assert "Virtual seconds" not in page
    assert "compensation" in page
