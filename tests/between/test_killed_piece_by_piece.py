"""Two runs on three hosts, of a task and of a script, are killed piece by piece and end as if nothing had happened."""

import signal
import time

import pytest
from lab import BATCH, EPOCHS, HERE, SAMPLES, Between, kill

import tardigrad
from hosts import Hosts, why_not
from tardigrad.audit import audit

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:The run was taken up again"),  # nothing was kept with session.save_with
]

CUT = 20.0  # seconds
SETTINGS = ["--workers", 4, "--own-workers", 1, "--checkpoint-every", 0.02, "--reconnect-within", 8]
TASK = ["--task", "paced", "--imports", HERE / "paced.py", "--epochs", EPOCHS, "--batch-size", BATCH]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both runs, ended, after all that was done to them; under a bandwidth limit."""
    place = tmp_path_factory.mktemp("killed")
    with Hosts(rate="200mbit") as hosts:
        both = {
            "task": Between(hosts, place / "task", 7070, recipe=["quadratic"], settings=[*TASK, *SETTINGS]),
            "script": Between(hosts, place / "script", 7071, script=[HERE / "paced.py"], settings=SETTINGS),
        }
        for run in both.values():
            run.begin()
            run.join("green", workers=2)
            run.join("blue")
        kill_piece_by_piece(hosts, list(both.values()))
        for run in both.values():
            assert run.end() == 0, run.said()
            assert run.processes["blue"].wait(timeout=60) == 0, run.said()
        yield {name: run.directory for name, run in both.items()}


def kill_piece_by_piece(hosts, runs):
    for run in runs:
        run.wait(lambda run=run: all(run.commits(worker) for worker in range(4)))
    for run in runs:
        run.take(0.35)
    for run in runs:  # a worker
        kill(run.worker_processes("green")[0])
    for run in runs:
        run.wait(lambda run=run: run.events("join"))
    hosts.cut("blue")  # a link
    time.sleep(CUT)
    hosts.heal("blue")
    heard = [run.commits() for run in runs]
    for run, before in zip(runs, heard, strict=True):
        run.wait(lambda run=run, before=before: run.commits() > before + 20)
        assert len(run.events("fail")) == 1, run.said()  # nobody failed but the worker that was killed
    for run in runs:  # the server
        run.processes["server"].kill()
        run.processes["server"].wait()
        run.resume()
    for run in runs:
        before = run.commits()
        run.wait(lambda run=run, before=before: run.commits() > before + 20)
    hosts.kill("green")  # a whole host
    for run in runs:
        assert run.processes["green"].wait() == -signal.SIGKILL
        run.take(0.0)


@pytest.mark.parametrize("kind", ["task", "script"])
def test_every_sample_is_applied_once_whatever_is_killed_and_the_replay_is_equal(runs, kind):
    found = audit(runs[kind])
    assert found.ok, found.verdict
    assert (found.epochs, found.applied + found.lost) == (EPOCHS, EPOCHS * SAMPLES)
    assert found.failures >= 3  # the worker, and the two of the host; a cut link is none
    replayed = tardigrad.replay(runs[kind])
    assert replayed.equal, replayed.verdict
    assert replayed.commits == found.commits
