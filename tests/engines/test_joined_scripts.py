"""Scripts whose workers join from elsewhere: every sample once, whatever is killed or cut, and the run replays."""

import importlib.util
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import user_scripts as scripts
from agents_here import Does, Site, events

import tardigrad
from tardigrad.audit import audit
from tardigrad.errors import InvalidArgument, Stopped, WorkerFailed

pytestmark = pytest.mark.timeout(150)
BOTH = {"workers": 2, "threads": 1, "consistency": "ssp(2)"}
FILE = Path(scripts.__file__)
ODD = """
import sys, torch
from torch.utils.data import DataLoader, TensorDataset
def main(session):
    inputs = torch.ones(int(sys.argv[1]) if len(sys.argv) == 2 and sys.argv[1].isdigit() else 96, 6)
    model = torch.nn.Linear(6, 3)
    loader = DataLoader(TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long)), batch_size=8)
    model, optimizer, loader = session.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01), loader)
    for _ in session.epochs(100_000):
        for given, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(given), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path / "site") as made:
        yield made


def a_run(site, script, place, *, does=None, **settings):
    given = {**BOTH, **site.settings, **settings}
    return tardigrad.run(script, directory=place, observers=[] if does is None else [does], **given)


def require_sound(place, epochs):
    found = audit(place)
    assert found.ok, found.verdict
    assert (found.epochs, found.applied, found.lost) == (epochs, epochs * scripts.SAMPLES, 0)
    replayed = tardigrad.replay(place)
    assert replayed.equal, replayed.verdict
    assert replayed.compared_end


def test_a_script_on_agents_with_a_killed_worker_loses_nothing(site, tmp_path):
    site.agent(2, script=FILE)
    run = a_run(site, scripts.usual, tmp_path / "run", args=(2, 1), chaos="kill worker 1 at push 3")
    assert run.summary["status"] == "finished"
    assert run.summary["failures"] == {"died": 1}
    assert {"test"} == {split for evaluation in run.evaluations for split in evaluation.scores}
    require_sound(tmp_path / "run", epochs=2)


def test_an_own_worker_and_an_agent_with_one_that_judges_beside(site, tmp_path):
    site.agent(script=FILE)
    run = a_run(site, scripts.usual, tmp_path / "run", own_workers=1, evaluate="beside")
    assert run.evaluations
    require_sound(tmp_path / "run", epochs=2)


def test_a_cut_script_goes_on_where_it_was(site, tmp_path):
    site.agent(2, script=FILE)
    a_run(
        site,
        scripts.usual,
        tmp_path / "run",
        chaos="cut worker 1 at push 2 for 0.3 s; cut worker 0 at push 5 for 0.2 s",
    )
    assert not events(tmp_path / "run", "fail")
    assert sum("connected again" in words for words in site.told) >= 2
    require_sound(tmp_path / "run", epochs=2)


@pytest.mark.long
def test_an_agent_that_is_killed_and_one_that_comes_later(site, tmp_path):
    site.agent(script=FILE)
    gone = site.process(1, FILE)
    back = threading.Event()
    does = Does(at_3=gone.kill, left=lambda: site.agent(2, script=FILE), joined=back.set)
    with pytest.raises(Stopped):
        a_run(site, scripts.usual, tmp_path / "run", args=(100_000,), does=does, stop=back.is_set)
    (failure,) = events(tmp_path / "run", "fail")
    assert failure[5] == "died"
    assert [failure[2], 1] in [event[2:4] for event in events(tmp_path / "run", "join")]
    assert audit(tmp_path / "run").ok


def test_an_agent_whose_script_prepares_other_data_is_refused_and_the_run_goes_on(site, tmp_path):
    odd = tmp_path / "odd.py"
    odd.write_text(ODD)
    spec = importlib.util.spec_from_file_location("odd", odd)
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd"] = module
    spec.loader.exec_module(module)
    others = []
    site.agent(script=odd)
    does = Does(at_3=lambda: others.append(site.agent(script=odd, args=("88",))))

    def refused():
        return bool(others) and not others[0].thread.is_alive()

    try:
        with pytest.raises(Stopped):
            a_run(site, module.main, tmp_path / "run", workers=1, does=does, stop=refused)
    finally:
        del sys.modules["odd"]
    assert isinstance(others[0].errors[0], InvalidArgument)
    assert [event[4] for event in events(tmp_path / "run", "leave")] == ["refused"]


def test_a_drained_script_leaves_between_two_steps(site, tmp_path):
    site.agent(script=FILE)
    leaves = site.agent(script=FILE)
    a_run(site, scripts.usual, tmp_path / "run", args=(4,), does=Does(at_3=leaves.wishes.drain))
    assert [event[4] for event in events(tmp_path / "run", "leave")] == ["drained"]
    assert not leaves.errors
    require_sound(tmp_path / "run", epochs=4)


def test_a_group_of_processes_is_one_worker_of_an_agent(site, tmp_path):
    site.agent(script=FILE)
    run = a_run(site, scripts.usual, tmp_path / "run", workers=1, group=2)
    assert run.summary["status"] == "finished"
    require_sound(tmp_path / "run", epochs=2)


def test_a_stream_that_has_come_to_its_end_with_an_agent_does_not_begin_again_there(site, tmp_path):
    site.agent(2, script=FILE)
    run = a_run(site, scripts.streaming, tmp_path / "run")
    assert run.summary["status"] == "finished"
    assert not events(tmp_path / "run", "join")
    assert len(events(tmp_path / "run", "finish")) == 2


def test_what_a_script_raises_before_it_prepared_anything_is_shown(site, tmp_path):
    site.agent(script=FILE)
    with pytest.raises(WorkerFailed, match="nothing was trained"):
        a_run(site, scripts.never_preparing, tmp_path / "run", workers=1)


def test_an_agent_with_another_script_is_refused_and_told_why(site, tmp_path):
    other = tmp_path / "user_scripts.py"
    other.write_text("def usual(session): ...\n")
    refused, others = site.agent(script=other), []

    def look():
        if not others and not refused.thread.is_alive():
            others.append(site.agent(2, script=FILE))
        return False

    run = a_run(site, scripts.usual, tmp_path / "run", stop=look)
    assert run.summary["status"] == "finished"
    assert "user_scripts.py" in str(refused.errors[0])


SERVED = """
import sys
sys.path.insert(0, {folder!r})
import tardigrad, user_scripts
if __name__ == "__main__":
    tardigrad.run(user_scripts.counting, args=(4,), directory={place!r}, **{given!r})
"""


@pytest.mark.long
def test_a_script_whose_server_is_killed_goes_on_with_the_agents_that_look_for_it(site, tmp_path):
    place = tmp_path / "run"
    given = {**BOTH, **site.settings, "checkpoint_every": 0.001}
    served = tmp_path / "served.py"
    killed = {**given, "chaos": "kill server at version 20"}
    served.write_text(SERVED.format(folder=str(FILE.parent), place=str(place), given=killed))
    site.agent(2, script=served)
    done = subprocess.run([sys.executable, str(served)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = subprocess.run([sys.executable, str(served)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "environment.json").read_text())["resumed"]
    found = audit(place)
    assert found.ok, found.verdict
    assert (found.epochs, found.applied) == (4, 4 * scripts.SAMPLES)
