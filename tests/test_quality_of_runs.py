"""Probes in whole runs: the same in every engine and in a replay, resumed as if nothing had happened, and shown."""

import csv
import json
import math

import pytest

import tardigrad
from recorded_runs import NOISY, edit, lines_of, number_of, record, require_same, weights_of
from tardigrad.audit import audit
from tardigrad.cli import main
from tardigrad.errors import InvalidArgument, Stopped
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.quality import judged_labels, quality_sentences, read_probes
from tardigrad.metrics.runs import find_runs, load_run
from tardigrad.metrics.verdict import as_text, verdict
from tardigrad.replaying import replay
from tardigrad.report.pictures import _mechanism
from tardigrad.report.quality import quality
from tardigrad.report.rows import write_rows

AUTO = "dc-asgd-a(lambda0='auto')"
PROBED = {"probe_every": 3, "probe_rules": ("asgd", "dc-asgd-c(lambda0=0.5)"), "epochs": 3, "measure_every": 0}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run of a model with BatchNorm and dropout, probed, in the simulator."""
    return record(tmp_path_factory.mktemp("probed") / "run", **PROBED)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The same with a strength that follows the probes."""
    return record(tmp_path_factory.mktemp("followed") / "run", rule=AUTO, **PROBED)


def probes_in(place):
    return [line for line in lines_of(place)[1:] if line[0] == "probe"]


def test_probing_changes_no_bit_of_training(probed, tmp_path):
    plain = record(tmp_path / "plain", epochs=3, measure_every=0)
    require_same(weights_of(plain.directory), weights_of(probed.directory))
    told = [line for line in lines_of(probed.directory)[1:] if line[0] != "probe"]
    assert told == lines_of(plain.directory)[1:]
    assert (plain.summary["quality"], len(probed.summary["quality"])) == ([], 3)


def test_a_probe_stands_behind_its_commit_and_judges_every_rule(probed):
    lines = lines_of(probed.directory)
    found = probes_in(probed.directory)
    assert len(found) >= 5
    for probe in found:
        commit = lines[lines.index(probe) - 1]
        assert (commit[0], commit[2]) == ("commit", probe[2])
        assert probe[3] == probe[2] - 1 - commit[5][0][2] >= 1
        raw, (own, plain, constant) = probe[4], probe[5]
        assert all(math.isfinite(number) for number in own + constant)
        assert plain == [1.0, raw, None, None, 1.0]
    assert lines[0]["events"]["probe"] == ["time", "version", "staleness", "raw_cosine", "quality"]


def test_the_summary_says_what_all_probes_say_together(probed):
    rows = [probe[5][0] for probe in probes_in(probed.directory)]
    own = probed.summary["quality"][0]
    assert own["rule"] == "dc-asgd-a"
    assert own["probes"] == len(rows)
    assert own["relative_error"] == pytest.approx(math.exp(sum(math.log(row[0]) for row in rows) / len(rows)))
    assert own["cosine"] == pytest.approx(sum(row[1] for row in rows) / len(rows))
    sizes = [row[2] / row[3] for row in rows]
    fit, square = sum(row[2] * size for row, size in zip(rows, sizes, strict=True)), sum(size**2 for size in sizes)
    assert own["coefficient"] == pytest.approx(fit / square)


@pytest.mark.parametrize("which", ["probed", "followed"])
def test_a_replay_makes_the_same_probes(which, request):
    run = request.getfixturevalue(which)
    assert replay(run.directory, task=NOISY).equal
    assert audit(run.directory).violations == ()


def test_a_probe_that_was_altered_is_found(probed, tmp_path):
    place = record(tmp_path / "run", **PROBED).directory
    edit(place, lambda lines: lines[number_of(lines, "probe", nth=1)][5][0].__setitem__(0, 0.25))
    (difference,) = replay(place, task=NOISY).differences
    assert difference.kind == "probe"


def test_a_probe_of_nothing_is_a_contradiction(tmp_path):
    place = record(tmp_path / "run", epochs=1).directory
    edit(place, lambda lines: lines.insert(number_of(lines, "commit", nth=2) + 1, ["probe", 1e9, 3, 1, 0.5, []]))
    with pytest.raises(tardigrad.errors.ReplayError, match="a probe of version 3, where none was due"):
        replay(place, task=NOISY)
    edit(place, lambda lines: lines[number_of(lines, "probe")].__setitem__(2, 9))
    assert any("a probe of version 9" in words for words in audit(place).violations)


def test_under_another_rule_the_schedule_is_probed_too(probed, tmp_path):
    what_if = replay(probed.directory, rule="dc-asgd-c", task=NOISY, directory=tmp_path / "other")
    theirs = probes_in(what_if.directory)
    assert [probe[2:4] for probe in theirs] == [probe[2:4] for probe in probes_in(probed.directory)]
    assert judged_labels(load_run(what_if.directory))[0] == "dc-asgd-c (lambda0=0.04)"


def test_a_run_that_is_taken_up_again_tells_the_same(followed, tmp_path):
    left = iter(range(27))
    with pytest.raises(Stopped):
        record(tmp_path / "run", rule=AUTO, stop=lambda: next(left, None) is None, **PROBED)
    record(tmp_path / "run", rule=AUTO, **PROBED)
    assert lines_of(tmp_path / "run") == lines_of(followed.directory)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["quality"] == followed.summary["quality"]


