"""Runs whose weights several processes hold: they keep the laws of an engine, and their logs replay."""

import os
import queue
import signal
import threading

import pytest

import tardigrad
from tardigrad.audit import audit
from tardigrad.config import RunConfig
from tardigrad.engines.base import Observer
from tardigrad.engines.joined.office import Office
from tardigrad.engines.local.sharding import ProcessLink
from tardigrad.errors import InvalidArgument, ShardLost
from tardigrad.joining import join
from tardigrad.replaying import replay
from tardigrad.testing import check_engine
from tardigrad.transports.parts import Line

RECIPE = RunConfig(task="quadratic(dimension=500, samples=96)")
SETTINGS = {"rule": "dc-asgd-a", "batch_size": 8, "epochs": 3, "lr": 0.05, "workers": 2, "measure_every": 5}


def test_the_local_engine_keeps_its_laws_with_two_shards():
    check_engine("local", laws=["its replay is equal", "nothing is left behind"], shards=2)


class Killer(Observer):
    """Kills a shard's process when so many commits were applied."""

    def __init__(self, monkeypatch, at):
        self.links, self._at = [], at
        begin = ProcessLink.__init__

        def remembered(link, *arguments, **keywords):
            begin(link, *arguments, **keywords)
            self.links.append(link)

        monkeypatch.setattr(ProcessLink, "__init__", remembered)

    def committed(self, time, commit):
        if commit.version == self._at:
            os.kill(self.links[-1].pid, signal.SIGKILL)


def test_a_shard_that_is_killed_ends_the_run_which_goes_on_with_another_number_of_shards(tmp_path, monkeypatch):
    place = tmp_path / "run"
    settings = {**SETTINGS, "directory": place, "engine": "local", "checkpoint_every": 1000.0}
    killer = Killer(monkeypatch, at=20)
    with pytest.raises(ShardLost, match="shard 2") as lost:
        tardigrad.train(RECIPE, shards=3, observers=[killer], **settings)
    assert "--resume" in lost.value.__notes__[0]
    assert not (place / "summary.json").exists()
    run = tardigrad.train(RECIPE, shards=2, **settings)
    assert run.summary["status"] == "finished"
    assert replay(place).equal
    assert audit(place).ok
    assert len(run.weights()) == 1  # after the shards have ended


class Invited(Observer):
    """Hands on how to join."""

    def __init__(self):
        self.address = queue.SimpleQueue()

    def invited(self, time, invitation):
        self.address.put(invitation)


def test_workers_elsewhere_bring_and_fetch_their_parts_straight_from_the_shards(tmp_path, monkeypatch):
    shipped, said = [], []
    ship, say = Line.ship, Office.say
    monkeypatch.setattr(Line, "ship", lambda line, number: (shipped.append(number), ship(line, number)))
    monkeypatch.setattr(Office, "say", lambda office, word, content: (said.append(word), say(office, word, content)))
    invited, place = Invited(), tmp_path / "run"

    def agent():
        join(place, workers=1, keep_trying=30.0, tell=lambda words: None) if invited.address.get() else None

    thread = threading.Thread(target=agent, daemon=True)
    thread.start()
    run = tardigrad.train(
        RECIPE,
        engine="joined",
        shards=2,
        own_workers=1,
        directory=place,
        observers=[invited],
        consistency="ssp(1)",
        **SETTINGS,
    )
    thread.join(30.0)
    assert not thread.is_alive()
    assert run.summary["status"] == "finished"
    assert shipped  # the agent's gradients
    assert said.count("ship") >= len(shipped)  # and its weights
    assert replay(place).equal


def test_a_rule_that_needs_all_weights_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InvalidArgument, match="Type --shards 1"):
        tardigrad.train(RECIPE, **{**SETTINGS, "rule": "clipping", "shards": 2, "directory": tmp_path / "run"})
    assert not (tmp_path / "run").exists()
