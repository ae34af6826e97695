"""The audit passes every run that kept its promises, and names the line of each promise that was broken."""

import json
import re
import shutil

import pytest

from recorded_runs import edit, edit_json, lines_of, noisy_task, number_of, record
from tardigrad.audit import audit
from tardigrad.errors import RunDirectoryError, Stopped
from tardigrad.tiles import Tiles

CONSISTENCIES = ("asynchronous", "ssp(1)", "synchronous", "synchronous(wait_for=2)")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that are never altered: one asynchronous, one in rounds, one with rejections."""
    place = tmp_path_factory.mktemp("runs")
    record(place / "asynchronous")
    record(place / "synchronous", consistency="synchronous")
    record(place / "bad", task=noisy_task(bad_sample=7), rule="dc-asgd-c", max_staleness=1)
    return place


@pytest.mark.parametrize("name", ["asynchronous", "synchronous", "bad"])
def test_a_run_that_kept_its_promises_passes(runs, name):
    found = audit(runs / name)
    summary = json.loads((runs / name / "summary.json").read_text())
    assert found.violations == ()
    assert found.ok
    assert (found.commits, found.applied, found.lost) == (
        summary["commits"], summary["samples"], summary["lost_samples"],
    )  # fmt: skip
    assert found.epochs == 2
    assert found.applied + found.lost == 2 * 60
    assert found.events == len(lines_of(runs / name)) - 1
    assert found.verdict.startswith(f"all invariants hold: {summary['commits']} commits, 2 finished epochs")


def test_the_third_run_above_lost_samples(runs):
    assert audit(runs / "bad").lost == 8


def test_a_run_that_was_taken_up_again_is_judged_by_what_survived(tmp_path):
    asked = iter(range(12))
    with pytest.raises(Stopped):
        record(tmp_path / "run", stop=lambda: next(asked, None) is None)
    assert audit(tmp_path / "run").ok
    assert audit(tmp_path / "run").epochs < 2
    record(tmp_path / "run")
    assert audit(tmp_path / "run").ok


def change(kind, column, value, nth=8, part=None):
    """Set one column of one event, or of its first contribution; return its line."""

    def alter(lines):
        number = number_of(lines, kind, nth=nth)
        target, names = lines[number], ["", *lines[0]["events"][kind]]
        if part is not None:
            target, names = target[5][part], lines[0]["events"]["contribution"]
        place = names.index(column)
        target[place] = value(target[place]) if callable(value) else value
        return number + 1

    return alter


def drop(kind, nth=8):
    def alter(lines):
        number = number_of(lines, kind, nth=nth)
        lines.pop(number)  # what is noticed, and where, is another line

    return alter


def again(kind, nth=8):
    """The same event a second time; of a commit as a next version."""

    def alter(lines):
        number = number_of(lines, kind, nth=nth)
        lines.insert(number + 1, json.loads(json.dumps(lines[number])))
        if kind == "commit":
            lines[number + 1][2] += 1
        return number + 2

    return alter


def insert(event, before="commit", nth=8):
    def alter(lines):
        number = number_of(lines, before, nth=nth)
        time = lines[number][1]
        lines.insert(number, [event[0], time, *event[1:]])
        return number + 1

    return alter


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (change("commit", "version", 99), "makes version 99, the one before made 8"),
        (change("pull", "version", 3), r"reads version 3, but the weights are of version \d+"),
        (change("commit", "read_version", 0, part=0), r"says it read version 0, but it pulled \d+"),
        (change("commit", "lease", [1, 0, 4], part=0), r"is on lease \[1, 0, 4\], but it was given"),
        (change("commit", "samples", 3, part=0), "has not 3 samples"),
        (change("commit", "incarnation", 1, part=0), "pushes in life 1, but it lives life 0"),
        (change("commit", "worker", 9, part=0), "worker 9 pushes, but it does not take part"),
        (change("commit", "time", 0.0), "time goes back"),
        (change("pull", "worker", 9), "worker 9 pulls, but it does not take part"),
        (drop("pull"), "was not pulled, or is used a second time"),
        (again("commit"), "was not pulled, or is used a second time"),
        (drop("commit"), "makes version 10, the one before made 8"),
        (insert(["join", 1, 1]), "worker 1 joins, but it takes part"),
        (insert(["join", 7, 1]), "worker 7 joins in life 1, not 0"),
        (insert(["leave", 1, 2, "failed"]), "leaves in life 2, but it lives life 0"),
        (insert(["leave", 7, 0, "failed"]), "worker 7 leaves, but it does not take part"),
        (insert(["fail", 7, 0, 3, "died", -9, ""]), "worker 7 fails, but it does not take part"),
        (insert(["reject", 7, 0, 3, None, "stale", False]), "worker 7 pushes, but it does not take part"),
        (insert(["dance", 7]), "is no event"),
        (insert(["pull", 7]), "does not have the columns of a pull"),
    ],
)
def test_each_broken_promise_is_found_and_its_line_named(runs, tmp_path, alter, words):
    place = shutil.copytree(runs / "asynchronous", tmp_path / "run")
    line = edit(place, alter)
    found = audit(place)
    where = rf"log\.jsonl line {line or '[0-9]+'}: "
    assert any(re.match(f"{where}.*{words}", violation) for violation in found.violations), found.violations


def test_a_push_after_its_life_ended_is_found(runs, tmp_path):
    place = shutil.copytree(runs / "asynchronous", tmp_path / "run")

    def alter(lines):
        number = number_of(lines, "commit", nth=8)
        worker = lines[number][5][0][0]
        lines.insert(number, ["leave", lines[number][1], worker, 0, "failed"])
        lines.insert(number + 1, ["join", lines[number][1], worker, 1])
        return number + 3, worker

    line, worker = edit(place, alter)
    assert f"log.jsonl line {line}: worker {worker} pushes in life 0, but it lives life 1." in audit(place).violations


def test_a_digest_of_a_version_to_come_is_found(runs, tmp_path):
    place = shutil.copytree(runs / "asynchronous", tmp_path / "run")
    edit(place, lambda lines: lines[number_of(lines, "digest", nth=0)].__setitem__(1, 5))
    assert any("a digest of version 5" in words for words in audit(place).violations)


def test_a_held_push_counts_after_its_worker_left_but_not_twice(runs, tmp_path):
    place = shutil.copytree(runs / "synchronous", tmp_path / "run")

    def leave(lines):
        number = number_of(lines, "held", nth=4)
        time, worker = lines[number][1:3]
        lines.insert(number + 1, ["leave", time, worker, 0, "removed"])
        commit = number + 2 + [line[0] for line in lines[number + 2 :]].index("commit")
        del lines[commit + 1 :]
        return commit + 1

    edit(place, leave)
    (place / "summary.json").unlink()
    assert audit(place).ok
    shutil.copy(runs / "synchronous" / "log.jsonl", place)
    edit(place, lambda lines: lines[number_of(lines, "commit", nth=4)][5][0].__setitem__(2, 0))
    assert any("is not the push of it that waited" in words for words in audit(place).violations)


def test_samples_that_are_missing_or_applied_twice_are_found(runs, tmp_path):
    place = shutil.copytree(runs / "asynchronous", tmp_path / "run")

    def alter(lines):
        """The samples of one lease are handed out and applied in place of another's, in a log that is else whole."""
        pull = number_of(lines, "pull", lease=[1, 20, 24])
        worker = lines[pull][2]
        commit = next(
            n for n in range(pull, len(lines)) if lines[n][0] == "commit" and lines[n][5][0][0] == worker
        )  # fmt: skip
        lines[pull][5] = lines[commit][5][0][3] = [1, 0, 4]
        return commit + 1

    line = edit(place, alter)
    violations = audit(place).violations
    assert any(
        words.startswith(f"log.jsonl line {line}: samples 0 to 4 of epoch 1 are settled twice") for words in violations
    )
    assert "summary.json: samples 20 to 24 of epoch 1 were neither applied nor lost." in violations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"commits": 7}, "commits is 7, by the log it is"),
        ({"lost_samples": 1}, "lost_samples is 1, by the log it is 8"),
        ({"rejected": {}}, "rejected is {}, by the log it is"),
        ({"failures": {"died": 1}}, "failures is {'died': 1}, by the log it is {}"),
        ({"staleness": {"histogram": {"0": {"0": 1}}}}, "the histogram of staleness is not the log's"),
    ],
)
def test_a_summary_that_says_something_else_is_found(runs, tmp_path, changes, words):
    place = shutil.copytree(runs / "bad", tmp_path / "run")
    edit_json(place / "summary.json", **changes)
    assert any(f"summary.json: {words}" in violation for violation in audit(place).violations)


