"""The served optimizer is a torch.optim.Optimizer; and how it learns of backward passes."""

import gc

import pytest
import torch
from loopback import Loopback, require_equal, served
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tardigrad.records import Lease
from tardigrad.session import travelling
from tardigrad.session.served import ServedSession
from tardigrad.session.watch import GradientWatch, Seen, WatchedBook

DATA = TensorDataset(torch.randn(12, 4), torch.randint(0, 3, (12,)))
FIRST, SECOND, THIRD = (Lease(0, start, start + 4) for start in (0, 4, 8))


def prepared(loopback=None, **settings):
    """A served optimizer, with the original, the model and batches to come."""
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    original = torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.2}, {"params": [*net[1:].parameters()]}], lr=0.1, momentum=0.9
    )
    session = ServedSession((loopback or Loopback()).link())
    net, optimizer, loader = session.prepare(net, original, DataLoader(DATA, batch_size=4), **settings)
    return optimizer, original, net, iter(loader)


def backward(net, batch):
    cross_entropy(net(batch[0]), batch[1]).backward()


# -- a torch.optim.Optimizer ---------------------------------------------------------------------------------------


def test_it_is_an_optimizer_with_the_users_own_groups():
    optimizer, original, _, _ = prepared()
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert all(one is other for one, other in zip(optimizer.param_groups, original.param_groups, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]
    assert optimizer.defaults == original.defaults
    assert "ServedOptimizer for SGD" in repr(optimizer)


def test_names_of_named_parameters_stay():
    net = nn.Linear(4, 3)
    original = torch.optim.SGD(net.named_parameters(), lr=0.1)
    session = ServedSession(Loopback().link())
    _, optimizer = session.prepare(net, original)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_its_state_is_on_the_server():
    optimizer, original, net, batches = prepared()
    backward(net, next(batches))
    optimizer.step()
    state = optimizer.state_dict()
    assert state == original.state_dict()
    assert state["state"] == {}
    optimizer.load_state_dict(state)


def test_hooks_run_around_every_step():
    net = nn.Linear(4, 3)
    original = torch.optim.SGD(net.parameters(), lr=0.1)
    called = []
    original.register_step_pre_hook(lambda *_: called.append("before"))
    session = ServedSession(Loopback().link())
    net, optimizer, loader = session.prepare(net, original, DataLoader(DATA, batch_size=4))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    for batch in loader:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()
    assert called == ["before", "after"] * 3


def test_the_learning_rates_in_the_groups_are_the_servers():
    loopback = Loopback()
    optimizer, _, net, batches = prepared(loopback)
    loopback.rates_at = lambda samples: (samples / 100, samples / 1000)
    loopback.server._lr = loopback.rates_at
    for batch in batches:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.12, 0.012]


def test_a_group_of_frozen_parameters_keeps_its_rate():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    original = torch.optim.SGD([{"params": net[0].parameters(), "lr": 7.0}, {"params": net[1].parameters()}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(original, step_size=1)
    session = ServedSession(Loopback().link())
    net, optimizer, loader, _ = session.prepare(net, original, DataLoader(DATA, batch_size=12), scheduler)
    for batch in loader:
        backward(net, batch)
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [7.0, 0.1 * 0.1]


def test_a_graph_made_before_a_step_is_stale_after_it():
    """As in torch.optim: what autograd kept is not used with other weights."""
    optimizer, _, net, batches = prepared()
    first, second = next(batches), next(batches)
    old = cross_entropy(net[2](torch.tanh(net[0](second[0]))), second[1])
    backward(net, first)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


def test_the_norm_is_that_of_the_gradients_that_are_there():
    loopback = Loopback()
    optimizer, _, net, batches = prepared(loopback)
    backward(net, next(batches))
    optimizer.step()
    next(batches)
    net[0].weight.grad = None
    net[2].weight.grad *= 2
    optimizer.step()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert loopback.pushes[1]["absent"] == (0,)
    assert loopback.pushes[1]["norm"] == pytest.approx(torch.nn.utils.get_total_norm(gradients).item(), rel=1e-6)


def test_a_refused_push_gives_new_weights_all_the_same():
    loopback = Loopback()
    optimizer, _, net, batches = prepared(loopback)
    backward(net, next(batches))
    net[0].weight.grad[0, 0] = float("nan")
    before = net[0].weight.detach().clone()
    optimizer.step()
    assert loopback.server.version == 0
    assert not loopback.leases.over
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_model_elsewhere_has_buffers_of_its_own(accumulate, monkeypatch):
    """As on a GPU: weights are copied to it, gradients from it, in one piece each."""
    monkeypatch.setattr(travelling, "_apart", lambda device: True)

    def main(session):
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4), accumulate=accumulate)
        for _ in session.epochs(2):
            for batch in loader:
                optimizer.zero_grad()
                backward(net, batch)
                optimizer.step()
            session.evaluate(lambda net: 0.0)
        return list(net.state_dict().values())

    require_equal(main)


