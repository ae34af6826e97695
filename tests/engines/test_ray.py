"""The Ray engine: its laws, and hands, nodes and servers that are lost, drained and found again."""

import json
import shutil
import threading

import pytest

pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'tardigrad[ray]'")


import tardigrad
from ray_cluster import connected
from tardigrad import cli
from tardigrad.audit import audit
from tardigrad.commands.elsewhere import train_elsewhere
from tardigrad.engines.base import Observer
from tardigrad.engines.ray.keeping import hands_kept
from tardigrad.engines.ray.needs import Needs
from tardigrad.errors import InvalidArgument
from tardigrad.logs import read_events
from tardigrad.replaying import replay
from tardigrad.stores import Store
from tardigrad.testing import check_engine
from tardigrad.transports.credentials import Credentials

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray"), pytest.mark.timeout(240)]
RECIPE = tardigrad.RunConfig(task="quadratic(dimension=3, samples=128)", lr=0.05)
NAMES = ("samples_total", "version", "staleness_bucket", "live_workers", "samples_per_second")
SETTINGS = {"engine": "ray", "workers": 2, "epochs": 2, "rule": "dc-asgd-a", "batch_size": 8}

SCRIPT = """
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tardigrad


def main(session):
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :2].argmax(1)), batch_size=8, shuffle=True)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    for _ in session.epochs(2):
        for batch, labels in loader:
            loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    tardigrad.run(main)
"""


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all tests, which this process is connected with."""
    with connected() as made:
        yield made


class Does(Observer):
    """Does something at a version, once."""

    def __init__(self, version, action):
        self._version, self._action = version, action

    def committed(self, time, commit):
        if commit.version == self._version:
            self._action()


def holds(directory):
    found, replayed = audit(directory), replay(directory)
    assert found.ok, found.violations
    assert replayed.equal, replayed.verdict


@pytest.fixture(scope="class")
def hands_that_stay(cluster):
    with hands_kept():
        yield


@pytest.mark.usefixtures("hands_that_stay")
class TestWithHandsThatStay:
    """Runs one after the other, for which no process of Ray is started anew."""

    @pytest.mark.parametrize("shards", [1, 2])
    def test_it_keeps_the_laws_of_an_engine(self, shards):
        check_engine("ray", first_step=120.0, shards=shards)

    def test_the_metrics_appear_at_rays_own_endpoint(self, cluster, tmp_path):
        found = threading.Event()

        class Reads(Observer):
            def committed(self, time, commit):
                if commit.version % 50 == 0 and all(f"ray_tardigrad_{name}" in cluster.metrics() for name in NAMES):
                    found.set()

        settings = SETTINGS | {"epochs": 2000, "observers": [Reads()], "stop": found.is_set}
        with pytest.raises(tardigrad.errors.Stopped):
            tardigrad.train(RECIPE, directory=tmp_path / "run-7", **settings)
        lines = [line for line in cluster.metrics().splitlines() if line.startswith("ray_tardigrad_version")]
        assert any('run="run-7"' in line for line in lines)

    def test_on_a_trusted_network_nothing_is_encrypted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Credentials, "tls", None)
        tardigrad.train(RECIPE, directory=tmp_path / "run", trusted_network=True, shards=2, **SETTINGS)
        assert audit(tmp_path / "run").ok

    def test_a_script_runs_under_ray_as_it_is(self, tmp_path):
        script, place = tmp_path / "mine.py", tmp_path / "run"
        script.write_text(SCRIPT)
        assert cli.main(["run", "--engine", "ray", "--workers", "2", "--directory", str(place), str(script)]) == 0
        assert json.loads((place / "summary.json").read_text())["samples"] == 128
        assert audit(place).ok


@pytest.mark.parametrize("strategy", ["pack", "strict-pack", "spread"])
def test_workers_are_placed_as_a_group(cluster, strategy, tmp_path):
    """Not where hands stay: they keep the CPUs that the group needs."""
    tardigrad.train(RECIPE, directory=tmp_path / "run", ray=f"strategy={strategy!r}", **SETTINGS)
    assert audit(tmp_path / "run").ok


def test_a_hand_that_is_killed_is_started_again_by_ray_and_comes_back(cluster, tmp_path):
    killed = Does(6, lambda: cluster.kill("ray::Hand"))
    joined = Does(0, None)
    joined.joined = lambda time, worker, incarnation: back.set()
    back = threading.Event()
    slow = SETTINGS | {"epochs": 200, "observers": [killed, joined]}
    with pytest.raises(tardigrad.errors.Stopped):
        tardigrad.train(RECIPE, directory=tmp_path / "run", stop=back.is_set, **slow)
    assert [event[5] for event in read_events(tmp_path / "run", kind="fail")] == ["died"]
    assert audit(tmp_path / "run").ok


def test_a_node_that_is_to_go_is_left_by_its_worker_and_another_takes_its_place(cluster, tmp_path):
    going = cluster.add(num_cpus=1, resources={"spot": 1})
    away = threading.Event()

    def leave():
        cluster.add(num_cpus=1, resources={"spot": 1})
        cluster.drain(going)

    class Follows(Observer):
        def joined(self, time, worker, incarnation):
            away.set()

    settings = SETTINGS | {"workers": 1, "epochs": 2000, "ray": "resources={'spot': 1}", "stop": away.is_set}
    with pytest.raises(tardigrad.errors.Stopped):
        tardigrad.train(RECIPE, directory=tmp_path / "run", observers=[Does(6, leave), Follows()], **settings)
    assert [event[4] for event in read_events(tmp_path / "run", kind="leave")] == ["drained"]
    assert not list(read_events(tmp_path / "run", kind="fail"))
    assert audit(tmp_path / "run").ok


@pytest.mark.parametrize("lost", ["process", "directory"])
def test_a_server_that_is_killed_begins_again_and_its_workers_come_back(lost, cluster, tmp_path, capfd):
    place, url = tmp_path / "run", f"file://{tmp_path}/store"
    config, _ = tardigrad.training.resolve(
        RECIPE, **(SETTINGS | {"epochs": 40, "checkpoint_every": 1e-3, "store": url})
    )
    killed = []

    class Kills(Observer):
        def committed(self, time, commit):
            if not killed and Store(url).newest() is not None:
                killed.append(commit.version)
                cluster.kill("ray::Server")
                if lost == "directory":  # as on another node: only the store has the run
                    shutil.rmtree(place)

    assert train_elsewhere(config, place, observers=[Kills()], stop=lambda: False) == 0
    assert capfd.readouterr().out.strip().endswith(f"recorded in {place}")
    assert killed
    holds(place)
    environment = json.loads((place / "environment.json").read_text())
    assert len(environment["resumed"]) == 1
    assert Store(url).newest().ended
    assert not cluster.processes("ray::Server")


def test_a_server_that_loses_a_shard_goes_on_from_its_last_checkpoint(cluster, tmp_path):
    config, _ = tardigrad.training.resolve(
        RECIPE, **(SETTINGS | {"workers": 1, "epochs": 40, "shards": 2, "checkpoint_every": 1e-3})
    )
    words, place = [], tmp_path / "run"

    class Kills(Observer):
        def committed(self, time, commit):
            if not words and list(place.glob("checkpoint-*.json")):
                words.append("killed")
                cluster.kill("ray::ShardHand")

        def noted(self, time, said):
            words.append(said)

    assert train_elsewhere(config, place, observers=[Kills()], stop=lambda: False) == 0
    assert any("shard 1" in said and "goes on" in said for said in words)
    holds(place)


def test_a_script_that_asks_for_workers_itself_is_refused_where_its_command_does(cluster, tmp_path, capfd):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.replace("run(main)", "run(main, ray='num_cpus=2')"))
    words = ["run", "--engine", "ray", "--server-actor", "--directory", str(tmp_path / "run"), str(script)]
    assert cli.main(words) == 2
    assert "say it --ray 'num_cpus=2'" in capfd.readouterr().err


def test_what_a_cluster_lacks_is_counted():
    needs = Needs.parse("num_cpus=2, resources={'spot': 1}")
    assert needs.lacking({"CPU": 8.0}, 3) == {"spot": 3.0}
    assert needs.lacking({"CPU": 5.0, "spot": 3.0}, 3) == {"CPU": 1.0}
    assert needs.lacking({"CPU": 6.0, "spot": 3.0}, 3, servers=2) == {"CPU": 2.0}


def test_needs_are_read_from_words_and_checked():
    needs = Needs.parse("num_gpus=0.5, strategy='strict-spread', runtime_env={'working_dir': '.'}")
    assert needs.options == {"num_cpus": 1.0, "num_gpus": 0.5}
    assert needs.uploads == {"working_dir": "."}
    assert needs.bundle == {"CPU": 1.0, "GPU": 0.5}
    assert Needs.parse("") == Needs()
    for words, sentence in (
        ("num_gpu=1", "Did you mean 'num_gpus'"),
        ("2", "has no name"),
        ("strategy='everywhere'", "strategy"),
        ("num_cpus=-1", "num_cpus"),
        ("resources=3", "dictionary"),
        ("resources={'spot': 0}", "spot"),
    ):
        with pytest.raises(InvalidArgument, match=sentence):
            Needs.parse(words)


def test_server_actor_is_for_ray_only(tmp_path, capsys):
    assert cli.main(["train", "quadratic", "--server-actor", "--directory", str(tmp_path / "run")]) == 2
    assert "--server-actor is for --engine ray" in capsys.readouterr().err
