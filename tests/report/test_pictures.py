"""Pictures hold the numbers they show: what is drawn is read back from the figure."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from fake_runs import config, evaluations, log_lines, summary, write_cell, write_run
from scipy import stats

from tardigrad.errors import MissingDependencyError
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs, load_run
from tardigrad.report.compensation import compensation, measured_ratios, running_median
from tardigrad.report.curves import error_against
from tardigrad.report.rates import error_against_rate
from tardigrad.report.staleness import geometric_law, staleness, staleness_run
from tardigrad.report.style import LOOKS, drawing, looks, spread_out


def drawn(axis, label):
    """The curve of an algorithm: the line in its colour with most points inside the axes."""
    inside = [line for line in axis.lines if line.get_transform() == axis.transData]
    lines = [line for line in inside if line.get_color() == LOOKS[label].colour]
    return max(lines, key=lambda line: len(line.get_xdata())).get_data()


def test_error_against_rate_shows_the_means_and_counts_the_diverged(comparison):
    axis = error_against_rate(comparison).axes[0]
    assert axis.get_xscale() == "log"
    assert axis.get_yscale() == "log"
    for series in comparison.series:
        rates, means = drawn(axis, series.label)
        assert list(means) == pytest.approx([cell.last_ten("test").mean for cell in series.cells])
        assert list(rates) == pytest.approx([cell.lr for cell in series.cells], rel=0.12)
    crosses = sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "x")
    assert crosses == sum(series.diverged for series in comparison.series) > 0


def test_every_algorithm_is_named_in_every_picture(comparison):
    names = {series.label for series in comparison.series}
    for figure in (error_against_rate(comparison), error_against(comparison), error_against(comparison, "time")):
        words = {text.get_text().partition(",")[0] for text in figure.axes[0].texts}
        assert names <= words


def test_names_beside_the_curves_do_not_overlap(comparison):
    figure = error_against_rate(comparison)
    figure.draw_without_rendering()
    names = {series.label for series in comparison.series}
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text() in names]
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert len(tops) == len(names)
    assert all(below[1] <= above[0] + 1 for below, above in pairwise(tops))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_one_rate_gives_no_picture_against_it(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.05, 0.06))
    assert error_against_rate(compare_runs(find_runs(tmp_path))) is None


def test_several_worker_counts_have_a_panel_each_with_sequential_in_it(tmp_path):
    for lr in (0.1, 0.2):
        write_cell(tmp_path, "sequential", workers=1, lr=lr, test=(0.01,))
        for workers in (4, 8):
            write_cell(tmp_path, "asgd", workers=workers, lr=lr, test=(0.05,))
    figure = error_against_rate(compare_runs(find_runs(tmp_path)))
    assert len(figure.axes) == 2
    for axis in figure.axes:
        assert {"sequential", "asgd"} <= {text.get_text() for text in axis.texts}


def test_curves_are_means_and_a_diverged_run_keeps_its_last_value(tmp_path):
    for seed, test in ((0, [0.4, 0.2, 0.2]), (1, [0.9])):
        ended = "finished" if seed == 0 else "diverged"
        write_run(
            tmp_path / str(seed),
            config=config(seed=seed),
            evaluations=evaluations(test, diverged=seed == 1),
            summary=summary(ended),
        )
    axis = error_against(compare_runs(find_runs(tmp_path))).axes[0]
    epochs, means = drawn(axis, "asgd")
    assert list(epochs) == [1.0, 2.0, 3.0]
    assert list(means) == pytest.approx([65.0, 55.0, 55.0])


def test_the_time_axis_is_time(tmp_path):
    write_run(tmp_path / "a", config=config(), evaluations=evaluations([0.4, 0.2], time=7.0), summary=summary())
    axis = error_against(compare_runs(find_runs(tmp_path)), "time").axes[0]
    assert list(drawn(axis, "asgd")[0]) == [7.0, 14.0]
    assert axis.get_xlabel() == "virtual time (s)"


def test_a_perfect_score_does_not_break_the_logarithm(tmp_path):
    write_run(tmp_path / "a", config=config(), evaluations=evaluations([0.9, 0.01, 0.0]), summary=summary())
    axis = error_against(compare_runs(find_runs(tmp_path))).axes[0]
    assert axis.get_yscale() == "symlog"
    assert axis.get_ylim()[0] < 0


def test_the_staleness_law_is_the_geometric_one(comparison):
    run = staleness_run(comparison)
    assert run.workers == 16
    law = geometric_law(run, 50)
    assert law == pytest.approx(stats.geom.pmf(np.arange(1, 51), 1 / 16))


@pytest.mark.parametrize(
    "fields",
    [
        {"delay": "constant(mean=1.0)"},
        {"speeds": [1.0] * 15 + [2.0]},
        {"straggler_probability": 0.1},
        {"service": 0.01},
        {"latency": 0.1},
        {"consistency": "ssp(2)"},
        {"max_staleness": 8},
        {"batch_size": [8] * 16},
    ],
)
def test_the_law_is_drawn_only_where_it_holds(tmp_path, fields):
    run = load_run(
        write_run(tmp_path / "a", config=config(**fields), evaluations=evaluations([0.1]), summary=summary())
    )
    assert geometric_law(run, 10) is None
    assert len(staleness(run).axes[1].lines) == 1  # the mean alone


def test_the_histogram_shows_the_shares(tmp_path):
    end = summary(workers=2)
    end["staleness"]["histogram"] = {"0": {"0": 3, "1": 1}, "1": {"2": 4}}
    run = load_run(write_run(tmp_path / "a", config=config(workers=2), evaluations=evaluations([0.1]), summary=end))
    left, right, *_ = staleness(run).axes
    assert left.images[0].get_array().tolist() == [[75.0, 25.0, 0.0], [0.0, 0.0, 100.0]]
    assert [bar.get_height() for bar in right.patches] == pytest.approx([37.5, 12.5, 50.0])


def test_a_run_without_summary_has_no_staleness(tmp_path):
    run = load_run(write_run(tmp_path / "a", config=config(), evaluations=evaluations([0.1])))
    assert staleness(run) is None


def test_synchronous_runs_are_shown_only_for_want_of_others(tmp_path):
    write_cell(tmp_path, "ssgd", workers=32, test=(0.1,))
    assert staleness_run(compare_runs(find_runs(tmp_path))).label == "ssgd"
    write_cell(tmp_path, "asgd", workers=8, test=(0.1,))
    assert staleness_run(compare_runs(find_runs(tmp_path))).label == "asgd"


def test_compensation_ratios_come_from_the_log(tmp_path):
    log = log_lines(commits=40, ratio=lambda version: None if version % 4 else (0.0 if version == 40 else version / 10))
    write_run(tmp_path / "a", config=config("dc-asgd-a"), evaluations=evaluations([0.1]), summary=summary(), log=log)
    comparison = compare_runs(find_runs(tmp_path))
    versions, ratios = measured_ratios(comparison.runs[0])
    assert versions == list(range(4, 40, 4))
    assert ratios == pytest.approx([v / 10 for v in versions])
    axis = compensation(comparison).axes[0]
    assert axis.get_yscale() == "log"
    assert list(drawn(axis, "dc-asgd-a")[1]) == pytest.approx(ratios)


def test_without_measurements_there_is_no_picture_of_them(tmp_path):
    write_cell(tmp_path, "asgd", test=(0.1,))
    assert compensation(compare_runs(find_runs(tmp_path))) is None


def test_the_running_median_is_numpys():
    ratios = [float(v) for v in np.random.default_rng(0).permutation(12)]
    x, y = running_median(list(range(12)), ratios, pieces=4)
    assert x == [1.0, 4.0, 7.0, 10.0]
    assert y == [float(np.median(ratios[i : i + 3])) for i in range(0, 12, 3)]


def test_algorithms_keep_their_look_and_strangers_get_one_of_their_own():
    alone, among = looks(["dc-asgd"]), looks(["mine", "asgd", "yours", "dc-asgd"])
    assert alone["dc-asgd"] == among["dc-asgd"] == LOOKS["dc-asgd"]
    assert len({look.colour for look in among.values()}) == 4


def test_crowded_names_are_moved_apart_and_stay_inside():
    places = spread_out([1.0, 1.0, 0.99, 0.2, 0.0, 0.0], gap=0.1)
    assert places == pytest.approx([0.9, 1.0, 0.8, 0.2, 0.0, 0.1])


def test_without_matplotlib_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tardigrad\[report\]'"), drawing():
        pass
