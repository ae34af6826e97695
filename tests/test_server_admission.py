"""What is refused, and that a refused push changes nothing."""

import pytest
import torch

import tardigrad
from tardigrad.errors import Diverged, GradientError, ProtocolError
from tardigrad.leases import Leases
from tardigrad.records import Lease, Push
from tardigrad.testing.walks import gradient, initial_weights

ONE = torch.ones(1)
NAN, INF = float("nan"), float("inf")


def a_server(weights=None, rule="asgd", *, lr=1.0, workers=3, **keywords):
    weights = [torch.zeros(1)] if weights is None else weights
    return tardigrad.ParameterServer(weights, tardigrad.rule(rule), lr=lr, workers=workers, **keywords)


# -- gradients that are not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [0, 3])
def test_one_element_that_is_not_finite_is_enough(value, place):
    server = a_server([torch.zeros(4)])
    bad = torch.ones(4)
    bad[place] = value
    result = server.push(0, [bad])
    assert (result.accepted, result.reason, result.version) == (False, "non-finite", 0)
    assert torch.equal(server.weights()[0], torch.zeros(4))


def test_a_norm_that_overflows_with_finite_elements_is_no_reason():
    large = torch.full((4,), 1e30)
    assert torch.linalg.vector_norm(large).isinf()
    server = a_server([torch.zeros(4)], lr=1e-30)
    assert server.push(0, [large]).accepted
    torch.testing.assert_close(server.weights()[0], -torch.ones(4))


def test_a_workers_own_norm_is_believed_if_finite_and_checked_if_not():
    server = a_server()
    assert server.receive(Push(0, torch.ones(1), norm=INF)).accepted
    assert server.receive(Push(0, torch.full((1,), NAN), norm=NAN)).reason == "non-finite"
    assert server.receive(Push(0, torch.ones(1), norm=1.0)).accepted


@pytest.mark.parametrize("workers", [1, 3])
def test_a_lease_comes_back_twice_and_is_lost_the_third_time(workers):
    leases = Leases(6, 2, epochs=1, workers=workers)
    server = a_server(workers=workers, leases=leases)
    bad = server.pull(0).lease
    for lost in (False, False, True):
        result = server.push(0, [NAN * ONE])
        assert (result.reason, result.lease, result.lost) == ("non-finite", bad, lost)
        following = server.pull(0).lease
        assert (following == bad) is not lost
    assert leases.lost == [(bad, "non-finite")]
    server.push(0, [ONE])
    server.pull(0)
    server.push(0, [ONE])
    assert leases.finished_epochs == 1
    assert server.samples_applied == 4


def test_a_rejected_push_leaves_every_state_as_it_was():
    def play(with_bad_ones):
        made = tardigrad.rule("dc-asgd-a", momentum=0.9)
        server = tardigrad.ParameterServer(initial_weights(torch.float32), made, lr=0.1, workers=2, max_staleness=3)
        for number in range(12):
            worker = number % 2
            read = server.pull(worker).weights
            if with_bad_ones:
                poisoned = gradient(read, 100)
                poisoned[0][0, 0] = NAN
                assert not server.push(worker, poisoned).accepted
            server.push(worker, gradient(read, number))
        return server.state_dict()

    clean, dirty = play(False), play(True)
    assert torch.equal(clean["weights"], dirty["weights"])
    for worker in (0, 1):
        own, other = (state["path"]["workers"][worker]["mean_square"] for state in (clean, dirty))
        assert torch.equal(own, other)
    assert torch.equal(clean["path"]["optimizer"]["velocity"], dirty["path"]["optimizer"]["velocity"])


# -- divergence ------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_end_the_run_naming_version_and_remedies():
    server = a_server([torch.full((1,), 3e38)])
    server.push(0, [torch.full((1,), -3e38)])  # the weights overflow in version 1
    with pytest.raises(Diverged) as caught:
        server.push(0, [NAN * ONE])
    assert caught.value.version == 1
    for word in ("version 1", "damped", "--warmup", "clip_compensation", "smaller lambda0", "smaller lr"):
        assert word in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_finite_weights_with_no_finite_gradient_any_more_end_the_run_too(workers):
    server = a_server(workers=workers)
    for number in range(3 * workers):
        assert server.push(number % workers, [INF * ONE]).reason == "non-finite"
    with pytest.raises(Diverged, match=f"the last {3 * workers + 1} gradients pushed were not finite"):
        server.push(0, [INF * ONE])


def test_a_finite_gradient_between_begins_the_count_anew():
    server = a_server(workers=1)
    for _ in range(5):
        for _ in range(3):
            server.push(0, [NAN * ONE])
        assert server.push(0, [ONE]).accepted


# -- max_staleness ---------------------------------------------------------------------------------------------------


def test_beyond_max_staleness_a_push_is_rejected_and_its_lease_returned():
    leases = Leases(20, 2, epochs=1, workers=2)
    server = a_server(workers=2, leases=leases, max_staleness=2)
    held = server.pull(0).lease
    for _ in range(2):
        server.pull(1)
        server.push(1, [ONE])
    server.pull(1)
    server.push(1, [ONE])
    result = server.push(0, [ONE])
    assert (result.reason, result.staleness, result.lease, result.lost) == ("stale", 3, held, False)
    assert server.version == 3
    snapshot = server.pull(0)
    assert (snapshot.version, snapshot.lease) == (3, held)
    assert server.push(0, [ONE]).accepted


def test_exactly_max_staleness_is_accepted():
    server = a_server(max_staleness=2)
    assert [server.push(worker, [ONE]).accepted for worker in (0, 1, 2, 0)] == [True, True, True, False]


