"""The recorder: every event one line that says all of it, counts in the summary, nothing that grows with commits."""

import hashlib
import json
import math
import pickle

import pytest
import torch

import tardigrad
from tardigrad.checkpoint import read_checkpoint, write_checkpoint
from tardigrad.config import RunConfig
from tardigrad.directories import create_directory, cut_back, lives, may_go_on
from tardigrad.engines.base import Evaluation
from tardigrad.errors import RunDirectoryError
from tardigrad.layout import FlatLayout
from tardigrad.logs import read_events, read_header
from tardigrad.recording import EVENTS, Recorder, overall
from tardigrad.records import Commit, Contribution, Failure, Held, Lease, Push, Rejected, Snapshot

LAYOUT = FlatLayout.of([torch.zeros(2, 3), torch.zeros(4)], ["a", "b"])
LEASE = Lease(1, 32, 48)
END = {"message": "", "memory": {"weights": 40}, "gradients": "plainly"}


def recorder(directory, **arguments):
    return Recorder(directory, RunConfig(), layout=LAYOUT, samples_per_epoch=100, metric={"name": "error"}, **arguments)


def commit(version, *, worker=0, read=None, ratio=None, loss=0.5, norm=1.5):
    part = Contribution(worker, 0, version - 1 if read is None else read, LEASE, 16, loss, norm)
    return Commit(version, worker, version - 1 - part.read_version, (part,), 0.1, 3, ratio)


def push(**changes):
    return Push(2, torch.zeros(0), **({"lease": LEASE, "samples": 16, "incarnation": 1} | changes))


def evaluation(version, *, seconds=0.0):
    return Evaluation(
        version, 16 * version, 0.16 * version, 1.0, 2.0, 0.1, None, {"test": {"loss": 0.3}}, seconds=seconds
    )


def events(directory):
    return list(read_events(directory))


def test_each_event_is_one_line_with_all_its_columns(tmp_path):
    record = recorder(tmp_path)
    loss, norm = 1 / 3, float(torch.tensor(0.1))
    record.pulled(0.1234567, 2, Snapshot(7, [], LEASE, torch.zeros(0), incarnation=1))
    record.pulled(1e-7, 2, Snapshot(7, [], None, torch.zeros(0)))
    record.committed(1.0, commit(8, worker=2, read=5, ratio=0.123456789, loss=loss, norm=norm))
    record.committed(2.0, commit(9, loss=None, norm=math.inf, ratio=math.nan))
    record.held(3.0, push(loss=loss, norm=norm), Held(9, 2, 2))
    record.rejected(4.0, push(), Rejected(9, 2, 4, "stale", LEASE, lost=True))
    record.failed(5.0, Failure(2, 1, "raised", 9, exit_code=1, traceback='line "1"\nline 2 \u2028'))
    record.left(5.0, 2, 1, "failed")
    record.joined(6.5, 2, 2)
    record.noted(7.0, "the server was taken up again")
    record.digested(9, {"a": "00", "b": "11"})
    record.close()
    found, lease = events(tmp_path), [1, 32, 48]
    assert found == [
        ["pull", 0.123457, 2, 1, 7, lease],
        ["pull", 0.0, 2, 0, 7, None],
        ["commit", 1.0, 8, 0.1, 3, [[2, 0, 5, lease, 16, loss, norm]], 0.123457],
        ["commit", 2.0, 9, 0.1, 3, [[0, 0, 8, lease, 16, None, None]], None],
        ["held", 3.0, 2, 1, 7, lease, 16, loss, norm],
        ["reject", 4.0, 2, 1, 5, lease, "stale", True],
        ["fail", 5.0, 2, 1, 9, "raised", 1, 'line "1"\nline 2 \u2028'],
        ["leave", 5.0, 2, 1, "failed"],
        ["join", 6.5, 2, 2],
        ["note", 7.0, "the server was taken up again"],
        ["digest", 9, {"a": "00", "b": "11"}],
    ]
    for kind, *columns in found:
        assert len(columns) == len(EVENTS[kind])
    assert len(found[2][5][0]) == len(EVENTS["contribution"])
    header = read_header(tmp_path)
    assert (header["format"], header["commit_threads"], header["events"]) == (2, 1, EVENTS)


