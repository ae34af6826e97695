"""The parameter server: versions, snapshots, order, pushes before and after pulls, state."""

import pytest
import torch

import tardigrad
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.leases import Leases
from tardigrad.testing.walks import fresh_events, gradient, initial_weights, random_events

ONE = torch.ones(1)


def a_server(weights=None, rule="asgd", *, lr=1.0, workers=3, **keywords):
    weights = [torch.zeros(1)] if weights is None else weights
    return tardigrad.ParameterServer(weights, tardigrad.rule(rule), lr=lr, workers=workers, **keywords)


def test_a_version_is_the_number_of_commits():
    server = a_server()
    assert server.version == 0
    for number in range(1, 6):
        assert server.push(number % 3, [ONE]).version == server.version == number


def test_staleness_is_the_commits_between_pull_and_commit():
    server = a_server()
    server.pull(0)
    server.pull(1)
    assert [server.push(worker, [ONE]).staleness for worker in (0, 1, 1, 2)] == [0, 1, 2, 3]
    server.pull(2)
    assert server.push(2, [ONE]).staleness == 0


def test_a_commit_says_who_what_and_with_which_rate():
    server = a_server(lr=0.5)
    server.pull(1)
    server.push(0, [ONE])
    commit = server.push(1, [ONE], samples=4, loss=2.5)
    assert (commit.accepted, commit.version, commit.worker, commit.staleness) == (True, 2, 1, 1)
    assert (commit.lr, commit.live) == (0.5, 3)
    (part,) = commit.contributions
    assert (part.worker, part.incarnation, part.read_version, part.samples, part.loss) == (1, 0, 0, 4, 2.5)
    assert server.samples_applied == 5


def test_a_push_before_any_pull_counts_as_read_zero():
    server = a_server([torch.full((1,), 5.0).double()], "dc-asgd-c(lambda0=1.0)")
    server.push(0, [torch.ones(1).double()])
    commit = server.push(2, [torch.ones(1).double()])
    assert commit.staleness == 1
    assert server.weights()[0].item() == 4.0 - (1.0 + (4.0 - 5.0))


def test_two_pushes_on_one_pull_are_compensated_against_the_same_backup():
    server = a_server([torch.zeros(1).double()], "dc-asgd-c(lambda0=1.0)")
    server.pull(0)
    assert [server.push(0, [torch.ones(1).double()]).staleness for _ in range(3)] == [0, 1, 2]
    # -1; -1 - (1 - 1) = -1; -1 - (1 + (-1)) = -1
    assert server.weights()[0].item() == -1.0


def test_pulling_again_refreshes_the_backup():
    server = a_server()
    server.pull(0)
    server.push(1, [ONE])
    assert server.pull(0).version == 1
    assert server.read_version(0) == 1
    assert server.push(0, [ONE]).staleness == 0


def test_weights_given_and_handed_out_are_copies():
    given = [torch.zeros(2), torch.zeros(3)]
    server = a_server(given)
    given[0].fill_(9.0)
    server.weights()[1].fill_(9.0)
    snapshot = server.pull(0)
    snapshot.weights[0].fill_(9.0)
    snapshot.flat.fill_(9.0)
    assert all(w.abs().max() == 0 for w in [*server.weights(), *server.pull(0).weights])
    before = server.pull(0)
    server.push(1, [torch.ones(2), torch.ones(3)])
    assert before.weights[0].abs().max() == 0, "a snapshot does not move with the server"