# -- backward passes -----------------------------------------------------------------------------------------------


def test_a_look_tells_what_has_happened_to_gradients():
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    watch = GradientWatch([one, other])
    assert watch.look() == Seen(present=False, written=False, gone=False)
    one.sum().backward()
    assert watch.look() == Seen(present=True, written=True, gone=False)
    gc.collect()
    assert watch.look() == Seen(present=True, written=False, gone=False)
    one.sum().backward()
    assert watch.look() == Seen(present=True, written=True, gone=False)
    one.grad = None
    assert watch.look() == Seen(present=False, written=False, gone=True)
    one.sum().backward()
    watch.look()
    one.grad = None
    one.sum().backward()
    assert watch.look() == Seen(present=True, written=True, gone=True)
    other.sum().backward()
    one.grad = None
    assert watch.look() == Seen(present=True, written=True, gone=True)


def test_a_look_does_not_confuse_tensors_in_the_same_place():
    parameter = nn.Parameter(torch.ones(2))
    watch = GradientWatch([parameter])
    for _ in range(20):
        parameter.grad = None
        parameter.sum().backward()
        assert watch.look().written


def test_a_watch_keeps_no_gradient_alive():
    parameter = nn.Parameter(torch.ones(2))
    watch = GradientWatch([parameter])
    parameter.sum().backward()
    watch.look()
    kept = watch._known[0][0]
    assert kept() is parameter.grad
    parameter.grad = None
    assert kept() is None


def a_book():
    parameter = nn.Parameter(torch.ones(2))
    book = WatchedBook([parameter])
    for lease in (FIRST, SECOND, THIRD):
        book.took(lease)
    return book, parameter


def test_a_backward_pass_counts_for_the_batches_before_it():
    book, parameter = a_book()
    book.yielded()
    parameter.sum().backward()
    book.yielded()
    book.zeroed()
    parameter.grad = None
    assert book.dropped() == (FIRST,)
    assert book.dropped() == ()
    parameter.sum().backward()
    book.look()
    assert book.for_push().leases == (SECOND,)


def test_a_batch_may_be_computed_a_second_time():
    book, parameter = a_book()
    book.yielded()
    parameter.sum().backward()
    book.zeroed()
    parameter.grad = None
    assert book.dropped() == ()
    parameter.sum().backward()
    book.look()
    assert book.unstepped
    book.yielded()
    assert book.dropped() == ()
    assert book.for_push().leases == (FIRST, SECOND)


def test_a_batch_that_is_not_computed_again_goes_back_with_the_next():
    book, parameter = a_book()
    book.yielded()
    parameter.sum().backward()
    book.zeroed()
    parameter.grad = None
    book.yielded()
    assert book.dropped() == (FIRST,)
    assert book.held


def test_a_gradient_that_somebody_else_sets_to_none_is_noticed():
    book, parameter = a_book()
    book.yielded()
    parameter.sum().backward()
    book.yielded()
    parameter.grad = None
    parameter.sum().backward()
    book.look()
    assert book.dropped() == (FIRST,)
    assert book.for_push().leases == (SECOND,)


def test_without_a_loader_a_step_is_one_sample_however_often_it_was_computed():
    parameter = nn.Parameter(torch.ones(2))
    book = WatchedBook([parameter], fed=False)
    for backward_passes in (1, 2):
        for _ in range(backward_passes):
            book.zeroed()
            parameter.grad = None
            parameter.sum().backward()
        book.look()
        assert book.for_push().samples == 1


def test_forward_zero_grad_backward_step_gives_nothing_back():
    def main(session):
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(2):
            for inputs, labels in loader:
                loss = cross_entropy(net(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()

    loopback = served(main)
    assert not loopback.returned
    assert [push["leases"] for push in loopback.pushes[:3]] == [(FIRST,), (SECOND,), (THIRD,)]


def test_two_backward_passes_for_one_step():
    """The first gradient is thrown away, as in sharpness-aware training; the batch is the second's."""

    def main(session):
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(1):
            for batch in loader:
                backward(net, batch)
                optimizer.zero_grad()
                backward(net, batch)
                optimizer.step()
                optimizer.zero_grad()
        return list(net.parameters())

    loopback = require_equal(main)
    assert not loopback.returned
    assert loopback.leases.over