def test_reweighting_scales_by_the_bound_over_the_staleness():
    server = a_server([torch.zeros(1).double()], max_staleness=2, on_stale="reweight")
    for worker in (0, 1, 2):
        server.push(worker, [torch.ones(1).double()])
    before = server.weights()[0].item()
    commit = server.push(0, [torch.ones(1).double()])
    assert commit.staleness == 3
    assert before - server.weights()[0].item() == pytest.approx(2 / 3, rel=1e-14)


def test_reweighting_acts_on_the_compensated_gradient():
    server = a_server(
        [torch.zeros(1).double()], "dc-asgd-c(lambda0=1)", lr=0.5, max_staleness=1, on_stale="reweight", workers=2
    )
    server.push(0, [torch.ones(1).double()])  # -0.5
    server.push(0, [torch.ones(1).double()])  # staleness 1: -0.5 - 0.5 (1 - 0.5) = -0.75
    server.push(1, [torch.ones(1).double()])  # staleness 2: half of 1 - 0.75
    assert server.weights()[0].item() == pytest.approx(-0.75 - 0.5 * 0.5 * 0.25, rel=1e-14)


# -- repeats and earlier lives ---------------------------------------------------------------------------------------


def test_a_repeated_push_is_refused_and_counts_once():
    server = a_server()
    assert server.push(0, [ONE], seq=0).accepted
    again = server.push(0, [ONE], seq=0)
    assert (again.accepted, again.reason, again.version) == (False, "duplicate", 1)
    assert server.push(0, [ONE], seq=5).accepted
    assert server.push(0, [ONE], seq=3).reason == "duplicate"
    assert server.push(1, [ONE], seq=0).accepted, "each worker counts for itself"
    assert server.push(0, [ONE]).accepted, "without a number nothing is checked"
    assert server.weights()[0].item() == -4.0


def test_a_repeat_does_not_touch_the_lease_of_the_next_step():
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server(leases=leases)
    first = server.pull(0).lease
    server.push(0, [ONE], seq=0)
    following = server.pull(0).lease
    assert server.receive(Push(0, ONE, lease=first, sequence=0)).reason == "duplicate"
    assert server.push(0, [ONE], seq=1).contributions[0].lease == following


def test_a_push_of_an_earlier_life_is_refused():
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server(leases=leases)
    held = server.pull(0).lease
    server.leave(0)
    assert server.join(0) == 1
    late = server.receive(Push(0, ONE, lease=held, samples=2, incarnation=0))
    assert (late.reason, late.lost, server.version) == ("incarnation", False, 0)
    assert server.pull(0).lease == held, "the lease of the dead worker went back to the front"
    commit = server.receive(Push(0, ONE, lease=held, samples=2, incarnation=1))
    assert commit.contributions[0].incarnation == 1
    assert leases.applied == 2


def test_a_life_that_has_not_begun_is_refused_too():
    assert a_server().receive(Push(0, ONE, incarnation=1)).reason == "incarnation"


def test_a_new_life_counts_its_pushes_anew():
    server = a_server()
    server.push(0, [ONE], seq=9)
    server.leave(0)
    server.join(0)
    server.pull(0)
    assert server.push(0, [ONE], seq=0).accepted


def test_every_return_is_a_life_of_its_own():
    server = a_server()
    for life in range(1, 4):
        server.leave(2)
        assert server.join(2) == life
    assert server.join(9) == 0


# -- pushes that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grads", "sentence"),
    [
        ([torch.ones(2)], "has 1 tensors, the weights have 2"),
        ([torch.ones(2), torch.ones(4)], r"weight1 has shape \(4,\), the weight \(3,\)"),
        ([torch.ones(2).double(), torch.ones(3)], "weight0 is torch.float64"),
        (torch.ones(6), r"flat gradient of shape \(6,\)"),
        ([torch.ones(2), None], "weight1 is a NoneType"),
        (None, "has 1 tensors"),
    ],
    ids=str,
)
def test_a_gradient_that_does_not_fit_gets_a_sentence_and_changes_nothing(grads, sentence):
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server([torch.zeros(2), torch.zeros(3)], "dc-asgd-a", leases=leases)
    held = server.pull(0).lease
    with pytest.raises(GradientError, match=sentence):
        server.push(0, grads, seq=0)
    assert server.version == 0
    assert server.ready() == [1, 2], "the worker still holds its pull"
    commit = server.push(0, [torch.ones(2), torch.ones(3)], seq=0)
    assert commit.contributions[0].lease == held


def test_a_push_for_samples_it_does_not_hold_is_refused_and_changes_nothing():
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server(leases=leases)
    held, others = server.pull(0).lease, server.pull(1).lease
    for wrong in (others, Lease(9, 0, 2)):
        with pytest.raises(ProtocolError, match=r"worker 0 pushes Lease\(.*\) but holds Lease\("):
            server.push(0, [ONE], lease=wrong)
    assert server.push(0, [ONE], lease=held).accepted
    assert leases.applied == 2


def test_a_second_push_on_one_pull_has_no_lease_to_finish():
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server(leases=leases)
    server.pull(0)
    server.push(0, [ONE])
    assert server.push(0, [ONE]).contributions[0].lease is None
    assert leases.applied == 2


def test_a_leave_gives_the_lease_back_to_the_front():
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server(leases=leases)
    held = server.pull(0).lease
    server.pull(1)
    server.leave(0)
    assert server.pull(2).lease == held


def test_pulling_again_keeps_the_lease():
    leases = Leases(6, 2, epochs=1, workers=3)
    server = a_server(leases=leases)
    assert server.pull(0).lease == server.pull(0).lease
