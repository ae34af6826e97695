"""One worker is plain PyTorch, bit for bit: optimizers, accumulation, clipping, scaling, schedules, streams."""

import pytest
import torch
from loopback import alone, require_equal, served
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, IterableDataset
from training_loops import DATA, a_script, network

from tardigrad.records import Lease


@pytest.mark.parametrize(
    "sgd", [{"momentum": 0.0}, {"weight_decay": 0.01}, {"nesterov": True}, {"dampening": 0.3}], ids=lambda sgd: str(sgd)
)
def test_sgd_on_shuffled_samples_with_an_uneven_last_batch(sgd):
    loopback = require_equal(a_script(sgd=sgd))
    assert [push["samples"] for push in loopback.pushes] == 2 * [4, 4, 4, 4, 4, 4, 2]
    assert loopback.leases.over


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam(kind, amsgrad):
    def make(net):
        return getattr(torch.optim, kind)(net.parameters(), lr=0.01, weight_decay=0.1, amsgrad=amsgrad, foreach=False)

    require_equal(a_script(make=make))


def test_groups_keep_their_own_settings():
    def make(net):
        return torch.optim.SGD(
            [{"params": net[0].parameters(), "lr": 0.03}, {"params": net[3].parameters(), "weight_decay": 0.1}],
            lr=0.01,
            momentum=0.5,
        )

    loopback = require_equal(a_script(make=make))
    assert [group.lr for group in loopback.prepared.groups] == [0.03, 0.01]
    assert loopback.pushes[0]["rates"] == (0.03, 0.01)


