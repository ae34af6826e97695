"""Who may read, and when pushes become a commit: the bookkeeping by hand. (Laws: test_every_consistency.py.)"""

import pytest

from tardigrad.consistency import SSP, Asynchronous, Synchronous, build_consistency
from tardigrad.errors import InvalidArgument, ProtocolError, UnknownName


def with_workers(consistency, count):
    for worker in range(count):
        consistency.join(worker)
    return consistency


def step(consistency, worker):
    consistency.arrive(worker)
    due = consistency.due()
    if due:
        consistency.committed(due)
    return due


def readers(consistency):
    return [worker for worker in sorted(consistency.live) if consistency.may_read(worker)]


def test_asynchronous_lets_everyone_read_and_commits_every_push():
    consistency = with_workers(Asynchronous(), 3)
    for worker in (0, 0, 2, 1, 0):
        assert step(consistency, worker) == [worker]
        assert readers(consistency) == [0, 1, 2]
    assert not consistency.is_late(0, 0, 1000)
    assert not consistency.barrier


@pytest.mark.parametrize("k", [0, 1, 3])
def test_ssp_lets_the_fastest_be_exactly_k_steps_ahead(k):
    consistency = with_workers(SSP(k), 2)
    for ahead in range(k + 1):
        assert consistency.may_read(0), f"{ahead} steps ahead of the slowest are allowed"
        step(consistency, 0)
    assert not consistency.may_read(0)
    step(consistency, 1)
    assert consistency.may_read(0)


def test_ssp_waits_for_nobody_who_left():
    consistency = with_workers(SSP(0), 3)
    step(consistency, 0)
    step(consistency, 1)
    assert readers(consistency) == [2]
    consistency.leave(2)
    assert readers(consistency) == [0, 1]


def test_ssp_newcomers_start_with_the_slowest():
    consistency = with_workers(SSP(1), 2)
    for _ in range(5):
        step(consistency, 0)
        step(consistency, 1)
    step(consistency, 0)
    consistency.join(2)
    assert consistency.clocks == {0: 6, 1: 5, 2: 5}
    assert readers(consistency) == [0, 1, 2]


def test_synchronous_commits_a_round_in_worker_order_when_all_have_pushed():
    consistency = with_workers(Synchronous(), 3)
    assert step(consistency, 2) == []
    assert step(consistency, 0) == []
    assert readers(consistency) == [1]
    assert step(consistency, 1) == [0, 1, 2]
    assert readers(consistency) == [0, 1, 2]
    assert consistency.barrier


def test_synchronous_with_wait_for_commits_the_first_m():
    consistency = with_workers(Synchronous(wait_for=2), 3)
    assert step(consistency, 2) == []
    assert step(consistency, 0) == [0, 2]
    assert consistency.is_late(1, 0, 1)
    assert not consistency.is_late(1, 1, 1)


def test_a_round_is_complete_without_those_who_left():
    consistency = with_workers(Synchronous(), 3)
    step(consistency, 0)
    consistency.leave(1)
    assert consistency.due() == []
    consistency.leave(2)
    assert consistency.due() == [0]


def test_the_push_of_a_worker_that_left_still_counts():
    consistency = with_workers(Synchronous(), 2)
    step(consistency, 0)
    consistency.leave(0)
    assert step(consistency, 1) == [0, 1]


def test_one_push_per_worker_and_round():
    consistency = with_workers(Synchronous(), 2)
    step(consistency, 0)
    with pytest.raises(ProtocolError, match="worker 0 has already pushed in this round"):
        consistency.arrive(0)


def test_linear_scaling_multiplies_by_the_contributions():
    assert Synchronous(lr_scaling="linear").lr_factor(5) == 5.0
    assert Synchronous().lr_factor(5) == Asynchronous().lr_factor(5) == SSP(2).lr_factor(5) == 1.0


def test_clocks_survive_a_state():
    consistency = with_workers(SSP(1), 2)
    step(consistency, 0)
    step(consistency, 0)
    restored = SSP(1)
    restored.load_state_dict(consistency.state_dict())
    assert readers(restored) == readers(consistency) == [1]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("ssp", "k"),
        ("ssp(-1)", "k=-1 is not an integer >= 0"),
        ("ssp(1.5)", "k=1.5"),
        ("ssp(k=nan)", "k=nan"),
        ("synchronous(wait_for=0)", "wait_for=0 is not an integer >= 1"),
        ("synchronous(wait_for=True)", "wait_for=True"),
        ("synchronous(lr_scaling='square')", "lr_scaling='square' is not one of 'none', 'linear'"),
        ("asynchronous(2)", "asynchronous"),
        ("ssp(slack=2)", r"has no keyword 'slack'. It takes: k\."),
    ],
)
def test_specs_without_meaning_are_refused(spec, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        build_consistency(spec)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownName, match=r"unknown consistency 'synchronos'. Did you mean 'synchronous'\?"):
        build_consistency("synchronos")


def test_an_instance_is_taken_as_it_is():
    mine = SSP(4)
    assert build_consistency(mine) is mine
    with pytest.raises(InvalidArgument, match="is not a Consistency"):
        build_consistency(3)
