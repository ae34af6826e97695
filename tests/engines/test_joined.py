"""Workers that join: they come, are cut off, die, are drained and come again, and every sample is applied once."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from agents_here import Does, Site, events

import tardigrad
from tardigrad.audit import audit
from tardigrad.engines.joined import hall, reaching
from tardigrad.errors import AllWorkersLost, InvalidArgument, Stopped, WorkerFailed
from tardigrad.replaying import replay
from tardigrad.tasks.base import Split
from tardigrad.testing import ENGINE_LAWS, check_engine

pytestmark = pytest.mark.timeout(120)
ONE = "one worker is plain SGD"
SHORT = {"workers": 2, "epochs": 2, "rule": "dc-asgd-a", "batch_size": 8, "first_step": 60.0}
SAMPLES, LONG = 128, 100_000
RECIPE = tardigrad.RunConfig(task=f"quadratic(dimension=3, samples={SAMPLES})", lr=0.05)


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path / "site") as made:
        yield made


@pytest.fixture
def impatient(monkeypatch):
    """Silence is noticed soon."""
    monkeypatch.setattr(hall, "PATIENCE", 2.0)
    monkeypatch.setattr(reaching, "dial", partial(reaching.dial, patience=2.0))


def small_model():
    return torch.nn.Linear(4, 2)


def train(site, place, *, does=None, **settings):
    given = {**SHORT, **site.settings, **settings}
    return tardigrad.train(RECIPE, directory=place, observers=[] if does is None else [does], **given)


def begin_and_stop(site, place, *, does, stop, **settings):
    """Of a run that would last, as much as is needed."""
    given = {**SHORT, "epochs": LONG, **site.settings, **settings}
    with pytest.raises(Stopped):
        tardigrad.train(RECIPE, directory=place, observers=[does], stop=stop, **given)


def contributors(place):
    return {part[0] for event in events(place, "commit") for part in event[5]}


def require_sound(place, epochs=2):
    """Every sample once, and the replay gives the same bits."""
    found = audit(place)
    assert found.ok, found.violations
    assert (found.epochs, found.applied, found.lost) == (epochs, epochs * SAMPLES, 0)
    replayed = replay(place)
    assert replayed.equal, replayed.verdict


def test_every_law_holds_where_all_workers_join(site):
    site.agent(3, again=True)
    check_engine("joined", laws=[law for law in ENGINE_LAWS if law != ONE], **site.settings)


def test_one_worker_that_joins_is_plain_sgd(site):
    site.agent(again=True)
    check_engine("joined", laws=[ONE], **site.settings)


def test_with_tls_and_a_secret_of_its_own_a_run_leaves_neither_secret_nor_invitation(tmp_path):
    modes = []

    def look():
        modes.extend(stat.S_IMODE((tmp_path / "run" / name).stat().st_mode) for name in ("join.json", "secret"))

    with Site(tmp_path, trusted=False) as site:
        given = {**site.settings, "secret_file": ""}

        def begin():
            site.secret = (tmp_path / "run" / "secret").read_text().strip()
            site.agent(2)

        does = Does(invited=begin, at_3=look)
        tardigrad.train(RECIPE, directory=tmp_path / "run", observers=[does], **{**SHORT, **given})
        assert does.told[0][1].address == site.address
    assert modes == [0o600, 0o600]
    assert not {"join.json", "secret"} & set(os.listdir(tmp_path / "run"))
    assert contributors(tmp_path / "run") == {0, 1}
    require_sound(tmp_path / "run")


def test_own_workers_and_agents_work_side_by_side(site, tmp_path):
    site.agent()
    train(site, tmp_path / "run", own_workers=1, consistency="ssp(1)")
    assert contributors(tmp_path / "run") == {0, 1}
    require_sound(tmp_path / "run")


@pytest.mark.parametrize(
    ("fault", "kind"), [("kill worker 1 at push 3", "died"), ("raise in worker 1 at push 3", "raised")]
)
def test_a_worker_that_ends_comes_back_in_the_same_place_under_its_number(site, tmp_path, fault, kind):
    site.agent(2)
    train(site, tmp_path / "run", chaos=fault, consistency="ssp(2)")
    (failure,) = events(tmp_path / "run", "fail")
    assert (failure[2], failure[3], failure[5]) == (1, 0, kind)
    assert failure[6] == (-signal.SIGKILL if kind == "died" else 1)
    assert ("PlannedFault" in failure[7]) == (kind == "raised")
    assert [event[2:4] for event in events(tmp_path / "run", "join")] == [[1, 1]]
    require_sound(tmp_path / "run")


def test_an_agent_that_is_killed_is_lost_at_once_and_another_takes_the_number(site, tmp_path):
    site.agent()
    gone = site.process()
    back = threading.Event()
    does = Does(at_5=gone.kill, left=lambda: site.agent(), joined=back.set)
    begin_and_stop(site, tmp_path / "run", does=does, stop=back.is_set, consistency="ssp(2)")
    (failure,) = events(tmp_path / "run", "fail")
    worker = failure[2]
    assert (failure[3], failure[5], failure[6]) == (0, "died", None)
    assert [event[2:4] for event in events(tmp_path / "run", "join")] == [[worker, 1]]
    assert audit(tmp_path / "run").ok


def test_a_run_that_nobody_is_left_of_waits(site, tmp_path):
    gone = site.process()
    does = Does(at_5=gone.kill, left=lambda: site.agent(2))
    train(site, tmp_path / "run", does=does, workers=1)
    assert [event[2:4] for event in events(tmp_path / "run", "join")] == [[0, 1], [1, 0]]
    require_sound(tmp_path / "run")


def test_who_comes_later_is_one_more_worker(site, tmp_path):
    site.agent()
    does = Does(at_5=lambda: site.agent(2), at_10=lambda: None)
    train(site, tmp_path / "run", does=does, workers=1, epochs=40)
    assert sorted(event[2:4] for event in events(tmp_path / "run", "join")) == [[1, 0], [2, 0]]
    assert contributors(tmp_path / "run") == {0, 1, 2}
    require_sound(tmp_path / "run", epochs=40)


def test_a_cut_that_is_mended_in_time_is_no_failure_and_no_push_counts_twice(site, tmp_path, impatient):
    cable = site.cable()
    site.agent()
    site.agent(address=cable.address)
    status, shown = tmp_path / "run" / "status.json", []

    def look():
        if not shown and "cut off" in status.read_text():
            shown.append(True)
            cable.mend()
        return False

    given = {**SHORT, **site.settings, "epochs": 4, "consistency": "ssp(1)"}
    does = Does(at_5=cable.cut)
    run = tardigrad.train(RECIPE, directory=tmp_path / "run", observers=[does], stop=look, **given)
    assert shown
    assert run.summary["status"] == "finished"
    assert not [event for event in events(tmp_path / "run", "fail") if event[4] >= 5]
    assert any("connected again" in words for words in site.told)
    require_sound(tmp_path / "run", epochs=4)


def test_a_cut_that_lasts_is_a_death_and_the_worker_comes_back_as_a_new_life(site, tmp_path, impatient):
    cable = site.cable()
    site.agent()
    site.agent(address=cable.address)
    back = threading.Event()
    does = Does(at_5=cable.cut, failed=cable.mend, joined=back.set)
    begin_and_stop(site, tmp_path / "run", does=does, stop=back.is_set, consistency="ssp(2)", reconnect_within=0.3)
    (failure,) = [event for event in events(tmp_path / "run", "fail") if event[4] >= 5]
    worker, life = failure[2:4]
    assert failure[5:7] == ["died", None]
    assert [worker, life + 1] in [event[2:4] for event in events(tmp_path / "run", "join")]
    assert audit(tmp_path / "run").ok


@pytest.mark.parametrize("at", [1, 4])
def test_a_push_on_its_way_when_the_link_is_cut_is_applied_once(site, tmp_path, at):
    site.agent(2)
    train(site, tmp_path / "run", chaos=f"cut worker 0 at push {at} for 0.2 s; cut worker 1 at push 6 for 0.2 s")
    assert not events(tmp_path / "run", "fail")
    assert not events(tmp_path / "run", "reject")
    require_sound(tmp_path / "run")


@pytest.mark.parametrize("consistency", ["asynchronous", "synchronous"])
def test_an_agent_that_is_drained_hands_in_what_it_computes_and_leaves(site, tmp_path, consistency):
    stays, leaves = site.agent(), site.agent()
    gone = threading.Event()
    does = Does(at_5=leaves.wishes.drain, left=gone.set)
    begin_and_stop(site, tmp_path / "run", does=does, stop=gone.is_set, consistency=consistency)
    (left,) = events(tmp_path / "run", "leave")
    assert left[4] == "drained"
    assert not events(tmp_path / "run", "fail")
    assert not leaves.errors
    assert not stays.errors
    assert audit(tmp_path / "run").ok


def test_fewer_workers_that_are_wished_for_wait_until_more_are(site, tmp_path):
    site.agent(3)
    place = tmp_path / "run"

    def wish(workers):
        (place / "request.json").write_text(json.dumps({"workers": workers}))

    does = Does(at_5=partial(wish, 1), left=partial(wish, 2))
    train(site, place, does=does, workers=3, epochs=300)
    assert [event[4] for event in events(place, "leave")] == ["removed", "removed"]
    (joined,) = events(place, "join")
    assert joined[2:4] in ([1, 1], [2, 1])
    require_sound(place, epochs=300)


SERVER = """
import sys, tardigrad
from tardigrad import RunConfig
if __name__ == "__main__":
    tardigrad.train(RunConfig(task={task!r}, lr=0.05), directory={place!r}, **{given!r})