def test_the_summary_counts_what_happened(tmp_path):
    record = recorder(tmp_path)
    for version, ratio in ((1, None), (2, 0.5), (3, 2.0), (4, 0.2)):
        record.committed(1.0, commit(version, ratio=ratio, read=max(0, version - 2)))
    record.rejected(1.0, push(), Rejected(4, 2, 0, "non-finite", LEASE, lost=True))
    record.joined(1.0, 3, 0)
    for life, kind in enumerate(("died", "hung", "died")):
        record.failed(1.0, Failure(2, life, kind, 4))
        record.left(1.0, 2, life, "failed")
        if life < 2:
            record.joined(1.0, 2, life + 1)
    record.left(1.0, 3, 0, "removed")
    record.joined(1.0, 3, 1)
    record.evaluated(evaluation(4, seconds=0.25))
    record.evaluated(evaluation(2, seconds=0.5))  # it took longer than a later one
    record.save_weights(torch.arange(float(LAYOUT.size)), {})
    summary = record.finish("finished", **END)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["commits"], summary["version"], summary["samples"]) == (4, 4, 64)
    assert (summary["rejected"], summary["lost_samples"]) == ({"non-finite": 1}, 16)
    assert summary["staleness"] == {"mean": 0.75, "max": 1, "histogram": {"0": {"0": 1, "1": 3}}}
    assert summary["compensation_ratio"] == {"mean": pytest.approx(0.9), "max": 2.0}
    assert (summary["failures"], summary["restarts"]) == ({"died": 2, "hung": 1}, 2)
    assert (summary["joins"], summary["leaves"]) == (2, {"failed": 3, "removed": 1})
    assert summary["evaluations"] == {"number": 2, "seconds": 0.75}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_ratio_that_is_not_finite_is_not_hidden(tmp_path, bad):
    record = recorder(tmp_path)
    for version, ratio in ((1, 0.5), (2, bad), (3, 0.7)):
        record.committed(1.0, commit(version, ratio=ratio))
    record.finish("finished", **END)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["compensation_ratio"] == {"mean": None, "max": None}


