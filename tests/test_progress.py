"""The progress of one run: what stays on the screen, and where the bar of a run that goes on begins."""

import pytest
import torch

from tardigrad.config import RunConfig
from tardigrad.engines.base import Evaluation
from tardigrad.progress import TrainProgress
from tardigrad.records import Commit, Contribution, Failure, Lease, Push, Rejected, Snapshot


@pytest.fixture
def progress():
    with TrainProgress(RunConfig(workers=4), samples=1600, applied=800, metric=None) as shown:
        yield shown


def commit(version, *, read, samples=16, loss=0.5):
    part = Contribution(1, 0, read, Lease(0, 0, samples), samples, loss)
    return Commit(version, 1, version - 1 - read, (part,), 0.1, 4, None)


def evaluation(version):
    scores = {"test": {"loss": 2.5}}
    return Evaluation(
        version=version, samples=16, epoch=1.0, time=1.0, wall=1.0, lr=0.1, train_loss=None, scores=scores
    )


def test_a_run_that_goes_on_begins_where_it_was(progress, capsys):
    bar = progress._bar.tasks[0]
    assert (bar.completed, bar.total) == (800, 1600)
    progress.evaluated(evaluation(50))
    progress.committed(1.0, commit(51, read=48))
    progress._live = True
    progress.committed(1.0, commit(52, read=51))
    assert bar.completed == 832
    assert "staleness 1.0" in bar.fields["state"]


def test_the_pace_counts_what_was_applied_since_the_first_pull(progress, monkeypatch, capsys):
    times = iter([1000.0, 1002.0])
    monkeypatch.setattr("tardigrad.progress.perf_counter", lambda: next(times))
    snapshot = Snapshot(50, [], Lease(0, 0, 16), torch.zeros(1))
    progress.pulled(0.0, 0, snapshot)
    progress.pulled(0.0, 1, snapshot)
    progress.committed(1.0, commit(51, read=50))
    progress.evaluated(evaluation(51))
    assert "loss 0.5  8 samples/s  staleness 0.0" in capsys.readouterr().err


def test_the_initial_weights_are_named_so_even_if_judged_late(progress, capsys):
    progress.committed(1.0, commit(1, read=0))
    progress.evaluated(evaluation(0))
    assert capsys.readouterr().err.endswith("loss 2.5 before training\n")


def test_what_happens_to_workers_is_a_line_that_stays(progress, capsys):
    progress.failed(1.5, Failure(2, 0, "died", 40, -9))
    progress.left(1.5, 2, 0, "failed")
    progress.joined(1.6, 2, 1)
    progress.failed(2.5, Failure(1, 3, "raised", 41, 1, "Traceback\n  [bold]line[/bold]\nValueError: [no] such thing"))
    progress.failed(3.5, Failure(0, 0, "hung", 42, -9))
    progress.joined(4.0, 4, 0)
    progress.left(5.0, 3, 0, "removed")
    progress.joined(5.5, 3, 1)
    progress.noted(6.0, "the disk is full")
    assert capsys.readouterr().err.splitlines() == [
        "1.5 s: worker 2 (life 0) died at version 40, exit code -9",
        "1.6 s: worker 2 is restarted, life 1",
        "2.5 s: worker 1 (life 3) raised at version 41, exit code 1: ValueError: [no] such thing",
        "3.5 s: worker 0 (life 0) hung at version 42, exit code -9",
        "4.0 s: worker 4 is added",
        "5.0 s: worker 3 leaves: removed",
        "5.5 s: worker 3 is added",
        "6.0 s: the disk is full",
    ]


def test_rejections_are_counted(progress, capsys):
    push = Push(1, torch.zeros(1), Lease(0, 0, 16), 16)
    progress.rejected(1.0, push, Rejected(50, 1, 3, "stale", Lease(0, 0, 16)))
    progress.committed(1.0, commit(51, read=50))
    progress.evaluated(evaluation(51))
    assert capsys.readouterr().err.rstrip().endswith("1 rejected")
