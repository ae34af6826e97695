"""The law book of engines catches each kind of broken engine."""

import os
import subprocess
import threading
from dataclasses import replace

import pytest
import torch

from tardigrad.engines import ENGINES
from tardigrad.engines.base import Limits
from tardigrad.engines.simulated import SimulatedEngine
from tardigrad.errors import UnknownName
from tardigrad.testing import ENGINE_LAWS, check_engine
from tardigrad.testing.leftovers import held_now, left_since


class TellsOtherwise(SimulatedEngine):
    """Its observers are told of other commits than were made."""

    def _committed(self, time, commit):
        super()._committed(time, self.told(commit))

    def told(self, commit):
        raise NotImplementedError


class SkipsAVersion(TellsOtherwise):
    def told(self, commit):
        return replace(commit, version=commit.version + (commit.version > 4))


class MiscountsStaleness(TellsOtherwise):
    def told(self, commit):
        return replace(commit, staleness=commit.staleness + 1)


class LeavesASampleOut(TellsOtherwise):
    def told(self, commit):
        part = commit.contributions[0]
        shorter = replace(part, lease=replace(part.lease, stop=part.lease.stop - 1))
        return replace(commit, contributions=(shorter, *commit.contributions[1:]))


class Nudges(SimulatedEngine):
    """Moves a weight by itself, which no log tells."""

    def _committed(self, time, commit):
        super()._committed(time, commit)
        if commit.version == self.when():
            self.job.server.flat[0] += 0.5

    def when(self):
        return 4


class NudgesAmongSeveral(Nudges):
    def when(self):
        return 4 if len(self.job.server.live) > 1 else 0


class KeepsFailuresQuiet(SimulatedEngine):
    def __init__(self, job):
        super().__init__(replace(job, observers=[Deaf(observer) for observer in job.observers]))


class Deaf:
    """An observer that is not told of failures."""

    def __init__(self, observer):
        self._observer = observer

    def __getattr__(self, name):
        return getattr(self._observer, name) if name != "failed" else lambda *_: None


class GoesOnWhateverFails(SimulatedEngine):
    def __init__(self, job):
        super().__init__(replace(job, limits=replace(job.limits, on_failure="restart")))


class NeverRestarts(SimulatedEngine):
    def __init__(self, job):
        super().__init__(replace(job, limits=Limits(max_restarts=0)))


class LeavesADescriptor(SimulatedEngine):
    def run(self, pause=None):
        os.dup(0)
        return super().run(pause)


class LeavesAThread(SimulatedEngine):
    def run(self, pause=None):
        threading.Thread(target=FOREVER.wait, name="left", daemon=True).start()
        return super().run(pause)


class NeverStops(SimulatedEngine):
    def run(self, pause=None):
        return super().run(None)


class LosesSomethingOnTheWay(SimulatedEngine):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.job.server.flat.mul_(1.001)


FOREVER = threading.Event()
BROKEN = [
    (SkipsAVersion, "versions rise by one", "the versions are"),
    (MiscountsStaleness, "staleness counts commits", "says staleness"),
    (LeavesASampleOut, "samples are applied once", "not once"),
    (LeavesASampleOut, "the audit finds nothing", "the audit says"),
    (Nudges, "one worker is plain SGD", "elsewhere than torch.optim.SGD"),
    (Nudges, "its replay is equal", "the weights part after version 0"),
    (NudgesAmongSeveral, "synchronous is the simulator's", "the simulator ends elsewhere"),
    (KeepsFailuresQuiet, "a failure is an event", "failure of worker 1 was not told"),
    (NeverRestarts, "a failure is an event", "it is told"),
    (GoesOnWhateverFails, "a failure ends the run if asked", "as if nothing had happened"),
    (LeavesADescriptor, "nothing is left behind", "1 descriptors"),
    (LeavesAThread, "nothing is left behind", "thread 'left'"),
    (NeverStops, "a stopped run goes on", "was not stopped at version 5"),
    (LosesSomethingOnTheWay, "a stopped run goes on", "ends elsewhere than a whole one"),
]


@pytest.mark.parametrize(("broken", "law", "sentence"), BROKEN)
def test_a_broken_engine_is_caught(broken, law, sentence):
    FOREVER.clear()
    ENGINES.register("broken", broken)
    with pytest.raises(AssertionError, match=f"the engine 'broken' breaks the law {law!r}.*{sentence}"):
        check_engine("broken", laws=[law])
    FOREVER.set()


def test_a_law_that_is_not_one_is_refused():
    with pytest.raises(UnknownName, match="unknown law 'it is fast'"):
        check_engine("simulated", laws=["it is fast"])


def test_settings_of_ones_own():
    settings = {"recipe": "digits", "epochs": 1, "batch_size": 64}
    check_engine("simulated", laws=["one worker is plain SGD", "samples are applied once"], **settings)


def test_every_law_that_can_be_broken_is_broken_here():
    assert {law for _, law, _ in BROKEN} == set(ENGINE_LAWS)


def test_a_process_that_is_left_is_seen():
    before = held_now()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as left:
        assert left.pid in held_now().processes - before.processes
        left.stdin.close()  # now it ends, and left_since waits for that
        assert [found for found in left_since(before) if "process" not in found] == []
    assert left_since(before) == []


def test_memory_that_is_left_is_seen():
    before = held_now()
    descriptor = os.memfd_create("left")
    os.ftruncate(descriptor, 4096)
    kept = torch.from_file(f"/proc/self/fd/{descriptor}", shared=True, size=16)
    os.close(descriptor)
    assert left_since(before) == ["1 segments of shared memory"]
    del kept
    assert left_since(before) == []