@pytest.mark.parametrize("told", [True, False])
def test_the_digest_of_the_final_weights_ends_the_log_once(tmp_path, told):
    record, flat = recorder(tmp_path), torch.arange(float(LAYOUT.size))
    record.committed(1.0, commit(1))
    found = LAYOUT.digests(flat)
    if told:
        record.digested(1, found)
    record.save_weights(flat, {})
    summary = record.finish("finished", **END)
    known = {
        name: hashlib.blake2b(view.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for name, view in zip(LAYOUT.names, LAYOUT.views(flat), strict=True)
    }
    assert events(tmp_path)[1:] == [["digest", 1, known]]
    assert summary["digest"] == overall(known)
    assert len(summary["digest"]) == 16
    assert overall(known) != overall({**known, "b": known["a"]})


def test_every_run_ends_with_the_digest_of_its_weights(tmp_path):
    run = tardigrad.train("quadratic", epochs=1, directory=tmp_path / "run")
    layout = FlatLayout.of(run.weights(), list(run.state_dict()))
    kind, version, found = events(run.directory)[-1]
    assert (kind, version) == ("digest", run.summary["version"])
    assert list(found.values()) == list(layout.digests(layout.pack(run.weights())).values())
    assert run.summary["digest"] == overall(found)


def size(record):
    """Bytes of what a recorder keeps, files and their buffers aside."""
    return len(pickle.dumps((record._counts.__dict__, record.evaluations, record._digested)))


def test_nothing_that_is_kept_grows_with_commits(tmp_path):
    record, sizes = recorder(tmp_path, segment_bytes=20_000), []
    for version in range(1, 3001):
        record.pulled(1.0, 0, Snapshot(version, [], LEASE, torch.zeros(0)))
        record.committed(1.0, commit(version, ratio=0.5 + version))
        if version in (1000, 3000):
            sizes.append(size(record))
    end = record.positions()["log.jsonl"]
    record.close()
    assert sizes[1] - sizes[0] < 20  # numbers with more digits
    assert end.segment == len(list(tmp_path.glob("log-*.jsonl.gz"))) + 1 > 10
    assert sum(1 for _ in read_events(tmp_path, kind="commit")) == 3000


def test_a_checkpoint_of_what_was_long_ago_cuts_all_back(tmp_path):
    """State and positions are of one moment; written later, when log and evaluations have gone on over segments."""
    place = tmp_path / "run"
    place.mkdir()
    record = recorder(place, segment_bytes=300)
    for version in range(1, 8):
        record.committed(1.0, commit(version))
    record.evaluated(evaluation(3))
    state, growing = {"recorder": record.state_dict()}, record.positions()
    for version in range(8, 30):
        record.committed(1.0, commit(version))
    for version in (7, 20):  # of before the checkpoint, but it arrived late; and of after it
        record.evaluated(evaluation(version))
    write_checkpoint(place, state, version=7, growing=growing)
    record.close()
    assert may_go_on(place)
    found = read_checkpoint(place)
    (place / "status.json").write_text("{}")
    cut_back(place, found.growing)
    assert [event[2] for event in events(place)] == list(range(1, 8))
    undone = [json.loads(line) for line in (place / "undone-1.jsonl").read_text().splitlines()]
    assert [event[2] for event in undone] == list(range(8, 30))
    late = [json.loads(line) for line in (place / "undone-1-evaluations.jsonl").read_text().splitlines()]
    assert [one["version"] for one in late] == [7, 20]
    assert not (place / "status.json").exists()
    assert lives(place) == 0
    again = recorder(place, state=found.state["recorder"], segment_bytes=300)
    assert lives(place) == 1
    assert [one.version for one in again.evaluations] == [3]
    for version in range(8, 30):
        again.committed(1.0, commit(version))
    summary = again.finish("finished", **END)
    assert summary["commits"] == 29
    assert [event[2] for event in events(place)] == list(range(1, 30))


def test_a_run_of_many_segments_is_begun_anew_where_it_did_not_end(tmp_path):
    place = tmp_path / "run"
    create_directory(place)
    record = recorder(place, segment_bytes=300)
    for version in range(1, 20):
        record.committed(1.0, commit(version))
    record.close()
    known = ("status.json", "request.json", "status.tmp", "undone-1.jsonl", "undone-12-evaluations.jsonl",
             "checkpoint-3.json", "checkpoint-3.json.tmp", "log-000009.jsonl", "undone-2.jsonl.tmp")  # fmt: skip
    for name in known:
        (place / name).write_text("{}")
    (place / "log.jsonl").unlink()  # killed between closing a segment and beginning the next
    foreign = place / "log-mine.jsonl"
    foreign.write_text("mine")
    with pytest.raises(RunDirectoryError, match="holds files that are not a run"):
        create_directory(place)
    assert len(list(place.iterdir())) > len(known)
    foreign.unlink()
    create_directory(place)
    assert list(place.iterdir()) == []


def test_lives_of_a_place_without_a_run(tmp_path):
    assert lives(tmp_path) == 0


@pytest.mark.parametrize("name", ["weights.safetensors", "summary.tmp"])
def test_a_full_disk_at_the_end_is_said(tmp_path, name):
    record = recorder(tmp_path)
    (tmp_path / name).symlink_to("/dev/full")

    def end():
        record.save_weights(torch.zeros(LAYOUT.size), {})
        record.finish("finished", **END)

    with pytest.raises(
        RunDirectoryError, match=r"(weights\.safetensors|summary\.json) could not be written: the disk is"
    ):
        end()
