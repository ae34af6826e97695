"""The local engine: what only real processes can show. Laws that hold for every engine are in test_every_engine."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tardigrad
from tardigrad.engines.base import Observer
from tardigrad.errors import AllWorkersLost, InvalidArgument, Stopped, WorkerFailed
from tardigrad.logs import read_events
from tardigrad.replaying import replay
from tardigrad.tasks.base import ERROR, Split

pytestmark = pytest.mark.timeout(240)
SHORT = {"engine": "local", "workers": 3, "epochs": 1, "rule": "dc-asgd-a"}


def events(run, kind):
    return [event for event in read_events(run.directory) if event[0] == kind]


def train(place, recipe="digits", **settings):
    return tardigrad.train(recipe, directory=place, **SHORT | settings)


def require_equal(one, two):
    for mine, theirs in zip(one.weights(), two.weights(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("consistency", ["synchronous", "synchronous(lr_scaling='linear')"])
@pytest.mark.parametrize("leases", ["dynamic", "static"])
def test_synchronous_is_the_simulator_bit_for_bit(tmp_path, consistency, leases):
    same = {"consistency": consistency, "leases": leases}
    require_equal(train(tmp_path / "local", **same), train(tmp_path / "simulated", engine="simulated", **same))


def test_workers_with_batches_of_their_own_size(tmp_path):
    same = {"consistency": "synchronous", "batch_size": (20, 8, 4)}
    run = train(tmp_path / "local", **same)
    require_equal(run, train(tmp_path / "simulated", engine="simulated", **same))
    whole = events(run, "commit")[:-1]
    assert {tuple(part[4] for part in event[5]) for event in whole} == {(20, 8, 4)}
    assert replay(run.directory).equal


def test_every_worker_takes_part_and_every_sample_is_applied(tmp_path):
    run = train(tmp_path, "quadratic", epochs=4)
    assert {part[0] for event in events(run, "commit") for part in event[5]} == {0, 1, 2}
    assert run.summary["samples"] == 4 * 1024
    assert run.evaluations[-1].version == run.summary["commits"]


def test_evaluations_are_of_the_versions_at_which_they_were_due(tmp_path):
    run = train(tmp_path, "quadratic", epochs=3, workers=1, evaluate_every=0.5)
    assert [evaluation.version for evaluation in run.evaluations] == [0, 32, 64, 96, 128, 160, 192]
    assert all(evaluation.seconds > 0.0 for evaluation in run.evaluations)
    sequential = train(tmp_path / "simulated", "quadratic", epochs=3, workers=1, evaluate_every=0.5, engine="simulated")
    assert [one.scores for one in run.evaluations] == [one.scores for one in sequential.evaluations]


@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(1)", "synchronous", "synchronous(wait_for=2)"])
def test_faults_of_every_kind_leave_no_sample_behind(tmp_path, consistency):
    script = (
        "kill worker 0 at push 4; raise in worker 1 at push 6; hang worker 2 at push 8; corrupt push 2 of worker 0; "
        "pause worker 1 at push 2 for 0.3 s"
    )
    epochs = 2 if consistency in ("ssp(1)", "synchronous") else 8  # a worker that starts late comes to its faults too
    run = train(tmp_path, consistency=consistency, chaos=script, hang_after=3.0, epochs=epochs, batch_size=8)
    failures = {event[2]: event for event in events(run, "fail")}
    assert {worker: event[5] for worker, event in failures.items()} == {0: "died", 1: "raised", 2: "hung"}
    assert failures[0][6] == -signal.SIGKILL
    assert failures[1][6] == 1
    assert "the chaos of this run says that this gradient raises" in failures[1][7]
    assert [event[2:] for event in events(run, "join")] == [[failed[2], 1] for failed in events(run, "fail")]
    assert run.summary["rejected"].get("non-finite") == 1
    assert run.summary["samples"] == epochs * 1257
    assert replay(tmp_path).equal


def test_a_worker_that_fails_too_often_is_given_up_and_the_others_go_on(tmp_path):
    run = train(
        tmp_path, chaos="kill worker 1 at push 2; kill worker 1 at push 12", max_restarts=1, workers=2, epochs=20
    )
    assert [event[2:4] for event in events(run, "fail")] == [[1, 0], [1, 1]]
    assert len(events(run, "join")) == 1
    assert run.summary["samples"] == 20 * 1257


def test_when_all_workers_are_lost_the_state_is_saved_and_the_run_goes_on(tmp_path):
    script = "kill worker 0 at push 5; kill worker 1 at push 5"
    with pytest.raises(AllWorkersLost, match="no worker is left at version") as caught:
        train(tmp_path, chaos=script, max_restarts=0, workers=2)
    assert {failure.exit_code for failure in caught.value.failures} == {-signal.SIGKILL}
    assert tardigrad.resume(tmp_path).summary["samples"] == 1257
    assert replay(tmp_path).equal


def test_a_failure_ends_the_run_if_asked(tmp_path):
    with pytest.raises(WorkerFailed, match="PlannedFault") as caught:
        train(tmp_path, chaos="raise in worker 1 at push 3", on_failure="raise", epochs=20)
    assert (caught.value.failure.worker, caught.value.failure.incarnation) == (1, 0)


def test_a_stopped_run_goes_on_and_its_log_does_not_show_it(tmp_path):
    class Count(Observer):
        commits = 0

        def committed(self, time, commit):
            self.commits = commit.version

    count = Count()
    with pytest.raises(Stopped):
        train(tmp_path, consistency="synchronous", observers=[count], stop=lambda: count.commits >= 10)
    resumed = tardigrad.resume(tmp_path)
    require_equal(resumed, train(tmp_path / "whole", consistency="synchronous"))
    assert not events(resumed, "join")
    assert replay(tmp_path).equal


class EndTheJudge(Observer):
    """Kills the process that evaluates, once: while it judges version 0, or when it has nothing to do."""

    def __init__(self, idle):
        self.done, self.ready = False, not idle

    def evaluated(self, evaluation):
        self.ready = True

    def committed(self, time, commit):
        if not self.ready:
            return
        judges = [child for child in multiprocessing.active_children() if child.name == "tardigrad-evaluation"]
        if judges and not self.done:
            judges[0].kill()
            judges[0].join()
            self.done = True


@pytest.mark.parametrize("idle", [False, True])
def test_evaluations_go_on_when_their_process_is_killed(tmp_path, idle):
    judge = EndTheJudge(idle)
    run = train(tmp_path, epochs=5, observers=[judge], chaos="kill worker 1 at push 9")
    assert judge.done
    versions = [evaluation.version for evaluation in run.evaluations]
    assert len(versions) == 6
    assert versions == sorted(set(versions))


def test_workers_are_added_and_removed_while_it_runs(tmp_path):
    from tardigrad.training import Steering

    wishes = iter([5, 2])

    class Wishing(Steering):
        def tick(self, now, view):
            return next(wishes, None) if view.version > 20 else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tardigrad.training.Steering", Wishing)
        run = train(tmp_path, epochs=15)
    assert [event[2:] for event in events(run, "join")] == [[3, 0], [4, 0]]
    assert [event[2:] for event in events(run, "leave")] == [[w, 0, "removed"] for w in (2, 3, 4)]
    assert run.summary["samples"] == 15 * 1257
    assert replay(tmp_path).equal


def linear():
    return torch.nn.Linear(4, 2)


def own_task(model):
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    split = Split(inputs, (inputs[:, 0] > 0).long())
    return tardigrad.Task("own", model, torch.nn.functional.cross_entropy, split, split, metric=ERROR)


def test_a_task_of_your_own_travels_if_its_parts_have_names(tmp_path):
    run = tardigrad.train(own_task(linear), engine="local", workers=2, epochs=2, directory=tmp_path)
    assert run.summary["samples"] == 128


def normed():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))


def test_model_buffers_travel_with_every_order_and_answer(tmp_path):
    same = {"workers": 2, "epochs": 3, "batch_size": 8, "consistency": "synchronous"}
    ran = {
        engine: tardigrad.train(own_task(normed), engine=engine, directory=tmp_path / engine, **same).state_dict()
        for engine in ("local", "simulated")
    }
    assert ran["local"]["1.num_batches_tracked"] == 12
    for name, tensor in ran["simulated"].items():
        assert torch.equal(ran["local"][name], tensor), name


def test_a_task_that_cannot_travel_is_refused_with_what_to_do():
    with pytest.raises(InvalidArgument, match="not as a lambda"):
        tardigrad.train(own_task(lambda: torch.nn.Linear(4, 2)), engine="local", workers=2, epochs=2)


def test_real_workers_cannot_be_sped_up():
    with pytest.raises(InvalidArgument, match="can be slowed, not sped up"):
        train(None, workers=2, speeds=(1.0, 2.0))


KILLED = """
import sys, tardigrad
if __name__ == "__main__":
    tardigrad.train("digits", engine="local", workers=3, epochs=400, directory=sys.argv[1], checkpoint_every=1e-4)
