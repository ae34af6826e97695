"""A replay is bit for bit the run; whatever was altered is found, and where."""

import gzip
import math
import shutil

import pytest
import safetensors.torch

import tardigrad
from recorded_runs import (
    NOISY,
    edit,
    edit_json,
    lines_of,
    noisy_task,
    number_of,
    record,
    require_same,
    swap_commits,
    weights_of,
    write_lines,
)
from tardigrad.audit import audit
from tardigrad.engines.base import Observer
from tardigrad.errors import Diverged, ReplayError
from tardigrad.metrics.runs import load_run
from tardigrad.replaying import replay

CONSISTENCIES = ("asynchronous", "ssp(1)", "synchronous", "synchronous(wait_for=2)")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One run, never altered."""
    place = tmp_path_factory.mktemp("recorded") / "run"
    record(place)
    return place


@pytest.fixture
def copied(recorded, tmp_path):
    """A copy of it, to be altered."""
    return shutil.copytree(recorded, tmp_path / "run")


# -- equal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", CONSISTENCIES)
@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "dc-asgd-a", "batchnorm": "recalibrate"},
        {"rule": "asgd", "leases": "static", "batchnorm": "latest"},
        {"rule": "dc-asgd-a(shared=True)", "momentum": 0.0, "max_staleness": 1, "batch_size": (2, 8, 4)},
        {"rule": "dc-asgd-c", "task": noisy_task(bad_sample=7)},
    ],
    ids=["recalibrate", "static", "rejected as stale", "not finite"],
)
def test_a_replay_is_bitwise_equal(tmp_path, consistency, changes):
    run = record(tmp_path / "run", consistency=consistency, **changes)
    found = replay(run.directory, task=changes.get("task", NOISY))
    assert found.equal, found.verdict
    assert found.compared_end
    assert (found.commits, found.version) == (run.summary["commits"],) * 2
    assert found.pushes == sum(sum(counts.values()) for counts in run.summary["staleness"]["histogram"].values())
    assert found.digests >= 3
    require_same(found.state_dict(), run.state_dict())
    assert found.verdict == f"bitwise equal: {found.commits} commits, {found.digests} digests, final weights"


def test_the_runs_above_meet_rejections_and_held_pushes(tmp_path):
    stale = record(tmp_path / "stale", max_staleness=1)
    bad = record(tmp_path / "bad", task=noisy_task(bad_sample=7), rule="dc-asgd-c")
    late = record(tmp_path / "late", consistency="synchronous(wait_for=2)")
    assert set(stale.summary["rejected"]) == {"stale"}
    assert bad.summary["rejected"] == {"non-finite": 6}
    assert bad.summary["lost_samples"] == 8
    assert set(late.summary["rejected"]) == {"late"}
    assert any(line[0] == "held" for line in lines_of(late.directory)[1:])


@pytest.mark.parametrize("recipe", ["digits", "quadratic"])
def test_a_recipe_is_found_again_by_its_name(tmp_path, recipe):
    run = tardigrad.train(recipe, epochs=1, workers=8, directory=tmp_path / "run")
    found = tardigrad.replay(run.directory)
    assert found.equal
    require_same(found.state_dict(), weights_of(run.directory))


def test_a_run_that_diverged_is_replayed_to_its_end(tmp_path):
    with pytest.raises(Diverged):
        tardigrad.train("quadratic", rule="asgd", lr=1e4, workers=4, epochs=2, directory=tmp_path / "run")
    found = replay(tmp_path / "run")
    assert found.equal, found.verdict
    assert found.compared_end
    again = replay(tmp_path / "run", directory=tmp_path / "again")
    assert again.equal, again.verdict
    assert load_run(tmp_path / "again").status == "diverged"
    assert load_run(tmp_path / "run").status == "diverged"


def test_a_log_that_was_torn_is_replayed_as_far_as_it_goes(copied):
    text = (copied / "log.jsonl").read_text()
    (copied / "log.jsonl").write_text(text[: len(text) // 2])
    for name in ("summary.json", "weights.safetensors"):
        (copied / name).unlink()
    found = replay(copied, task=NOISY)
    assert found.equal
    assert not found.compared_end
    assert 0 < found.commits < 30
    assert "final weights" not in found.verdict


def test_observers_are_told_the_run_again(recorded):
    told = []

    class Told(Observer):
        def pulled(self, time, worker, snapshot):
            told.append(("pull", worker, snapshot.version))

        def committed(self, time, commit):
            told.append(("commit", commit.worker, commit.version))

    replay(recorded, task=NOISY, observers=[Told()])
    logged = [
        ("pull", line[2], line[4]) if line[0] == "pull" else ("commit", line[5][0][0], line[2])
        for line in lines_of(recorded)[1:]
        if line[0] in ("pull", "commit")
    ]
    assert told == logged


# -- not equal -----------------------------------------------------------------------------------------------


def test_two_commits_swapped_are_found_between_two_versions(copied):
    version = edit(copied, swap_commits)
    assert all("summary.json" in words for words in audit(copied).violations), "the log could have been written so"
    found = replay(copied, task=NOISY)
    assert not found.equal
    low, high = found.interval
    assert low < version <= high
    assert low <= found.agrees_until < version
    assert f"after version {low}" in found.verdict
    assert f"by {high}" in found.verdict
    assert found.compared_end
    assert "4.weight" in {tensor.name for tensor in found.tensors}
    assert max(tensor.largest for tensor in found.tensors) > 0.0


def test_digests_tell_the_version_exactly(tmp_path):
    run = record(tmp_path / "run", digest_every=1)

    def swap_the_last_two(lines):
        numbers = [number_of(lines, "commit", nth=-2), number_of(lines, "commit", nth=-1)]
        (one, other) = (lines[number] for number in numbers)
        one[5], other[5] = other[5], one[5]
        return one[2]

    version = edit(run.directory, swap_the_last_two)
    found = replay(run.directory, task=NOISY)
    assert found.interval == (version - 1, version)
    assert f"the weights part at version {version}; those of version {version - 1} are equal" in found.verdict


def test_a_digit_of_a_loss_is_found_and_said_to_be_the_logs(copied):
    def alter(lines):
        part = lines[number_of(lines, "commit", version=15)][5][0]
        part[5] = math.nextafter(part[5], math.inf)
        return part[2]

    read = edit(copied, alter)
    found = replay(copied, task=NOISY)
    assert [difference.kind for difference in found.differences] == ["loss"]
    assert found.differences[0].version == read
    assert found.interval[1] == read
    assert found.equal_again > read
    assert "it is the log that was altered" in found.verdict


@pytest.mark.parametrize(
    ("kind", "event", "place", "value"),
    [
        ("lr", "commit", 3, 0.04),
        ("live", "commit", 4, 2),
        ("norm", "commit", (5, 0, 6), 1.5),
        ("samples", "commit", (5, 0, 4), 3),
        ("incarnation", "commit", (5, 0, 1), 1),
        ("staleness", "commit", (5, 0, 2), 0),
        ("lease", "pull", 5, [1, 0, 4]),
        ("lease", "commit", (5, 0, 3), [1, 0, 4]),
        ("incarnation", "pull", 3, 1),
        ("digest", "digest", (2, "1.weight"), "0" * 16),
    ],
)
def test_an_altered_number_is_found_and_its_line_named(copied, kind, event, place, value):
    def alter(lines):
        number = number_of(lines, event, nth=1 if event == "digest" else 9)
        *way, last = place if isinstance(place, tuple) else (place,)
        target = lines[number]
        for step in way:
            target = target[step]
        target[last] = value
        return number + 1

    line = edit(copied, alter)
    found = replay(copied, task=NOISY)
    assert not found.equal
    first = {difference.kind: difference for difference in found.differences}[kind]
    assert first.line == line
    assert f"line {line}" in found.verdict


@pytest.mark.parametrize("kind", ["pull", "commit"])
def test_a_missing_line_contradicts_the_rest(copied, kind):
    edit(copied, lambda lines: lines.pop(number_of(lines, kind, nth=9)))
    with pytest.raises(ReplayError, match=r"line \d+ of the log cannot follow"):
        replay(copied, task=NOISY)
    assert not audit(copied).ok


def test_a_log_that_ends_too_early_is_found(copied):
    edit(copied, lambda lines: lines.__delitem__(slice(number_of(lines, "commit", nth=-1), None)))
    found = replay(copied, task=NOISY)
    assert [difference.kind for difference in found.differences] == ["end"]
    assert not found.equal


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "1.num_batches_tracked"])
def test_altered_final_weights_are_found_by_name(copied, name):
    tensors = weights_of(copied)
    tensors[name].view(-1)[0] += 1
    safetensors.torch.save_file(tensors, copied / "weights.safetensors")
    found = replay(copied, task=NOISY)
    assert [(tensor.name, tensor.largest) for tensor in found.tensors] == [(name, pytest.approx(1.0))]
    assert "that file was altered" in found.verdict
    (copied / "weights.safetensors").write_bytes(b"torn")
    assert not replay(copied, task=NOISY).equal


def test_another_gradient_parts_at_the_start(recorded):
    """What computes otherwise from the first gradient on: the verdict says so, and does not blame the commit."""
    other = noisy_task()
    other.train.inputs.mul_(1.001)
    found = replay(recorded, task=other)
    assert found.interval == (0, 1)
    assert found.computed_otherwise == 0
    assert "On the weights of version 0, which are equal, another gradient is computed here" in found.verdict


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "config", "sentence"),
    [
        ({"format": 1}, {}, "format 1"),
        ({"commit_path": "sharded"}, {"commit_path": "sharded"}, "the path 'sharded'.*, which is not here"),
        ({"commit_path": "compiled"}, {"commit_path": "exact"}, "'compiled' .config.json: 'exact'., which is not here"),
        ({"device": "cuda:7"}, {"device": "cuda:7"}, "cannot be replayed here: device 'cuda:7'"),
        ({"layout": "0" * 16}, {}, "is not the one that was trained"),
        ({"seed": 5}, {}, r"config.json says seed=0, the log 5"),
        ({"task": "gone"}, {"task": "gone"}, "its task 'gone' cannot be built"),
    ],
)
def test_what_cannot_be_replayed_here_is_refused(copied, header, config, sentence):
    edit(copied, lambda lines: lines[0].update(header))
    edit_json(copied / "config.json", **config)
    with pytest.raises(ReplayError, match=sentence):
        replay(copied, task=None if "task" in header else NOISY)


def test_data_that_is_not_here_is_refused(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("TARDIGRAD_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr("tardigrad.tasks.TASKS.build", _no_data)
    with pytest.raises(ReplayError, match=r"cannot be built\. no such data"):
        replay(copied)


def _no_data(spec, **keywords):
    from tardigrad.errors import DataError

    raise DataError("no such data")


def test_other_versions_are_a_caution_in_warning_and_verdict(copied):
    edit(copied, lambda lines: lines[0].update(torch="1.0"))
    edit_json(copied / "environment.json", cpu="Another Processor")
    with pytest.warns(UserWarning, match=r"torch 1\.0, here .*; processor Another Processor"):
        found = replay(copied, task=NOISY)
    assert found.equal
    edit(copied, lambda lines: lines[number_of(lines, "commit", nth=3)].__setitem__(3, 7.0))
    with pytest.warns(UserWarning, match="last bits may differ"):
        assert "last bits may differ" in replay(copied, task=NOISY).verdict


def test_write_lines_is_what_was_read(recorded, tmp_path):
    """The tools of these tests change nothing by themselves."""
    place = shutil.copytree(recorded, tmp_path / "run")
    write_lines(place, lines_of(place))
    assert replay(place, task=NOISY).equal


def test_a_log_in_segments_is_one_log(recorded, tmp_path):
    """The first half closed and compressed: replayed, and audited, as if it were one file."""
    place = shutil.copytree(recorded, tmp_path / "run")
    lines = (place / "log.jsonl").read_bytes().splitlines(keepends=True)
    (place / "log-000001.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:20])))
    (place / "log.jsonl").write_bytes(b"".join(lines[20:]))
    found = replay(place, task=NOISY)
    assert (found.equal, found.compared_end) == (True, True)
    assert audit(place).ok
    lines[9] = lines[9].replace(b'"pull"', b'"dance"').replace(b'"commit"', b'"dance"')
    (place / "log-000001.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:20])))
    assert any(words.startswith("log-000001.jsonl.gz line 10: ") for words in audit(place).violations)
