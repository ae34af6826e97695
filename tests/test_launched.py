"""Processes that torchrun or srun started alike: one run. The tests start some."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import tardigrad
from tardigrad import launched, running
from tardigrad.errors import EndedElsewhere, InvalidArgument
from tardigrad.invitation import SECRET_VARIABLE
from tardigrad.launched import Rank, Roll, Srun, Torchrun, find_launch, first_host
from tardigrad.transports.credentials import new_secret, read_secret, write_secret

SCRIPT = """
import os, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import tardigrad


def main(session):
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(os.environ)
    torch.manual_seed(0)
    model, generator = nn.Linear(4, 2), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = TensorDataset(torch.randn(32, 4, generator=generator), torch.randint(0, 2, (32,), generator=generator))
    model, optimizer, loader = session.prepare(model, optimizer, DataLoader(data, batch_size=4, shuffle=True))
    for _ in session.epochs(2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if sys.argv[1:] == ["fail"]:
                raise ValueError("on purpose")
    if session.is_first:
        time.sleep(float(os.environ.get("LATER", "0")))  # the others have begun with what comes next


if __name__ == "__main__":
    settings = {"trusted_network": True} if "SLURM_PROCID" in os.environ else {}
    if sys.argv[1:] == ["twice"]:
        tardigrad.run(main, directory="before", seed=0, **settings)
    run = tardigrad.run(main, directory="run", seed=0, **settings)
    print("mine", os.environ.get("RANK", os.environ.get("SLURM_PROCID")), run.directory, run.summary.get("status"))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def torchrun(script, *args, processes=4, program=()):
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    call = [*words, *(program or (str(script),)), *args]
    return subprocess.run(call, cwd=script.parent, capture_output=True, text=True, timeout=200)


def summary(script):
    return json.loads((script.parent / "run" / "summary.json").read_text())


def ranks(output):
    return sorted(line.split("mine ", 1)[1] for line in output.splitlines() if "mine " in line)


@pytest.mark.long
def test_torchrun_makes_four_processes_one_run(script):
    done = torchrun(script)
    assert done.returncode == 0, done.stderr
    assert ranks(done.stdout) == ["0 run finished", "1 None None", "2 None None", "3 None None"]
    assert json.loads((script.parent / "run" / "config.json").read_text())["workers"] == 4
    assert summary(script)["samples"] == 64
    assert summary(script)["lost_samples"] == 0


@pytest.mark.long
def test_under_torchrun_any_failure_ends_all(script):
    done = torchrun(script, "fail", processes=2)
    assert done.returncode != 0
    assert "ValueError: on purpose" in done.stderr
    assert "WorkerFailed" in done.stderr
    assert "mine" not in done.stdout


def srun(script, *args, job="7", **environ):
    """Both processes of a job of two, as they ended: status and output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": str(port)}
    shared |= {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *args],
            cwd=script.parent,
            env=os.environ | shared | environ | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [each.communicate(timeout=200)[0] for each in started]
    finally:
        for each in started:
            each.kill()
    return [each.returncode for each in started], "".join(said)


@pytest.mark.long
def test_srun_makes_two_processes_one_run(script):
    codes, said = srun(script)
    assert codes == [0, 0], said
    assert ranks(said) == ["0 run finished", "1 None None"]
    assert summary(script)["samples"] == 64


@pytest.mark.long
def test_a_second_run_of_a_script_under_srun_does_not_meet_the_first(script):
    codes, said = srun(script, "twice", LATER="4")
    assert codes == [0, 0], said
    assert summary(script)["samples"] == 64
    assert summary(script)["lost_samples"] == 0


@pytest.mark.long
def test_a_run_goes_on_in_another_job(script):
    """With that job's secret, whatever lies in its directory."""
    (script.parent / "run").mkdir()
    write_secret(script.parent / "run" / "secret", new_secret())
    codes, said = srun(script, job="8")
    assert codes == [0, 0], said
    assert summary(script)["samples"] == 64


SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"}


def test_who_is_who_under_srun():
    launch = find_launch(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[07-08]"})
    assert isinstance(launch, Srun)
    assert launch.rank == Rank(5, 8, 1, 4)
    address, credentials = launch.found({"trusted_network": True})
    assert address.startswith("gpu07:")
    assert credentials.trusted
    assert launch.listen == ":" + address.rpartition(":")[2]
    again = find_launch(SLURM | {"SLURM_STEP_NODELIST": "gpu[07-08]"})
    assert again.found({"trusted_network": True}) == (address, credentials)
    other = find_launch(SLURM | {"SLURM_JOB_ID": "8", "SLURM_STEP_NODELIST": "gpu[07-08]"})
    assert other.found({"trusted_network": True})[1] != credentials


def test_a_secret_of_the_job_encrypts(monkeypatch):
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    secret = new_secret()
    launch = find_launch(SLURM | {SECRET_VARIABLE: secret, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    address, credentials = launch.found({})
    assert (address, credentials.trusted) == ("10.0.0.1:29500", False)
    assert credentials.secret != find_launch(SLURM | {SECRET_VARIABLE: new_secret()}).found({})[1].secret
    assert SECRET_VARIABLE not in os.environ
    with pytest.raises(InvalidArgument, match="export TARDIGRAD_SECRET"):
        find_launch(SLURM).found({})


def test_the_server_has_its_jobs_secret_in_a_file_of_its_own():
    launch = find_launch(SLURM | {"SLURM_STEP_NODELIST": "a"})
    with launch.with_secret({"trusted_network": True, "seed": 3}) as settings:
        assert settings["seed"] == 3
        assert read_secret(settings["secret_file"]) == launch.found({"trusted_network": True})[1].secret
    assert not Path(settings["secret_file"]).exists()


@pytest.mark.parametrize("given", [{}, {SECRET_VARIABLE: new_secret()}], ids=["trusted", "secret"])
def test_each_run_of_a_script_under_srun_has_a_port_and_a_secret_of_its_own(monkeypatch, given):
    def second(rank):
        monkeypatch.setattr(Srun, "_runs", 0)
        found = []
        for _ in range(2):
            launch = find_launch(SLURM | given | {"SLURM_PROCID": rank, "SLURM_STEP_NODELIST": "a"})
            launch.meet()
            found.append((launch.found({"trusted_network": not given}), launch.listen))
        return found

    (first, _), (again, listen) = mine = second("0")
    assert first[0] != again[0]
    assert first[1].secret != again[1].secret
    assert listen == ":" + again[0].rpartition(":")[2]
    assert second("5") == mine


def test_looking_for_a_launcher_counts_no_run():
    before = Srun._runs, Torchrun._runs
    find_launch(SLURM)
    find_launch(TORCHRUN)
    assert (Srun._runs, Torchrun._runs) == before


@pytest.mark.parametrize(("seen", "device"), [(0, "cuda:0"), (1, "cuda:0"), (2, "cuda:1"), (8, "cuda:3")])
def test_a_process_computes_on_a_gpu_that_it_sees(monkeypatch, seen, device):
    monkeypatch.setattr(launched.torch.cuda, "device_count", lambda: seen)
    launch = find_launch(TORCHRUN | {"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"})
    assert launch.device("cuda") == device
    assert launch.device("cpu") == "cpu"


def test_the_first_process_gives_up_on_others_that_never_come(monkeypatch):
    monkeypatch.setattr(launched, "_BEGINNING", 0.0)
    asked = iter([False, True])
    roll = Roll(find_launch(SLURM), lambda: next(asked))
    with pytest.raises(EndedElsewhere, match="srun has started 8 processes, and within 0 seconds not all"):
        roll.stop()
    roll.pulled(0.0, 0, None)
    assert [roll.stop(), roll.stop()] == [False, True]
    assert Roll(find_launch(SLURM), None).pulled(0.0, 0, None) is None


def test_a_run_whose_other_processes_never_come_ends(monkeypatch, tmp_path):
    for name, value in (SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}).items():
        monkeypatch.setenv(name, value)

    def hosted(script, settings, directory, observers, stop):
        assert read_secret(settings["secret_file"])
        assert any(isinstance(observer, Roll) for observer in observers)
        stop()

    monkeypatch.setattr(running, "_hosted", hosted)
    monkeypatch.setattr(launched, "_BEGINNING", 0.0)
    with pytest.raises(EndedElsewhere, match="srun has started 2 processes"):
        tardigrad.run(alone, directory=tmp_path / "run", trusted_network=True)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a batch script, which srun has not started
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_a_process_that_is_alone(environ):
    assert find_launch(environ) is None


@pytest.mark.parametrize("setting", [{"own_workers": 2}, {"listen": ":1"}, {"on_failure": "restart"}])
def test_what_the_launcher_settles_cannot_be_given(setting):
    launch = find_launch(SLURM)
    assert launch.settings({"workers": 3})["workers"] == 8
    with pytest.raises(InvalidArgument, match="under srun that is settled"):
        launch.settings(setting)


@pytest.mark.parametrize(
    ("nodes", "first"), [("", ""), ("a", "a"), ("a,b", "a"), ("a[3,7-9]", "a3"), ("a-b[003-006],c", "a-b003")]
)
def test_the_first_of_a_list_of_hosts(nodes, first):
    assert first_host(nodes) == first


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("environ", [TORCHRUN, SLURM], ids=["torchrun", "srun"])
def test_plain_pytorch_in_each_of_several_processes_is_refused(monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument, match=r"has started \d processes.* leave engine=None out"):
        tardigrad.run(alone, engine=None)


def test_plain_pytorch_in_the_only_process_sees_nothing_of_its_launcher(monkeypatch):
    for name, value in (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    assert tardigrad.run(alone, engine=None).directory is None


def alone(session):
    assert "RANK" not in os.environ
    assert Path(__file__).exists()
