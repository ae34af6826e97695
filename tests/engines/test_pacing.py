"""Batches as large as their workers are fast."""

from tardigrad.engines.local.pacing import Pace


def measured(pace, speeds, times):
    """What changes while each worker pushes so often, 8 samples at its speed."""
    changed = {}
    for _ in range(times):
        for worker, speed in enumerate(speeds):
            changed |= pace.pushed(worker, 8, 8 / speed, live=range(len(speeds)))
    return changed


def test_nothing_changes_before_every_worker_was_measured_often_enough():
    pace = Pace(32)
    assert measured(pace, [100.0, 25.0], 7) == {}
    assert measured(pace, [100.0, 25.0], 1) == {0: 51, 1: 13}


def test_the_mean_stays_and_no_batch_becomes_tiny():
    assert measured(Pace(32), [1000.0, 1.0], 8) == {0: 64, 1: 8}
    sizes = measured(Pace(30), [10.0, 20.0, 30.0], 8)
    assert sizes == {0: 15, 2: 45}  # the middle one has what it had


def test_like_workers_keep_their_batches_and_a_change_is_measured_anew():
    assert measured(Pace(32), [100.0, 104.0], 40) == {}
    pace = Pace(32)
    measured(pace, [100.0, 25.0], 8)
    assert measured(pace, [100.0, 25.0], 30) == {}
    assert measured(pace, [25.0, 25.0], 16) == {0: 32, 1: 32}