"""


def processes_of(session):
    """Those of a session that are not zombies."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, its = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(name))
    return found


def wait_until(happened, seconds=60.0):
    """Look again and again, since nothing announces it."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_when_the_server_is_killed_its_workers_end_and_the_run_goes_on(tmp_path):
    script, place = tmp_path / "train.py", tmp_path / "run"
    script.write_text(KILLED)
    server = subprocess.Popen([sys.executable, str(script), str(place)], start_new_session=True)
    wait_until(lambda: place.is_dir() and len(list(place.glob("checkpoint-*.json"))) >= 2)
    assert len(processes_of(server.pid)) >= 4
    server.kill()
    server.wait()
    wait_until(lambda: not processes_of(server.pid))
    before = json.loads((place / "environment.json").read_text())
    with pytest.raises(Stopped):
        tardigrad.resume(place, stop=lambda: True)
    assert len(json.loads((place / "environment.json").read_text())["resumed"]) == len(before.get("resumed", [])) + 1
    assert replay(place).equal


def test_a_script_that_lies_in_no_file_trains_too(tmp_path):
    script = f"""import tardigrad
if __name__ == "__main__":
    tardigrad.train("quadratic", engine="local", workers=2, epochs=1, max_restarts=0, directory={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_nobody_else_trains_into_a_directory_while_a_run_is_there(tmp_path):
    words = ["train", "quadratic", "--engine", "local", "--directory", str(tmp_path)]
    second = []

    class Second(Observer):
        def committed(self, time, commit):
            if commit.version == 30:
                second.append(
                    subprocess.run(
                        [sys.executable, "-m", "tardigrad", *words],
                        capture_output=True,
                        text=True,
                        timeout=200,
                        check=False,
                    )
                )

    run = train(tmp_path, "quadratic", observers=[Second()])
    assert second[0].returncode == 2
    assert f"is being trained into by process {os.getpid()}" in second[0].stderr
    assert run.summary["samples"] == 1024


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import tardigrad\nfrom tests_model import task\n"
        f"tardigrad.train(task, engine='local', workers=1, epochs=1, directory={str(tmp_path / 'run')!r}, "
        "max_restarts=0)\n"
    )
    (tmp_path / "tests_model.py").write_text(
        "import torch, tardigrad\nfrom tardigrad.tasks.base import Split\n"
        "def model():\n    return torch.nn.Linear(4, 2)\n"
        "split = Split(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))\n"
        "task = tardigrad.Task('own', model, torch.nn.functional.cross_entropy, split, split)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200, check=False)
    assert "put what starts training under `if __name__ == '__main__':`" in done.stderr