def test_a_snapshots_tensors_are_views_of_its_flat_buffer():
    snapshot = a_server([torch.zeros(2), torch.zeros(3)]).pull(0)
    snapshot.flat.fill_(7.0)
    assert all((w == 7.0).all() for w in snapshot.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dtype_stays_what_it_is(dtype):
    server = a_server([torch.zeros(3, dtype=dtype)], "dc-asgd-a(damped=True)", lr=1e-9)
    for worker in (0, 1, 2):
        server.push(worker, [torch.ones(3, dtype=dtype)])
    assert server.weights()[0].dtype == server.pull(0).flat.dtype == dtype
    # A tenth of float32's resolution around 1 would be lost in it.
    assert (server.weights()[0] + 1.0 != 1.0).all() == (dtype == torch.float64)


def test_a_gradient_may_be_a_list_a_vector_or_in_the_servers_layout():
    ends = []
    for form in ("list", "vector", "layout"):
        server = a_server(initial_weights(torch.float32))
        given = gradient(initial_weights(torch.float32), 0)
        vector = torch.cat([g.reshape(-1) for g in given])
        server.push(0, {"list": given, "vector": vector, "layout": server.layout.pack(given)}[form])
        ends.append(server.flat.clone())
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_the_gradient_pushed_is_not_written_into():
    server = a_server([torch.zeros(4)], "dc-asgd-a")
    pushed = torch.ones(4)
    for worker in (0, 1, 2, 0):
        server.push(worker, pushed)
    assert torch.equal(pushed, torch.ones(4))


def test_exchange_is_a_push_and_the_pull_after_it():
    server, other = a_server(rule="dc-asgd-a"), a_server(rule="dc-asgd-a")
    for worker in (0, 1, 0, 2, 2, 1):
        commit, snapshot = server.exchange(worker, [ONE])
        assert commit == other.push(worker, [ONE])
        expected = other.pull(worker)
        assert snapshot.version == expected.version == commit.version
        assert torch.equal(snapshot.flat, expected.flat)


def test_ready_lists_who_may_read_and_has_not():
    server = a_server()
    assert server.ready() == [0, 1, 2]
    server.pull(1)
    assert server.ready() == [0, 2]
    server.push(1, [ONE])
    assert server.ready() == [0, 1, 2]


def test_a_pull_that_must_wait_is_refused_and_changes_nothing():
    server = a_server(consistency="ssp(0)")
    server.pull(0)
    commit, snapshot = server.exchange(0, [ONE])
    assert commit.accepted
    assert snapshot is None
    assert server.ready() == [1, 2]
    with pytest.raises(ProtocolError, match=r"worker 0 must wait under ssp\(k=0\); pull for the workers in ready\(\)"):
        server.pull(0)
    for worker in (1, 2):
        server.pull(worker)
        server.push(worker, [ONE])
    assert server.ready() == [0, 1, 2]
    assert server.pull(0).version == 3


@pytest.mark.parametrize("call", ["pull", "push", "leave", "exchange"])
def test_a_worker_that_does_not_take_part_is_refused(call):
    server = a_server(workers=2)
    arguments = ([ONE],) if call in ("push", "exchange") else ()
    with pytest.raises(InvalidArgument, match=r"worker 2 does not take part; live workers: \[0, 1\]"):
        getattr(server, call)(2, *arguments)


def test_a_worker_joins_once():
    with pytest.raises(ProtocolError, match="worker 0 already takes part"):
        a_server().join(0)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"lr": -0.1}, r"lr=-0.1 is not a number in \[0, inf\)"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"lr": "0.1"}, "lr='0.1'"),
        ({"workers": 0}, "workers=0 is not an integer >= 1"),
        ({"workers": 1.5}, "workers=1.5"),
        ({"max_staleness": -1}, "max_staleness=-1"),
        ({"on_stale": "ignore"}, "on_stale='ignore' is not one of 'reject', 'reweight'"),
        ({"measure_every": -1}, "measure_every=-1"),
        ({"batchnorm": "none"}, "batchnorm='none'"),
        ({"commit_path": "exakt"}, "Did you mean 'exact'"),
    ],
    ids=str,
)
def test_arguments_without_meaning_are_refused(keywords, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        a_server(**keywords)


@pytest.mark.parametrize("samples", [0, -1, 1.5, "8"])
def test_a_push_of_no_samples_is_refused(samples):
    server = a_server()
    with pytest.raises(InvalidArgument, match=f"samples={samples!r} is not an integer >= 1"):
        server.push(0, [ONE], samples=samples)
    assert server.version == 0


# -- state -------------------------------------------------------------------------------------------------------


def play(server, events, numbers):
    """The weights after each commit; workers compute on what they hold from before."""
    ends = []
    for event in events:
        if event.action == "pull":
            server.pull(event.worker)
        else:
            server.push(event.worker, gradient(initial_weights(server.layout.dtype), next(numbers)))
            ends.append(server.flat.clone())
    return ends


@pytest.mark.parametrize("rule", ["dc-asgd-a", "dc-asgd-a(shared=True)", "dc-asgd-c(lambda0=1.0)"])
def test_a_server_restored_in_mid_flight_continues_bit_for_bit(rule):
    def new():
        made = tardigrad.rule(rule, momentum=0.9, weight_decay=0.01)
        schedule = lambda samples: 0.1 / (1 + samples)  # noqa: E731
        return tardigrad.ParameterServer(initial_weights(torch.float32), made, lr=schedule, workers=3)

    events = random_events(80)
    server, numbers = new(), iter(range(100))
    play(server, events[:40], numbers)
    state, after = server.state_dict(), next(numbers)
    onward = play(server, events[40:], iter(range(after, 100)))
    restored = new()
    restored.load_state_dict(state)
    again = play(restored, events[40:], iter(range(after, 100)))
    assert len(onward) > 10
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(onward, again, strict=True))
    assert (restored.version, restored.samples_applied) == (server.version, server.samples_applied)


