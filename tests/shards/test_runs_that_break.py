"""Runs whose shards raise, or that end before they begin: nothing false is written, and nothing is left behind."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import tardigrad
from tardigrad import running
from tardigrad.config import RunConfig
from tardigrad.engines.local.sharding import ProcessLink
from tardigrad.errors import InvalidArgument, RunDirectoryError, ShardLost
from tardigrad.shards.links import NearLink
from tardigrad.shards.server import ShardedServer
from tardigrad.shards.shard import Shard

RECIPE = RunConfig(task="quadratic(dimension=500, samples=96)")
SETTINGS = {"rule": "dc-asgd-a", "batch_size": 8, "epochs": 3, "lr": 0.05, "workers": 2, "measure_every": 5}


class Stop(Exception):
    """Here it ends."""


def stop(*arguments, **keywords):
    raise Stop


def script(session):
    model = torch.nn.Linear(6, 3)
    loader = DataLoader(TensorDataset(torch.zeros(8, 6)), batch_size=4)
    session.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), loader)


@pytest.mark.parametrize("error", [ValueError("only here"), KeyboardInterrupt()])
def test_weights_of_two_versions_are_not_written_as_those_of_a_run(tmp_path, monkeypatch, error):
    apply = Shard._apply

    def broken(shard, content):
        if (shard.plan.range.number, shard.version) == (0, 10):
            raise error
        return apply(shard, content)

    monkeypatch.setattr(Shard, "_apply", broken)
    place = tmp_path / "run"
    settings = {**SETTINGS, "shards": 2, "directory": place}
    with pytest.raises(type(error)):
        tardigrad.train(RECIPE, **settings)
    assert {"log.jsonl", "config.json"} <= {path.name for path in place.iterdir()}
    assert not {"weights.safetensors", "summary.json"} & {path.name for path in place.iterdir()}


def test_a_run_that_is_broken_off_between_commits_is_written_with_its_last_weights(tmp_path, monkeypatch):
    pull = ShardedServer.pull

    def interrupted(server, *arguments, **keywords):
        if server.version == 10:
            raise KeyboardInterrupt
        return pull(server, *arguments, **keywords)

    monkeypatch.setattr(ShardedServer, "pull", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tardigrad.train(RECIPE, shards=2, directory=tmp_path / "run", **SETTINGS)
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_a_shard_that_is_lost_at_the_end_is_no_finished_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ShardedServer, "bytes_held", lambda server: lost())
    with pytest.raises(ShardLost) as found:
        tardigrad.train(RECIPE, shards=2, directory=tmp_path / "run", **SETTINGS)
    assert "--resume" in found.value.__notes__[0]
    assert not (tmp_path / "run" / "summary.json").exists()


def lost():
    raise ShardLost(1, "gone")


def test_no_shard_is_started_for_a_run_that_cannot_be_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessLink, "__init__", stop)
    (tmp_path / "mine").write_text("something else")
    with pytest.raises(RunDirectoryError, match="files that are not a run"):
        tardigrad.train(RECIPE, engine="local", shards=2, directory=tmp_path, **SETTINGS)


def test_no_shard_is_started_for_a_fault_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessLink, "__init__", stop)
    settings = {**SETTINGS, "engine": "joined", "own_workers": 2, "shards": 2, "directory": tmp_path / "run"}
    with pytest.raises(InvalidArgument, match="worker 1 is a process of the server's own machine"):
        tardigrad.train(RECIPE, chaos="delay worker 1 by 500 ms", **settings)


def test_shards_end_with_a_run_that_does_not_begin(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(NearLink, "close", lambda link: closed.append(link.shard.plan.range.number))
    monkeypatch.setattr("tardigrad.training.make_ready", stop)
    with pytest.raises(Stop):
        tardigrad.train(RECIPE, shards=3, directory=tmp_path / "run", **SETTINGS)
    assert sorted(closed) == [0, 1, 2]


def test_shards_end_with_a_script_whose_run_does_not_begin(tmp_path, monkeypatch):
    servers, stage_of = [], running.stage_of

    def remembered(*arguments):
        found = stage_of(*arguments)
        servers.append(found[0].server)
        return found

    monkeypatch.setattr(running, "stage_of", remembered)
    monkeypatch.setattr(running, "make_ready", stop)
    with pytest.raises(Stop):
        tardigrad.run(script, workers=1, threads=1, shards=2, directory=tmp_path / "run")
    assert not servers[0].links[1]._process.is_alive()
