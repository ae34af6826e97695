"""The law book of consistencies catches each kind of broken consistency."""

import pytest

from tardigrad.consistency import SSP, Asynchronous, Synchronous
from tardigrad.testing import check_consistency
from tardigrad.testing.consistency import default_scripts


class NeverReleases(Asynchronous):
    """Lets a worker read as long as it has not completed two steps."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def may_read(self, worker):
        return self.steps.get(worker, 0) < 2

    def committed(self, workers):
        super().committed(workers)
        for worker in workers:
            self.steps[worker] = self.steps.get(worker, 0) + 1


class WaitsForTheDead(Synchronous):
    """Counts those that left among those it waits for."""

    def leave(self, worker):
        pass


class Hoards(Synchronous):
    """Needs four pushes for a commit, however many workers there are."""

    def due(self):
        return sorted(self._arrived) if len(self._arrived) >= 4 else []


class CountsTwice(SSP):
    """A step counts as two, so that the fastest is held too early and the slowest is never met."""

    def may_read(self, worker):
        return self.clocks[worker] - self.k - 1 <= min(self.clocks.values())


class ForgetsClocks(SSP):
    """Restores everyone at clock 0."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.clocks = dict.fromkeys(self.clocks, 0)


class OutOfOrder(Synchronous):
    """Commits in the reverse order of workers."""

    def due(self):
        return super().due()[::-1]


class HoldsTheLeaver(SSP):
    """A worker that left still binds the others."""

    def leave(self, worker):
        self.live.discard(worker)


BROKEN = [
    (NeverReleases, None, "nobody may read|not everyone was released"),
    (WaitsForTheDead, None, "nobody may read|not everyone was released|settled"),
    (Hoards, None, "nobody may read"),
    (lambda: CountsTwice(1), 1, "starts a step 2 ahead of the slowest"),
    (lambda: ForgetsClocks(1), 1, "starts a step 2 ahead|the state, restored"),
    (OutOfOrder, None, "not in worker order"),
    (lambda: HoldsTheLeaver(1), 1, "nobody may read|not everyone was released"),
]


@pytest.mark.parametrize(("make", "bound", "sentence"), BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_a_broken_consistency_is_caught(make, bound, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_consistency(make, bound=bound)


@pytest.mark.parametrize(("spec", "bound"), [("asynchronous", 3), ("ssp(2)", 1), ("synchronous(wait_for=2)", 0)])
def test_a_bound_that_does_not_hold_is_found(spec, bound):
    with pytest.raises(AssertionError, match="ahead of the slowest"):
        check_consistency(spec, bound=bound)


def test_the_sentence_tells_how_to_see_it_again():
    with pytest.raises(AssertionError, match=r"asynchronous: .*script=\[.*\], last events: .*pull") as caught:
        check_consistency("asynchronous", bound=0)
    script = eval(str(caught.value).split("script=")[1].split("]")[0] + "]")
    with pytest.raises(AssertionError, match="ahead of the slowest"):
        check_consistency("asynchronous", bound=0, scripts=[script])


def test_the_default_scripts_are_the_same_every_time():
    assert default_scripts(3, 10) == default_scripts(3, 10)
    assert len(default_scripts()) == 20
