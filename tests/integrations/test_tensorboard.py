"""Curves for TensorBoard, read back by TensorBoard's own reader."""

import errno
import sys

import pytest

from tardigrad.engines.base import Evaluation
from tardigrad.integrations.tensorboard import PREFIX, EventFiles, event_files
from tardigrad.records import Commit, Contribution, Lease, Push, Rejected


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch):
    monkeypatch.delenv("TARDIGRAD_TENSORBOARD")


def commit(version, *, loss=0.5, samples=4, staleness=2, lr=0.1, ratio=None):
    part = Contribution(0, 0, version - 1 - staleness, Lease(0, 0, samples), samples, loss, 1.0)
    return Commit(version, 0, staleness, (part,), lr, 1, ratio)


def evaluation(samples, time, **scores):
    return Evaluation(1, samples, 0.5, time, 0.0, 0.1, None, {"test": scores})


def read(directory):
    """Tag -> list of (step, value); and tag -> wall times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory))
    found.Reload()
    tags = found.Tags()["scalars"]
    values = {tag: [(point.step, round(point.value, 6)) for point in found.Scalars(tag)] for tag in tags}
    return values, {tag: [point.wall_time for point in found.Scalars(tag)] for tag in tags}


def test_a_point_is_the_mean_over_25_commits(tmp_path):
    events = event_files(tmp_path)
    for version in range(1, 51):
        events.committed(float(version), commit(version, loss=float(version), staleness=version % 3, lr=1.0 / version))
    events.close()
    values, walls = read(tmp_path)
    assert values["tardigrad/loss"] == [(100, 13.0), (200, 38.0)]
    assert values["tardigrad/staleness"] == [(100, 1.0), (200, 1.04)]
    assert values["tardigrad/lr"] == [(100, 0.04), (200, 0.02)]
    assert values["tardigrad/rejected"] == [(100, 0.0), (200, 0.0)]
    assert walls["tardigrad/loss"][1] - walls["tardigrad/loss"][0] == pytest.approx(25.0)
    assert set(values) == {"tardigrad/loss", "tardigrad/staleness", "tardigrad/lr", "tardigrad/rejected"}


def test_a_ratio_has_a_curve_where_it_is_measured_and_a_loss_where_it_is_known(tmp_path):
    events = EventFiles(tmp_path)
    for version in range(1, 26):
        events.committed(0.0, commit(version, loss=None, ratio=0.25 if version in (3, 7) else None))
    values, _walls = read(tmp_path)  # before it is closed
    assert values["tardigrad/compensation_ratio"] == [(100, 0.25)]
    assert "tardigrad/loss" not in values


def test_a_loss_that_is_not_finite_is_left_out_of_the_mean(tmp_path):
    events = EventFiles(tmp_path)
    for loss in (1.0, float("nan"), 3.0):
        events.committed(0.0, commit(1, loss=loss))
    events.close()
    assert read(tmp_path)[0]["tardigrad/loss"] == [(12, 2.0)]


def test_evaluations_stand_where_they_belong_and_numbers_of_the_users_own_where_they_are_logged(tmp_path):
    events = EventFiles(tmp_path)
    for version in range(1, 11):
        events.committed(float(version), commit(version))
    events.rejected(10.0, Push(0, None), Rejected(10, 0, 0, "non-finite"))
    events.evaluated(evaluation(20, 10.0, loss=0.25, error=0.5))
    events.logged(11.0, 1, 10, {"perplexity": 12.5})
    events.committed(12.0, commit(11))
    events.close()
    values, _walls = read(tmp_path)
    assert values["test/loss"] == [(20, 0.25)]
    assert values["test/error"] == [(20, 0.5)]
    assert values["perplexity"] == [(40, 12.5)]
    # what was gathered is written at an evaluation, and at the end
    assert values["tardigrad/rejected"] == [(40, 1.0), (44, 1.0)]
    assert values["tardigrad/loss"] == [(40, 0.5), (44, 0.5)]


def test_a_run_that_goes_on_takes_back_what_was_undone(tmp_path):
    first = EventFiles(tmp_path)
    for samples in (4, 8, 12):
        first.evaluated(evaluation(samples, 1.0, loss=float(samples)))
    first.close()
    second = EventFiles(tmp_path, samples=8)
    second.committed(1.0, commit(3, loss=7.0))
    second.evaluated(evaluation(16, 2.0, loss=16.0))
    second.close()
    values, _walls = read(tmp_path)
    assert values["test/loss"] == [(4, 4.0), (8, 8.0), (16, 16.0)]
    assert values["tardigrad/loss"] == [(12, 7.0)]
    assert len(list(tmp_path.glob(PREFIX + "*"))) == 2


def test_a_full_disk_ends_the_curves_and_not_the_run(tmp_path, monkeypatch):
    events = EventFiles(tmp_path)
    events.evaluated(evaluation(4, 1.0, loss=1.0))

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(events._records, "write", full)
    events.evaluated(evaluation(8, 1.0, loss=2.0))
    events.evaluated(evaluation(12, 1.0, loss=3.0))
    events.close()
    events.close()
    assert read(tmp_path)[0]["test/loss"] == [(4, 1.0)]


def test_it_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TARDIGRAD_TENSORBOARD", "off")
    assert event_files(tmp_path) is None


def test_without_a_place_or_without_tensorboard_there_are_no_curves(tmp_path, monkeypatch):
    assert event_files(tmp_path / "nowhere") is None
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert event_files(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_tensorboard_that_cannot_be_imported_is_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    assert event_files(tmp_path) is None
