"""Scripts of a user's own on real workers: every sample once, whatever dies, and the run can be replayed."""

import json

import pytest
import torch
import user_scripts as scripts

import tardigrad
from tardigrad.audit import audit
from tardigrad.engines.base import Observer
from tardigrad.errors import AllWorkersLost, InvalidArgument, ReplayError, SessionError, Stopped, WorkerFailed
from tardigrad.logs import read_events

BOTH = {"workers": 2, "threads": 1, "consistency": "ssp(2)"}  # so that neither is done before the other begins


def a_run(script, place, **settings):
    return tardigrad.run(script, directory=place, **(BOTH | settings))


def events(place, kind):
    return [event for event in read_events(place) if event[0] == kind]


def require_sound(place, epochs, samples=scripts.SAMPLES, lost=0):
    """Every sample was applied once, and the replay gives the same bits."""
    found = audit(place)
    assert found.ok, found.verdict
    assert (found.epochs, found.applied, found.lost) == (epochs, epochs * samples - lost, lost)
    replayed = tardigrad.replay(place)
    assert replayed.equal, replayed.verdict
    assert replayed.commits == found.commits
    assert replayed.compared_end


def test_a_killed_worker_with_a_prefetching_loader_loses_nothing_and_the_run_replays(tmp_path):
    run = a_run(scripts.usual, tmp_path / "run", args=(2, 2), chaos="kill worker 1 at push 3")
    assert run.summary["status"] == "finished"
    assert run.summary["failures"] == {"died": 1}
    assert {"test"} == {split for evaluation in run.evaluations for split in evaluation.scores}
    require_sound(tmp_path / "run", epochs=2)


def test_a_worker_that_is_given_up_leaves_its_samples_to_the_others(tmp_path):
    run = a_run(scripts.usual, tmp_path / "run", args=(2, 1), max_restarts=0, chaos="kill worker 1 at push 3")
    assert run.summary["failures"] == {"died": 1}
    assert not events(tmp_path / "run", "join")
    require_sound(tmp_path / "run", epochs=2)


def test_a_worker_that_raises_with_leases_fetched_ahead_replays(tmp_path):
    run = a_run(scripts.usual, tmp_path / "run", args=(2, 1), chaos="raise in worker 0 at push 4")
    assert run.summary["failures"] == {"raised": 1}
    require_sound(tmp_path / "run", epochs=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"consistency": "synchronous", "rule": "asgd"},
        {"consistency": "ssp(1)", "leases": "static"},
        {"batch_size": [12, 4], "rule": "dc-asgd-a"},
        {"chaos": "corrupt push 2 of worker 0; raise in worker 1 at push 3", "max_staleness": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_way_to_share_the_work_applies_every_sample_once_and_replays(settings, tmp_path):
    run = a_run(scripts.adamw_with_schedule, tmp_path / "run", **settings)
    assert run.config.optimizer.startswith("adamw(")
    require_sound(tmp_path / "run", epochs=2)
    rates = [event[3] for event in events(tmp_path / "run", "commit")]
    assert (rates[0], rates[-1]) == (0.05, 0.025)  # by samples applied, whichever worker's turn it was


def test_sizes_of_batches_may_be_the_workers_own(tmp_path):
    a_run(scripts.usual, tmp_path / "run", batch_size=[12, 4])
    sizes = {worker: set() for worker in range(2)}
    for _, _, worker, _, lease in events(tmp_path / "run", "take"):
        if lease is not None:
            sizes[worker].add(lease[2] - lease[1])
    assert max(sizes[0]) == 12
    assert sizes[1] <= {1, 2, 3, 4}


def test_a_stopped_run_goes_on_with_the_users_own_state(tmp_path, monkeypatch):
    monkeypatch.setattr("tardigrad.engines.local.hosting._STATE_EVERY", 0.0)
    place, told = tmp_path / "run", []

    class Counting(Observer):
        def committed(self, time, commit):
            told.extend(part.worker for part in commit.contributions if part.worker == 0)  # whose state is kept

    with pytest.raises(Stopped):
        a_run(scripts.counting, place, observers=[Counting()], stop=lambda: len(told) > 3)
    run = a_run(scripts.counting, place)
    assert run.summary["status"] == "finished"
    found = [event[4]["found"] for event in events(place, "log")]
    assert found.count(0.0) <= 2
    assert min(found[-2:]) > 0.0
    with pytest.warns(UserWarning, match="save_with"):
        require_sound(place, epochs=3)


def test_a_process_beside_evaluates_and_no_worker_does(tmp_path):
    run = a_run(scripts.usual, tmp_path / "run", args=(2,), evaluate="beside")
    assert run.evaluations
    assert run.evaluations[-1].version == run.summary["commits"]
    assert set(run.evaluations[-1].scores["test"]) == {"loss", "error"}
    pulls = {worker: 0 for worker in range(2)}
    for _, _, worker, *_ in events(tmp_path / "run", "pull"):
        pulls[worker] += 1
    commits = [part[0] for event in events(tmp_path / "run", "commit") for part in event[5]]
    assert pulls == {worker: commits.count(worker) + 1 for worker in pulls}  # none is read for an evaluation
    require_sound(tmp_path / "run", epochs=2)


def test_batches_by_speed_are_recorded_and_replayed(tmp_path, monkeypatch):
    monkeypatch.setattr("tardigrad.engines.local.pacing._REMEMBERED", 2)
    monkeypatch.setattr("tardigrad.engines.local.pacing._CHANGE", 0.0)
    run = a_run(scripts.usual, tmp_path / "run", args=(4,), batch_size="by-speed")
    assert run.config.batch_size == scripts.BATCH
    sizes = {size for _, _, _, size in events(tmp_path / "run", "size")}
    assert sizes
    assert all(2 <= size <= 16 for size in sizes)
    require_sound(tmp_path / "run", epochs=4)


def test_what_a_script_raises_is_told_and_the_worker_begins_anew(tmp_path):
    run = a_run(scripts.raising_once, tmp_path / "run")
    assert run.summary["failures"] == {"raised": 1}
    assert "a mistake of the user's" in events(tmp_path / "run", "fail")[0][-1]
    require_sound(tmp_path / "run", epochs=2)


def test_failures_can_end_the_run(tmp_path):
    with pytest.raises(WorkerFailed, match="a mistake of the user's"):
        a_run(scripts.raising_once, tmp_path / "run", on_failure="raise")
    with pytest.raises(AllWorkersLost):
        a_run(scripts.dying_at_once, tmp_path / "lost", workers=1, max_restarts=1)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (scripts.raising_early, WorkerFailed, "before anything was prepared"),
        (scripts.never_preparing, WorkerFailed, r"without session\.prepare"),
        (scripts.other_data, SessionError, "samples in an epoch: 88|samples in an epoch: 96"),
        (scripts.other_epochs, WorkerFailed, "another worker said"),
    ],
)
def test_a_mistake_of_the_script_is_a_sentence(script, error, words, tmp_path):
    with pytest.raises(error, match=words):
        a_run(script, tmp_path / "run", on_failure="raise")


