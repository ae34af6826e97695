"""What no worker says: it counts as lost, like one that has ended, and the run goes on."""

from types import SimpleNamespace

import pytest

from tardigrad.engines.base import Observer
from tardigrad.engines.local.beside import JudgeBeside
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.engine import LocalEngine
from tardigrad.engines.local.scripted import ScriptEngine
from tardigrad.errors import ProtocolError, WorkerFailed


class Notes(Observer):
    def __init__(self):
        self.words = []

    def noted(self, time, words):
        self.words.append(words)


class Worker(SimpleNamespace):
    """Nothing that it says can be read."""

    def __init__(self):
        super().__init__(worker=3, incarnation=0, traceback="", end=self, stop=lambda at_once: None)

    def receive(self):
        raise ProtocolError("no answer of a worker.")


@pytest.mark.parametrize("engine_class", [LocalEngine, ScriptEngine])
def test_a_worker_whose_answer_is_none_is_lost(engine_class, monkeypatch):
    lost, notes, worker = [], Notes(), Worker()
    monkeypatch.setattr(engine_class, "_lost", lambda engine, station: lost.append(station))
    engine = engine_class.__new__(engine_class)
    engine.job = SimpleNamespace(observers=[notes])
    engine._base = engine._since = 0.0
    engine._read(worker)
    assert lost == [worker]
    assert notes.words == ["worker 3: no answer of a worker."]


def test_one_that_has_not_prepared_has_failed():
    with pytest.raises(WorkerFailed, match=r"Worker 3 .* died"):
        Cast.__new__(Cast)._asked(Worker())


def test_so_has_the_process_that_evaluates():
    notes, judge = Notes(), JudgeBeside.__new__(JudgeBeside)
    judge.seat, judge.over, judge._job, judge._now = Worker(), False, SimpleNamespace(observers=[notes]), lambda: 0.0
    judge.read()
    assert judge.over
    assert "nothing is evaluated any more" in notes.words[0]
