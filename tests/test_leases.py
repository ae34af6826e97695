"""Leases: every sample of a finished epoch is applied exactly once, or listed as lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.leases import Leases, epoch_permutation

POLICIES = ["dynamic", "static"]
ACTIONS = ["take", "take", "take", "finish", "finish", "give back", "reject", "leave", "join", "restore"]


class Book:
    """Leases under any sequence of calls, and what became of each sample."""

    def __init__(self, samples, sizes, epochs, policy, seed):
        self.arguments = (samples, sizes)
        self.keywords = {"epochs": epochs, "workers": len(sizes), "policy": policy, "seed": seed}
        self.leases = Leases(*self.arguments, **self.keywords)
        self.live, self.held, self.applied = list(range(len(sizes))), {}, []

    def play(self, action, number):
        if action == "join":
            worker = max([*self.live, *self.held, -1]) + 1
            self.live.append(worker)
            self.leases.join(worker)
        elif action == "restore":
            state = self.leases.state_dict()
            self.leases, self.held = Leases(*self.arguments, **self.keywords), {}
            self.leases.load_state_dict(state)
        elif self.live:
            self.with_worker(action, self.live[number % len(self.live)])

    def with_worker(self, action, worker):
        if action == "take" and worker not in self.held:
            expected = self.leases.available(worker)
            lease = self.leases.take(worker)
            assert expected == (lease is not None)
            if lease is not None:
                self.held[worker] = lease
        elif action == "leave":
            if worker in self.held:
                self.leases.give_back(self.held.pop(worker))
            self.leases.leave(worker)
            self.live.remove(worker)
        elif worker in self.held:
            self.settle(action, self.held.pop(worker))

    def settle(self, action, lease):
        if action == "finish":
            self.leases.finish(lease)
            self.applied += [(lease.epoch, sample) for sample in range(lease.start, lease.stop)]
        elif action == "give back":
            self.leases.give_back(lease)
        else:
            self.leases.reject(lease, "non-finite")

    def finish_everything(self):
        if not self.live:
            self.play("join", 0)
        while self.held:
            self.settle("finish", self.held.pop(next(iter(self.held))))
        for worker in self.live:
            while (lease := self.leases.take(worker)) is not None:
                self.settle("finish", lease)

    def settled(self):
        lost = [(lease.epoch, n) for lease, _ in self.leases.lost for n in range(lease.start, lease.stop)]
        return sorted(self.applied + lost)


scripts = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 99)), max_size=80)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@pytest.mark.parametrize("policy", POLICIES)
@given(script=scripts, samples=st.integers(1, 17), sizes=sizes, epochs=st.integers(0, 3), seed=st.integers(0, 9))
def test_every_sample_is_applied_once_or_listed_as_lost(policy, script, samples, sizes, epochs, seed):
    book = Book(samples, sizes, epochs, policy, seed)
    for action, number in script:
        book.play(action, number)
        settled = book.settled()
        assert len(settled) == len(set(settled)), "a sample was applied twice"
        for epoch in range(book.leases.finished_epochs):
            assert sum(part == epoch for part, _ in settled) == samples
    book.finish_everything()
    assert book.settled() == [(epoch, sample) for epoch in range(epochs) for sample in range(samples)]
    assert book.leases.finished_epochs == epochs
    assert book.leases.applied + book.leases.lost_samples == samples * epochs


@pytest.mark.parametrize("policy", POLICIES)
def test_a_lease_has_its_workers_size(policy):
    leases = Leases(10, [4, 1, 3], epochs=3, workers=3, policy=policy)
    taken = [leases.take(worker) for worker in (0, 1, 2)]
    assert [lease.samples for lease in taken if lease.stop < 10] == [4, 1, 3][: sum(t.stop < 10 for t in taken)]
    assert leases.size_of(7) == 3, "a worker beyond those named has the last one's size"


def boundaries(policy, seed, order):
    """The leases that workers asking in this order are given."""
    leases = Leases(13, 3, epochs=2, workers=3, policy=policy, seed=seed)
    found = []
    for worker in order:
        lease = leases.take(worker)
        if lease is not None:
            found.append(lease)
    return found


@given(st.lists(st.integers(0, 2), min_size=60, max_size=80), st.sampled_from(POLICIES), st.integers(0, 5))
def test_an_epoch_is_cut_at_the_same_places_whoever_asks(order, policy, seed):
    found = boundaries(policy, seed, order)
    expected = [(e, a, min(a + 3, 13)) for e in range(2) for a in range(0, 13, 3)]
    places = [(lease.epoch, lease.start, lease.stop) for lease in found]
    assert set(places) <= set(expected)
    assert len(places) == len(set(places))
    if policy == "dynamic":
        assert places == expected


def shares(seed, order, policy="static"):
    leases = Leases(12, 2, epochs=4, workers=3, policy=policy, seed=seed)
    found = {worker: [] for worker in range(3)}
    for worker in order:
        if (lease := leases.take(worker)) is not None:
            found[worker].append(lease)
    return found


def test_static_shares_do_not_depend_on_who_asks_first_but_on_the_seed():
    forwards, backwards = [0, 1, 2] * 8, [2] * 8 + [1] * 8 + [0] * 8
    assert shares(0, forwards) == shares(0, backwards)
    assert shares(0, forwards) != shares(1, forwards)
    for taken in shares(0, forwards).values():
        for epoch in range(4):
            assert sum(lease.epoch == epoch for lease in taken) == 2, "every worker has its part of every epoch"


def test_a_worker_that_asks_in_vain_changes_nothing():
    """Three epochs of one stretch each, dealt to three workers: whoever is left out of all of them gets nothing."""
    leases = Leases(10, 10, epochs=3, workers=3, policy="static", seed=2)
    dealt = {worker: leases.available(worker) for worker in range(3)}
    assert sorted(dealt.values()) == [False, True, True]
    before = leases.state_dict()
    unlucky = next(worker for worker in dealt if not dealt[worker])
    assert leases.take(unlucky) is None
    assert leases.state_dict() == before
    assert not leases.plenty
    leases.leave(next(worker for worker in dealt if dealt[worker]))
    assert leases.available(unlucky)  # what is not dealt yet is dealt to those that are left


def test_there_is_plenty_as_long_as_everyone_is_dealt_some():
    leases = Leases(20, 10, epochs=2, workers=2, policy="static")
    assert leases.plenty
    leases.take(0)
    assert leases.plenty
    leases.take(0)
    assert not leases.plenty
    assert leases.available(1)


def test_it_is_over_when_every_sample_is_settled():
    leases = Leases(10, 5, epochs=1)
    first, second = leases.take(0), leases.take(0)
    leases.finish(first)
    assert not leases.over
    leases.reject(second, "non-finite")
    for _ in range(2):
        assert not leases.over
        leases.reject(leases.take(0), "non-finite")
    assert leases.over
    assert Leases(10, 5, epochs=0).over
    assert not Leases(10, 5).over


def test_dynamic_leases_go_to_whoever_asks():
    assert {worker: len(taken) for worker, taken in shares(0, [0] * 24 + [1, 2], "dynamic").items()} == {
        0: 24,
        1: 0,
        2: 0,
    }


def test_there_is_no_barrier_between_epochs():
    leases = Leases(4, 2, epochs=2, workers=2, policy="static")
    assert [leases.take(0).epoch for _ in range(2)] == [0, 1]
    assert leases.take(0) is None
    assert leases.available(1)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_comes_back_is_handed_out_first_the_oldest_before_others(policy):
    leases = Leases(8, 2, epochs=2, workers=2, policy=policy)
    first, second = leases.take(0), leases.take(0)
    third = leases.take(0)
    for lease in (third, first, second):
        leases.give_back(lease)
    assert [leases.take(1) for _ in range(3)] == sorted([first, second, third])


def test_the_third_rejection_gives_a_lease_up():
    leases = Leases(4, 2, epochs=1)
    bad = leases.take(0)
    for _ in range(2):
        assert not leases.reject(bad, "non-finite")
        assert leases.take(0) == bad
    assert leases.reject(bad, "non-finite")
    assert (leases.lost, leases.lost_samples) == ([(bad, "non-finite")], 2)
    leases.finish(leases.take(0))
    assert leases.take(0) is None
    assert (leases.finished_epochs, leases.applied) == (1, 2)


def test_giving_back_does_not_count_as_a_rejection():
    leases = Leases(2, 2, epochs=1)
    for _ in range(10):
        leases.give_back(leases.take(0))
    assert leases.lost == []


def test_a_lease_is_settled_once():
    leases = Leases(4, 2, epochs=1)
    lease = leases.take(0)
    leases.finish(lease)
    for settle in (leases.finish, leases.give_back, lambda lease: leases.reject(lease, "stale")):
        with pytest.raises(ProtocolError, match="is not handed out"):
            settle(lease)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_counts_what_was_handed_out_as_returned(policy):
    leases = Leases(8, 2, epochs=2, workers=2, policy=policy, seed=3)
    held = leases.take(0)
    leases.finish(leases.take(1))
    restored = Leases(8, 2, epochs=2, workers=2, policy=policy, seed=3)
    restored.load_state_dict(leases.state_dict())
    assert restored.take(1) == held
    assert restored.applied == 2


def test_without_a_last_epoch_there_is_always_more():
    for policy in POLICIES:
        leases = Leases(3, 2, workers=5, policy=policy)
        assert [leases.take(worker) is not None for worker in range(5)] == [True] * 5


def test_a_permutation_holds_every_sample_once_and_is_drawn_anew_for_each_epoch_and_seed():
    orders = [epoch_permutation(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
        assert not order.flags.writeable
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(epoch_permutation(50, 0, 0), orders[0])


@pytest.mark.parametrize(
    ("arguments", "keywords", "sentence"),
    [
        ((0, 1), {}, "samples=0 is not an integer >= 1"),
        ((4, 0), {}, "batch_size=0"),
        ((4, 1.5), {}, "batch_size=1.5"),
        ((4, [1, 0]), {"workers": 2}, "batch_size=0"),
        ((4, [1, 2]), {"workers": 3}, "names 2 sizes for 3 workers"),
        ((4, 1), {"epochs": -1}, "epochs=-1"),
        ((4, 1), {"workers": 0}, "workers=0"),
        ((4, 1), {"policy": "fair"}, "policy='fair' is not one of 'dynamic', 'static'"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, keywords, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        Leases(*arguments, **keywords)
