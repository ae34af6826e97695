"""A part of a run replayed, and its schedule under another rule."""

import shutil

import pytest
import safetensors.torch

import tardigrad
from recorded_runs import NOISY, lines_of, record, require_same, weights_of
from tardigrad.audit import audit
from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument, ReplayError, RunDirectoryError, Stopped
from tardigrad.metrics.runs import load_run
from tardigrad.replaying import replay

CONSISTENCIES = ("asynchronous", "ssp(1)", "synchronous", "synchronous(wait_for=2)")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One run, never altered."""
    place = tmp_path_factory.mktemp("recorded") / "run"
    record(place)
    return place


# -- parts of a run ------------------------------------------------------------------------------------------


def after(pushes):
    asked = iter(range(1, pushes))
    return lambda: next(asked, None) is None


@pytest.mark.parametrize("consistency", CONSISTENCIES)
def test_from_a_checkpoint_to_the_end_of_the_log(tmp_path, consistency):
    place = tmp_path / "run"
    with pytest.raises(Stopped) as stopped:
        record(place, consistency=consistency, stop=after(13))
    state = tmp_path / "state"
    state.mkdir()
    for file in place.glob("*"):
        if file.name.startswith(("checkpoint-", "log", "evaluations")):
            shutil.copy(file, state)
    run = record(place, consistency=consistency)
    file = next(state.glob("checkpoint-*.json"))
    found = replay(place, start=file, task=NOISY)
    assert found.equal, found.verdict
    assert found.compared_end
    assert 0 < found.commits < run.summary["commits"]
    whole = replay(place, task=NOISY)
    assert found.commits + stopped.value.version == whole.commits


def test_from_a_checkpoint_of_the_run_itself_by_its_version(tmp_path):
    with pytest.raises(Stopped) as stopped:
        record(tmp_path / "run", stop=after(9))
    found = replay(tmp_path / "run", start=stopped.value.version, task=NOISY)
    assert (found.equal, found.commits, found.compared_end) == (True, 0, False)
    assert replay(tmp_path / "run", task=NOISY).commits == stopped.value.version
    with pytest.raises(RunDirectoryError, match="999"):
        replay(tmp_path / "run", start=999, task=NOISY)
    with pytest.raises(InvalidArgument, match=r"checkpoint-VERSION\.json"):
        replay(tmp_path / "run", start="somewhere", task=NOISY)
    with pytest.raises(InvalidArgument, match="begins at version 0"):
        replay(tmp_path / "run", start=stopped.value.version, rule="asgd", task=NOISY)


def test_until_a_version_whose_weights_are_saved(tmp_path, recorded):
    found = replay(recorded, until=11, save=tmp_path / "at11.safetensors", task=NOISY)
    assert (found.version, found.commits, found.compared_end) == (11, 11, False)
    saved = safetensors.torch.load_file(tmp_path / "at11.safetensors")
    require_same(saved, found.state_dict())
    model = NOISY.make_model(0)
    model.load_state_dict(saved)
    whole = replay(recorded, save=tmp_path / "end.safetensors", task=NOISY)
    require_same(safetensors.torch.load_file(tmp_path / "end.safetensors"), weights_of(recorded))
    with pytest.raises(ReplayError, match=f"ends at version {whole.version}, before 999"):
        replay(recorded, until=999, task=NOISY)


# -- what if -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"consistency": "ssp(1)", "max_staleness": 2},
        {"consistency": "synchronous(wait_for=2)"},
        {"leases": "static"},
    ],
)
def test_under_another_rule_it_is_the_run_that_rule_would_have_made(tmp_path, settings):
    """In the simulator the schedule does not depend on the rule: so training under it is what a what-if must equal."""
    one = record(tmp_path / "one", rule="asgd", momentum=0.0, **settings)
    other = record(tmp_path / "other", rule="dc-asgd-a", momentum=0.9, **settings)
    rule = tardigrad.rule("dc-asgd-a", momentum=0.9)
    found = replay(one.directory, rule=rule, task=NOISY, directory=tmp_path / "if")
    assert found.equal is None
    require_same(found.state_dict(), other.state_dict())
    require_same(weights_of(tmp_path / "if"), weights_of(other.directory))
    assert [(e.version, e.scores, e.train_loss) for e in found.evaluations] == [
        (e.version, e.scores, e.train_loss) for e in other.evaluations
    ]
    assert lines_of(tmp_path / "if")[1:] == lines_of(other.directory)[1:]


def test_what_if_is_recorded_beside_the_run_as_a_run(tmp_path):
    run = record(tmp_path / "run", rule="asgd")
    found = replay(run.directory, rule="dc-asgd-c(lambda0=0.1)", task=NOISY)
    assert found.directory == tmp_path / "run-under-dc-asgd-c"
    assert replay(run.directory, optimizer="sgd", task=NOISY).directory == tmp_path / "run-under-sgd"
    assert replay(run.directory, rule="dc-asgd-c", task=NOISY).directory == tmp_path / "run-under-dc-asgd-c-2"
    made = load_run(found.directory)
    assert (made.status, made.label, made.config["engine"]) == ("finished", "dc-asgd-c", "replayed")
    assert made.environment["replayed"] == {"run": str(run.directory), "engine": "simulated"}
    assert [e["version"] for e in made.evaluations] == [e["version"] for e in load_run(run.directory).evaluations]
    assert audit(found.directory).ok
    assert replay(found.directory, task=NOISY).equal, "what was recorded can be replayed in turn"


def test_a_replay_of_the_same_rule_can_be_recorded_and_is_the_same_run(tmp_path, recorded):
    found = replay(recorded, directory=tmp_path / "again", task=NOISY)
    assert found.equal
    assert lines_of(tmp_path / "again")[1:] == lines_of(recorded)[1:]
    require_same(weights_of(tmp_path / "again"), weights_of(recorded))
    with pytest.raises(RunDirectoryError, match="finished run"):
        replay(recorded, directory=tmp_path / "again", task=NOISY)


def test_what_if_that_diverges_ends_as_such(tmp_path):
    config = RunConfig(task="quadratic", rule="clipping(max_norm=1e-3)", lr=1e4, workers=4, epochs=2)
    run = tardigrad.train(config, directory=tmp_path / "run")
    found = replay(run.directory, rule="asgd", directory=tmp_path / "if")
    assert "diverged" in found.verdict
    assert found.version < run.summary["commits"]
    assert load_run(tmp_path / "if").status == "diverged"
    assert load_run(tmp_path / "if").evaluations[-1]["diverged"]