@pytest.mark.parametrize("policy", ["dynamic", "static"])
@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(1)", "synchronous"])
def test_a_server_with_leases_restored_between_rounds_continues_bit_for_bit(consistency, policy):
    def new():
        leases = Leases(20, 3, epochs=3, workers=3, policy=policy, seed=5)
        rule = tardigrad.rule("dc-asgd-a", momentum=0.9)
        return tardigrad.ParameterServer(
            initial_weights(torch.float32), rule, lr=0.1, workers=3, consistency=consistency, leases=leases
        )

    def rounds(server, count):
        """Everyone that may read does, then everyone pushes; a gradient is known by its lease."""
        told = []
        for _ in range(count):
            held = [(worker, server.pull(worker).lease) for worker in server.ready()]
            for worker, lease in held:
                if lease is not None:
                    told.append(server.push(worker, gradient(initial_weights(torch.float32), lease.start)))
        return [*told, server.flat.clone()]

    server = new()
    rounds(server, 4)
    state = server.state_dict()
    onward = rounds(server, 20)
    restored = new()
    restored.load_state_dict(state)
    again = rounds(restored, 20)
    assert torch.equal(onward.pop(), again.pop())
    assert onward == again
    assert restored.leases.finished_epochs == 3


def test_a_state_is_a_copy():
    server = a_server(rule="dc-asgd-a")
    play_state = server.state_dict()
    server.push(0, [ONE])
    assert play_state["weights"].item() == 0.0
    assert play_state["version"] == 0


def test_a_lease_out_at_the_time_of_a_state_is_handed_out_again():
    def new():
        return a_server(leases=Leases(4, 2, epochs=1, workers=3))

    server, restored = new(), new()
    held = server.pull(0).lease
    restored.load_state_dict(server.state_dict())
    assert restored.ready() == [0, 1, 2]
    assert restored.pull(1).lease == held


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("rule", {"rule": tardigrad.rule("dc-asgd-c", lambda0=1.0)}),
        ("optimizer", {"rule": tardigrad.rule("asgd", momentum=0.9)}),
        ("consistency", {"rule": tardigrad.rule("asgd"), "consistency": "ssp(1)"}),
    ],
)
def test_a_state_of_another_rule_or_consistency_is_refused_and_nothing_changed(part, other):
    plain = tardigrad.ParameterServer([torch.ones(3)], tardigrad.rule("asgd"), lr=0.1)
    plain.push(0, [torch.ones(3)])
    server = tardigrad.ParameterServer([torch.ones(3)], lr=0.1, **other)
    with pytest.raises(InvalidArgument, match=f"a server with {part}"):
        server.load_state_dict(plain.state_dict())
    assert server.version == 0
    assert torch.equal(server.weights()[0], torch.ones(3))


def test_leases_for_another_number_of_workers_are_refused():
    with pytest.raises(InvalidArgument, match="leases are for 4 workers, the server has 2"):
        tardigrad.ParameterServer(
            [torch.ones(3)], tardigrad.rule("asgd"), lr=0.1, workers=2, leases=Leases(10, 2, workers=4)
        )


def test_a_state_of_another_model_is_refused():
    with pytest.raises(InvalidArgument, match="a server with weights"):
        a_server([torch.zeros(2)]).load_state_dict(a_server([torch.zeros(3)]).state_dict())


def test_a_state_in_the_middle_of_a_round_is_refused():
    server = a_server(consistency="synchronous")
    server.pull(0)
    server.push(0, [ONE])
    with pytest.raises(ProtocolError, match="a synchronous round is under way"):
        server.state_dict()


def test_sequence_numbers_and_lives_survive_a_state():
    server, restored = a_server(), a_server()
    server.leave(1)
    server.join(1)
    server.push(1, [ONE], seq=6)
    server.leave(2)
    restored.load_state_dict(server.state_dict())
    assert restored.push(1, [ONE], seq=6).reason == "duplicate"
    assert restored.push(1, [ONE], seq=7).contributions[0].incarnation == 1
    assert restored.join(2) == 1


def test_fresh_events_are_fresh():
    server = a_server(initial_weights(torch.float64))
    numbers = iter(range(100))
    play(server, fresh_events(10), numbers)
    assert server.version == 10
