"""BatchNorm's statistics travel with snapshot and push; what is evaluated is a policy."""

import pytest
import torch
from torch import nn

import tardigrad
from tardigrad.buffers import BufferStore, persistent_buffers
from tardigrad.errors import InvalidArgument

START = {"mean": torch.zeros(2), "seen": torch.tensor(0)}


def buffers(mean, seen):
    return {"mean": torch.full((2,), float(mean)), "seen": torch.tensor(seen)}


def a_server(policy="mean", workers=3, **keywords):
    return tardigrad.ParameterServer(
        [torch.zeros(1)], tardigrad.rule("asgd"), lr=0.1, workers=workers, buffers=START, batchnorm=policy, **keywords
    )


def push(server, worker, mean, seen=1):
    server.pull(worker)
    return server.push(worker, [torch.ones(1)], buffers=buffers(mean, seen))


def plain(found):
    return found["mean"].tolist(), found["seen"].item()


def test_a_worker_gets_back_its_own_statistics():
    server = a_server()
    assert plain(server.pull(0).buffers) == ([0, 0], 0)
    push(server, 0, 3.0)
    push(server, 1, 5.0)
    assert plain(server.pull(0).buffers) == ([3, 3], 1)


@pytest.mark.parametrize(
    ("policy", "expected"), [("mean", ([4, 4], 7)), ("recalibrate", ([4, 4], 7)), ("latest", ([5, 5], 2))]
)
def test_what_is_evaluated_is_the_policys(policy, expected):
    server = a_server(policy)
    push(server, 0, 3.0, seen=7)
    push(server, 1, 5.0, seen=2)
    assert plain(server.buffers.combined(server.live)) == expected
    assert plain(server.pull(2).buffers) == expected, "a worker without statistics of its own starts from the policy's"


def test_the_mean_is_over_live_workers_only():
    server = a_server()
    push(server, 0, 3.0)
    push(server, 1, 5.0)
    server.leave(1)
    assert plain(server.buffers.combined(server.live)) == ([3, 3], 1)
    assert plain(server.pull(2).buffers) == ([3, 3], 1)


def test_a_new_life_starts_from_the_policys_value_and_not_from_the_old_ones():
    server = a_server()
    push(server, 0, 3.0)
    push(server, 1, 9.0)
    server.leave(1)
    server.join(1)
    assert plain(server.pull(1).buffers) == ([3, 3], 1)


def test_a_rejected_push_leaves_no_statistics():
    server = a_server()
    push(server, 0, 3.0)
    server.pull(0)
    server.push(0, [torch.full((1,), torch.nan)], buffers=buffers(9.0, 9))
    assert plain(server.pull(0).buffers) == ([3, 3], 1)


def test_statistics_are_copied_both_ways():
    server = a_server()
    given = buffers(3.0, 1)
    server.pull(0)
    server.push(0, [torch.ones(1)], buffers=given)
    given["mean"].fill_(100.0)
    server.pull(0).buffers["mean"].fill_(200.0)
    server.pull(1).buffers["mean"].fill_(300.0)
    assert plain(server.pull(0).buffers) == plain(server.pull(1).buffers) == ([3, 3], 1)


def test_a_held_push_keeps_its_own_statistics():
    server = a_server(workers=2, consistency="synchronous")
    given = buffers(3.0, 1)
    server.pull(0)
    server.push(0, [torch.ones(1)], buffers=given)
    given["mean"].fill_(100.0)
    assert plain(server.buffers.combined(server.live)) == ([0, 0], 0), "committed with the push, not before"
    push(server, 1, 5.0)
    assert plain(server.buffers.combined(server.live)) == ([4, 4], 1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mean": torch.zeros(2)}, "brings buffers, but not 'seen'"),
        ({"mean": torch.zeros(3), "seen": torch.tensor(0)}, r"'mean' has shape \(3,\), the model's has \(2,\)"),
    ],
)
def test_buffers_that_do_not_fit_change_nothing(given, sentence):
    server = a_server()
    server.pull(0)
    with pytest.raises(InvalidArgument, match=sentence):
        server.push(0, [torch.ones(1)], buffers=given)
    assert server.version == 0
    assert server.push(0, [torch.ones(1)], buffers=buffers(1.0, 1)).accepted


def test_a_push_without_buffers_keeps_the_old_ones():
    server = a_server()
    push(server, 0, 3.0)
    server.push(0, [torch.ones(1)])
    assert plain(server.pull(0).buffers) == ([3, 3], 1)


def test_a_model_without_buffers_hands_out_none():
    server = tardigrad.ParameterServer([torch.zeros(1)], tardigrad.rule("asgd"), lr=0.1)
    assert server.pull(0).buffers == {}
    server.push(0, [torch.ones(1)], buffers={"anything": torch.ones(1)})
    assert server.buffers.combined(server.live) == {}


def test_an_unknown_policy_is_refused():
    with pytest.raises(InvalidArgument, match="batchnorm='median' is not one of 'mean', 'latest', 'recalibrate'"):
        BufferStore(START, "median")


def test_a_state_brings_everyones_statistics_back():
    server = a_server("latest")
    push(server, 0, 3.0)
    push(server, 1, 5.0)
    state, restored = server.state_dict(), a_server("latest")
    push(server, 0, 7.0)
    restored.load_state_dict(state)
    assert plain(restored.pull(0).buffers) == ([3, 3], 1)
    assert plain(restored.buffers.combined(restored.live)) == ([5, 5], 1)


def test_buffers_a_model_can_compute_again_do_not_travel():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[1].register_buffer("mask", torch.ones(3), persistent=False)
    found = persistent_buffers(model)
    assert set(found) == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}
    assert found["0.running_mean"] is model[0].running_mean