def test_many_violations_are_counted_and_not_all_told(runs, tmp_path):
    place = shutil.copytree(runs / "asynchronous", tmp_path / "run")
    edit(place, lambda lines: lines.__setitem__(slice(5, 5), [["dance"]] * 150))
    found = audit(place)
    assert len(found.violations) == 101
    assert found.violations[-1] == "and 50 more"


def test_what_is_no_log_is_refused(runs, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"holds no config\.json"):
        audit(tmp_path)
    place = shutil.copytree(runs / "asynchronous", tmp_path / "run")
    edit(place, lambda lines: lines[0].update(format=1))
    with pytest.raises(RunDirectoryError, match="format 1"):
        audit(place)
    edit(place, lambda lines: lines.pop(0))
    with pytest.raises(RunDirectoryError, match="does not begin with a header"):
        audit(place)


def test_stretches_are_joined_and_finished_epochs_forgotten():
    tiles = Tiles(100)
    assert [tiles.add(0, start, start + 10) for start in (50, 0, 20, 10, 60, 30)] == [None] * 6
    assert tiles.holes(0) == [(40, 50), (70, 100)]
    assert tiles.add(0, 35, 45) == (35, 40)
    assert tiles.add(0, 65, 75) == (65, 70)
    assert tiles.add(0, 40, 50) is None
    assert tiles._stretches == {0: [(0, 70)]}
    assert tiles.add(1, 0, 100) is None
    assert tiles.finished == 1
    assert tiles.add(0, 70, 100) is None
    assert (tiles.finished, tiles._stretches, tiles._whole) == (2, {}, set())
    assert tiles.add(1, 4, 5) == (4, 5)
    assert tiles.add(2, 90, 101) == (90, 101)