"""


def test_a_server_that_is_killed_is_found_again_by_its_agents(site, tmp_path):
    place = tmp_path / "run"
    given = {**SHORT, **site.settings, "chaos": "kill server at version 30", "checkpoint_every": 0.001, "epochs": 4}
    script = tmp_path / "served.py"
    script.write_text(SERVER.format(task=RECIPE.task, place=str(place), given=given))
    site.agent(2)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = tardigrad.train(RECIPE, directory=place, **given)
    assert run.summary["status"] == "finished"
    assert json.loads((place / "environment.json").read_text())["resumed"]
    require_sound(place, epochs=4)


def test_who_does_not_come_back_to_a_run_that_was_taken_up_again_is_not_waited_for(site, tmp_path):
    place = tmp_path / "run"
    agents, begun = [], threading.Event()
    does = Does(invited=lambda: agents.append(site.agent(2)), at_5=begun.set)
    begin_and_stop(site, place, does=does, stop=begun.is_set, epochs=60)
    agents[0].thread.join(60.0)  # the run was stopped: both places have left
    site.agent(1)
    train(site, place, reconnect_within=0.5, epochs=60)
    (left,) = events(place, "leave")
    assert left[4] == "absent"
    require_sound(place, epochs=60)


def test_where_a_failure_is_to_end_the_run_the_death_of_an_agent_does(site, tmp_path):
    site.agent()
    gone = site.process()
    with pytest.raises(WorkerFailed):
        train(site, tmp_path / "run", does=Does(at_5=gone.kill), on_failure="raise", epochs=50)


def test_where_all_that_ever_came_raise_the_run_ends(site, tmp_path):
    site.agent(2)
    faults = "; ".join(f"raise in worker {worker} at push {at}" for worker in range(2) for at in (1, 2))
    with pytest.raises(AllWorkersLost):
        train(site, tmp_path / "run", chaos=faults, max_restarts=1)


def test_a_task_that_no_other_machine_can_build_is_refused(tmp_path):
    split = Split(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))
    made = tardigrad.Task("own", small_model, torch.nn.functional.cross_entropy, split, split)
    with pytest.raises(InvalidArgument, match="cannot be built on another machine"):
        tardigrad.train(made, engine="joined", workers=1, epochs=1, directory=tmp_path / "run")


def test_a_port_of_a_shard_that_is_taken_is_named_and_nobody_is_let_in(site, tmp_path):
    refused = pytest.raises(InvalidArgument, match=r"shard 1 cannot wait .* another port")
    with socket.create_server(("127.0.0.1", site.port + 1)), refused:
        train(site, tmp_path / "run", rule="asgd", shards=2)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", site.port), 5.0)
    assert "join.json" not in os.listdir(tmp_path / "run")


def test_an_address_that_is_not_this_machines_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="nobody can be waited for there"):
        tardigrad.train(RECIPE, engine="joined", workers=1, listen="192.0.2.1:7070", directory=tmp_path / "run")