def test_a_strength_that_follows_changes_from_probe_to_probe(followed):
    strengths = [probe[5][0][4] for probe in probes_in(followed.directory)]
    assert strengths[0] == 1.0
    assert len(set(strengths)) == len(strengths)


@pytest.mark.timeout(240)
def test_real_workers_are_probed_and_replayed(tmp_path):
    settings = {"engine": "local", "workers": 2, "epochs": 2, "probe_every": 4, "probe_rules": ("dc-asgd-c",)}
    run = tardigrad.train("quadratic", rule=AUTO, directory=tmp_path / "run", **settings)
    assert len(probes_in(run.directory)) >= 2
    assert replay(run.directory).equal
    assert audit(run.directory).violations == ()


def test_a_rule_that_follows_probes_wants_some(tmp_path):
    with pytest.raises(InvalidArgument, match="type --probe-every 50"):
        tardigrad.train("quadratic", rule=AUTO, directory=tmp_path / "run")
    with pytest.raises(InvalidArgument, match="type --probe-every 50"):
        tardigrad.train("quadratic", probe_rules=("asgd",), directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_before_there_were_probes_is_read_and_replayed(tmp_path):
    run = record(tmp_path / "run", epochs=1)
    config = json.loads((run.directory / "config.json").read_text())
    (run.directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "probe" not in k}))
    summary = json.loads((run.directory / "summary.json").read_text())
    (run.directory / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "quality"}))
    assert replay(run.directory, task=NOISY).equal
    comparison = compare_runs(find_runs(run.directory))
    assert (read_probes(load_run(run.directory)), quality(comparison), quality_sentences(comparison)) == (
        None,
        None,
        [],
    )


# -- shown -----------------------------------------------------------------------------------------------------


def test_probes_are_read_back_with_their_epochs(probed):
    probes = read_probes(load_run(probed.directory))
    assert [rule.label for rule in probes.rules] == ["dc-asgd-a", "asgd", "dc-asgd-c"]
    assert probes.epochs == pytest.approx([version * 4 / 60 for version in probes.versions], abs=1e-6)
    rows = probes_in(probed.directory)
    assert list(probes.rules[0].relative_error) == [row[5][0][0] for row in rows]
    assert all(math.isnan(number) for number in probes.rules[1].coefficient)
    assert probes.rules[1].cosine == probes.raw_cosine


def test_rules_of_one_name_are_told_apart(tmp_path):
    run = record(tmp_path / "run", epochs=1, **{"probe_every": 3, "probe_rules": ("dc-asgd-a(lambda0=8)",)})
    assert judged_labels(load_run(run.directory)) == ["dc-asgd-a (lambda0=2.0)", "dc-asgd-a (lambda0=8.0)"]


def test_the_picture_and_the_verdict_say_what_the_probes_found(probed, tmp_path):
    runs = find_runs(probed.directory)
    comparison = compare_runs(runs)
    left, right = quality(comparison).axes
    shown = [rule.cosine for rule in read_probes(runs[0]).rules if rule.label != "asgd"]  # which is the raw gradient
    assert [tuple(line.get_ydata()) for line in right.lines[2:6:2]] == shown
    assert (left.get_ylabel(), right.get_ylabel()) == ("relative error (raw: 1)", "cosine with the gradient of now")
    dots = left.lines[0]
    assert list(dots.get_ydata()) == [row[5][0][0] for row in probes_in(probed.directory)]
    first, second = quality_sentences(comparison)
    own = probed.summary["quality"][0]
    assert f"dc-asgd-a {own['relative_error']:.3g} and {own['cosine']:.3g}" in first
    assert f"With {own['coefficient']:.3g} times its compensation" in second
    write_rows(runs, tmp_path / "runs.csv")
    (row,) = csv.DictReader((tmp_path / "runs.csv").open())
    assert float(row["relative_error_mean"]) == pytest.approx(own["relative_error"], rel=1e-5)
    assert float(row["cosine_mean"]) == pytest.approx(own["cosine"], rel=1e-5)


def test_the_page_has_the_picture_and_the_terminal_the_sentences(probed):
    comparison = compare_runs(find_runs(probed.directory))
    assert "quality" in [offer.name for offer in _mechanism(comparison)]
    text = " ".join(as_text(verdict(comparison)).split())
    assert "Quality of the compensation" in text
    assert f"{len(probes_in(probed.directory))} probes of dc-asgd-a with 3 workers" in text


def test_from_the_command_line(capsys, tmp_path):
    words = ["train", "quadratic", "--epochs", "1", "--workers", "3", "--rule", AUTO]
    words += ["--probe-every", "10", "--probe-rules", "asgd", "dc-asgd-c(lambda0=1.0)"]
    assert main([*words, "--directory", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["probe_rules"] == ["asgd", tardigrad.rule("dc-asgd-c", lambda0=1.0).spec]
    assert len(probes_in(tmp_path / "run")) == 6
    assert main(["train", "quadratic", "--rule", AUTO, "--directory", str(tmp_path / "other")]) == 2
    assert "type --probe-every 50" in capsys.readouterr().err