def test_a_script_that_ends_before_all_is_applied_says_so(tmp_path):
    run = a_run(scripts.ending_early, tmp_path / "run")
    assert run.summary["status"] == "finished"
    assert "before epoch 0 of 5" in events(tmp_path / "run", "note")[-1][2]
    assert audit(tmp_path / "run").ok
    assert tardigrad.replay(tmp_path / "run").equal


def test_a_stream_belongs_to_its_worker_and_is_counted(tmp_path):
    run = a_run(scripts.streaming, tmp_path / "run")
    assert run.summary["commits"] == 6
    assert sorted(event[5][0][4] for event in events(tmp_path / "run", "commit")) == [4, 4, 8, 8, 8, 8]
    assert tardigrad.replay(tmp_path / "run").equal


def test_the_only_workers_next_life_knows_the_order_that_the_first_began(tmp_path):
    place = tmp_path / "run"
    run = a_run(scripts.usual, place, args=(3, 1), workers=1, rule="asgd", chaos="kill worker 0 at push 18")
    assert run.summary["failures"] == {"died": 1}
    assert [event[2:] for event in events(place, "begin")] == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    require_sound(place, epochs=3)


def test_a_stopped_run_of_one_worker_goes_on_in_the_order_that_it_began(tmp_path):
    place, told = tmp_path / "run", []

    class Counting(Observer):
        def committed(self, time, commit):
            told.append(commit.version)

    with pytest.raises(Stopped):
        a_run(scripts.usual, place, workers=1, rule="asgd", observers=[Counting()], stop=lambda: len(told) > 15)
    a_run(scripts.usual, place, workers=1, rule="asgd")
    assert [event[2:] for event in events(place, "begin")] == [[0, 0, 0], [0, 0, 1]]
    require_sound(place, epochs=2)


def test_one_worker_is_plain_pytorch_bit_for_bit(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = tardigrad.run(scripts.adamw_with_schedule, engine=None).state_dict()
    finally:
        torch.set_num_threads(threads)
    served = a_run(scripts.adamw_with_schedule, tmp_path / "run", workers=1, rule="asgd").state_dict()
    assert served.keys() == alone.keys()
    assert all(torch.equal(served[name], alone[name]) for name in alone)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.1}, "the script's own"),
        ({"epochs": 3}, "session.epochs"),
        ({"worker": 3}, "has no setting 'worker'"),
        ({"engine": "simulated"}, "runs no script"),
        ({"evaluate": "later"}, "is not one of 'first', 'beside'"),
        ({"batch_size": "small"}, "by-speed"),
        ({"batch_size": [4]}, "1 sizes for 2 workers"),
        ({"chaos": "mischief"}, "is not understood"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_started(settings, words, tmp_path):
    with pytest.raises(InvalidArgument, match=words):
        a_run(scripts.usual, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_log_that_was_altered_is_noticed(tmp_path):
    place = tmp_path / "run"
    a_run(scripts.usual, place, args=(1,))
    lines = (place / "log.jsonl").read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith('["commit"') and json.loads(line)[2] == 3)
    altered = json.loads(lines[number])
    altered[5][0][6] *= 1.5
    lines[number] = json.dumps(altered)
    (place / "log.jsonl").write_text("\n".join(lines) + "\n")
    found = tardigrad.replay(place)
    assert not found.equal
    assert {difference.kind for difference in found.differences} == {"norm"}
    with pytest.raises(InvalidArgument, match="leave out rule"):
        tardigrad.replay(place, rule="asgd")


def test_a_script_that_was_called_with_what_no_record_holds_is_not_replayed(tmp_path):
    a_run(scripts.usual, tmp_path / "run", args=(1,))
    file = tmp_path / "run" / "environment.json"
    known = json.loads(file.read_text())
    known["script"]["args"] = None
    file.write_text(json.dumps(known))
    with pytest.raises(ReplayError, match="objects that a record cannot hold"):
        tardigrad.replay(tmp_path / "run")