@pytest.mark.parametrize("batches", [2, 4])
def test_accumulation_by_prepare(batches):
    loopback = require_equal(a_script(accumulate=batches))  # 7 batches of an epoch: what is left over is stepped too
    assert [len(push["leases"]) for push in loopback.pushes[: -(-7 // batches)]][-1] == 7 % batches
    assert loopback.leases.over


@pytest.mark.parametrize(("batches", "tolerance"), [(2, 0.0), (4, 0.0), (3, 1e-6)])
def test_accumulation_by_prepare_is_what_people_write_by_hand(batches, tolerance):
    """The sum is divided, not its parts: where the number is a power of two no bit differs."""

    def by_hand(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(DATA, batch_size=2, shuffle=True, drop_last=True)
        net, optimizer, loader = session.prepare(net, optimizer, loader)
        for _ in session.epochs(1):
            for number, (inputs, labels) in enumerate(loader, 1):
                (cross_entropy(net(inputs), labels) / batches).backward()
                if number % batches == 0 and number <= 12:
                    optimizer.step()
                    optimizer.zero_grad()
        return list(net.parameters())

    def by_prepare(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(DATA, batch_size=2, shuffle=True, drop_last=True)
        net, optimizer, loader = session.prepare(net, optimizer, loader, accumulate=batches)
        for _ in session.epochs(1):
            for number, (inputs, labels) in enumerate(loader, 1):
                if number <= 12:
                    optimizer.zero_grad()
                    cross_entropy(net(inputs), labels).backward()
                    optimizer.step()
        return list(net.parameters())

    found = []
    for main in (by_hand, by_prepare):
        alone(lambda session, main=main: found.append(main(session)))
        served(lambda session, main=main: found.append(main(session)))
    plain = found[0]
    for others in found[1:]:
        for one, other in zip(plain, others, strict=True):
            torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)


def test_accumulation_by_not_stepping_takes_all_batches_since_the_last_step():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(DATA, batch_size=4, shuffle=True)
        net, optimizer, loader = session.prepare(net, optimizer, loader)
        for _ in session.epochs(2):
            for number, (inputs, labels) in enumerate(loader, 1):
                (cross_entropy(net(inputs), labels) / 3).backward()
                if number % 3 == 0 or number == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
        return list(net.parameters())

    loopback = require_equal(main)
    assert [push["samples"] for push in loopback.pushes] == 2 * [12, 12, 2]
    assert loopback.leases.over
    assert not loopback.returned


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "clip",
    [
        lambda net: torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1),
        lambda net: torch.nn.utils.clip_grad_value_(net.parameters(), 0.01),
    ],
    ids=["norm", "value"],
)
def test_clipped_gradients_are_pushed_clipped(clip, accumulate):
    loopback = require_equal(a_script(before_step=clip, accumulate=accumulate))
    assert all(push["norm"] <= 0.1 * 1.0001 for push in loopback.pushes)


def a_scaled_script(*, overflow_at=None, batch_size=4, data=DATA):
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(data, batch_size=batch_size, shuffle=True)
        net, optimizer, loader = session.prepare(net, optimizer, loader)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        number = 0
        for _ in session.epochs(1):
            for inputs, labels in loader:
                number += 1
                optimizer.zero_grad()
                loss = cross_entropy(net(inputs), labels)
                scaler.scale(loss if number != overflow_at else loss * float("inf")).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
        return list(net.parameters())

    return main


def test_a_grad_scaler():
    loopback = require_equal(a_scaled_script())
    assert loopback.leases.over


@pytest.mark.parametrize("at", [3, 7])
def test_an_overflowed_step_is_skipped_and_its_samples_are_computed_again(at):
    loopback = served(a_scaled_script(overflow_at=at))
    (thrown,) = loopback.returned
    assert thrown == ((loopback.leases_in_order()[at - 1],), True)
    assert len(loopback.pushes) == 7
    assert loopback.leases.over
    assert not loopback.leases.lost


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("place", ["epoch", "step"])
def test_a_scheduler_of_the_users_is_gone_through_by_samples(place, accumulate):
    rates = []

    def main(session):
        net = network()
        optimizer = torch.optim.SGD(
            [{"params": net[0].parameters()}, {"params": net[3].parameters(), "lr": 0.05}], lr=0.1
        )
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        loader = DataLoader(DATA, batch_size=4, shuffle=True)  # 7 batches of an epoch
        net, optimizer, loader, scheduler = session.prepare(
            net, optimizer, loader, scheduler, accumulate=accumulate, schedule=place, epochs=3
        )
        for _ in session.epochs(3):
            for inputs, labels in loader:
                optimizer.zero_grad()
                cross_entropy(net(inputs), labels).backward()
                optimizer.step()
                if place == "step":
                    scheduler.step()
                rates.append(scheduler.get_last_lr())
            if place == "epoch":
                scheduler.step()
        return list(net.parameters())

    require_equal(main)
    if place == "step":
        assert rates[: len(rates) // 2] == rates[len(rates) // 2 :]


def test_a_scheduler_stands_for_as_many_samples_as_a_script_says_that_accumulates_by_hand():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        loader = DataLoader(DATA, batch_size=4)
        net, optimizer, loader, scheduler = session.prepare(net, optimizer, loader, scheduler, schedule=8, epochs=2)
        for _ in session.epochs(2):
            for number, (inputs, labels) in enumerate(loader, 1):
                cross_entropy(net(inputs), labels).backward()
                if number % 2 == 0 or number == 7:
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
        return list(net.parameters())

    loopback = require_equal(main)
    assert [push["rates"][0] for push in loopback.pushes] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]


def test_a_closure():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(1):
            for inputs, labels in loader:

                def closure(inputs=inputs, labels=labels):
                    optimizer.zero_grad()
                    loss = mse_loss(net(inputs), nn.functional.one_hot(labels, 3).float())
                    loss.backward()
                    return loss

                assert optimizer.step(closure).item() > 0.0
        return list(net.parameters())

    loopback = require_equal(main)
    assert all(push["loss"] > 0.0 for push in loopback.pushes)


def test_gradients_computed_by_hand():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(1):
            for inputs, labels in loader:
                found = torch.autograd.grad(cross_entropy(net(inputs), labels), list(net.parameters()))
                for parameter, gradient in zip(net.parameters(), found, strict=True):
                    parameter.grad = gradient
                optimizer.step()
        return list(net.parameters())

    require_equal(main)


def test_the_zero_grad_of_the_model():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(2):
            for number, (inputs, labels) in enumerate(loader):
                net.zero_grad()
                cross_entropy(net(inputs), labels).backward()
                if number != 2:  # a batch whose gradient the script throws away
                    optimizer.step()
        return list(net.parameters())

    loopback = served(main)
    assert loopback.returned[0] == ((Lease(0, 8, 12),), True)
    applied = [lease for push in loopback.pushes for lease in push["leases"]]
    assert len(applied) == len(set(applied))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


def test_a_stream_counts_its_samples_and_leases_nothing():
    loopback = require_equal(a_script(data=Stream(), shuffle=False))
    assert loopback.leases is None
    assert loopback.prepared.samples is None
    assert set(loopback.prepared.alike) == {"frozen parameters", "a data set"}
    assert [push["samples"] for push in loopback.pushes] == 2 * [4, 4, 4, 4, 4, 4, 2]
    assert loopback.server.samples_applied == 52


def test_a_script_without_a_loader_counts_steps():
    def main(session):
        net = network()
        net, optimizer = session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
        for _ in session.epochs(2):
            for start in (0, 8):
                optimizer.zero_grad()
                for part in (slice(start, start + 4), slice(start + 4, start + 8)):
                    cross_entropy(net(DATA.tensors[0][part]), DATA.tensors[1][part]).backward()
                optimizer.step()
        assert session.samples == session.version == 4
        return list(net.parameters())

    require_equal(main)
