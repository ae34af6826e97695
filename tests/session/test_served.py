"""What a session is to a script: evaluation, workers, random numbers, state of one's own."""

import copy
import random

import numpy as np
import pytest
import torch
from loopback import Loopback, alone, require_equal, served
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from training_loops import DATA, a_script, convolutions, network

from tardigrad.errors import SessionError
from tardigrad.records import Lease
from tardigrad.seeding import derive_seed
from tardigrad.session.randomness import seed_generators
from tardigrad.session.served import ServedSession


def test_objects_come_back_in_the_order_they_were_given():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        loader, again, none, model = session.prepare(DataLoader(DATA), optimizer, None, net)
        assert model is net
        assert isinstance(again, torch.optim.Optimizer)
        assert none is None
        assert len(loader) == 26

    served(main)
    alone(main)


def accuracy(net):
    assert not net.training
    assert not torch.is_grad_enabled()
    return {"accuracy": (net(DATA.tensors[0]).argmax(1) == DATA.tensors[1]).float().mean()}


def test_evaluation_leaves_training_as_it_was():
    def a_script_with(evaluating):
        def main(session):
            net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
            net[3].eval()
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4, drop_last=True))
            for _ in session.epochs(2):
                for number, (inputs, labels) in enumerate(loader):
                    if evaluating and number == 3:
                        session.evaluate(accuracy, split="validation")
                    optimizer.zero_grad()
                    cross_entropy(net(inputs), labels).backward()
                    optimizer.step()
                if evaluating:
                    assert list(session.evaluate(accuracy)) == ["accuracy"]
            assert net.training
            assert not net[3].training
            return list(net.state_dict().values())

        return main

    loopback = require_equal(a_script_with(True))
    plain = []
    alone(lambda session: plain.extend(a_script_with(False)(session)))
    server = loopback.server
    assert all(torch.equal(one, other) for one, other in zip(plain[:2], server.weights()[:2], strict=True))
    assert [(each["version"], *set(each) - {"version"}) for each in loopback.scores] == [
        (3, "validation"),
        (6, "test"),
        (9, "validation"),
        (12, "test"),
    ]


def test_evaluation_is_possible_after_a_step_that_was_skipped():
    def main(session):
        net = network()
        net, optimizer, loader = session.prepare(
            net, torch.optim.SGD(net.parameters(), lr=0.1), DataLoader(DATA, batch_size=13)
        )
        scaler = torch.amp.GradScaler("cpu")
        for number, (inputs, labels) in enumerate(loader):
            optimizer.zero_grad()
            scaler.scale(cross_entropy(net(inputs), labels) * (float("inf") if number == 0 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            session.evaluate(accuracy)

    assert [each["version"] for each in served(main).scores[:2]] == [0, 1]


def test_evaluation_is_the_first_workers_and_uses_the_buffers_of_all():
    loopback = Loopback(workers=2, batchnorm="mean")
    found = []

    def running_mean(net):
        found.append(net[1].running_mean.clone())
        return 1.0

    sessions = []
    for worker in range(2):
        seed_generators(0)
        session = ServedSession(loopback.link(worker))
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        sessions.append((session, net, optimizer, iter(loader)))
    for _, net, optimizer, batches in sessions:
        inputs, labels = next(batches)
        cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    own = [net[1].running_mean.clone() for _, net, _, _ in sessions]
    assert [session.evaluate(running_mean) for session, *_ in sessions] == [{"score": 1.0}, None]
    assert torch.equal(found[0], torch.stack(own).mean(0))
    assert torch.equal(sessions[0][1][1].running_mean, own[0])
    assert [session.is_first for session, *_ in sessions] == [True, False]
    assert sessions[0][0].version == 2  # it has read the weights anew
    assert sessions[1][0].version == 2


def test_after_an_evaluation_a_worker_goes_on_with_the_weights_of_then():
    loopback = Loopback(workers=2)
    net = network()
    session = ServedSession(loopback.link())
    net, _ = session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))

    def while_another_pushes(net):
        loopback.server.push(1, [torch.ones_like(parameter) for parameter in net.parameters()])
        return float(session.version)

    assert session.evaluate(while_another_pushes) == {"score": 0.0}
    assert session.version == 1
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), loopback.weights(), strict=True))


def test_a_gradient_begun_in_the_last_loop_does_not_hinder_an_evaluation():
    def main(session):
        net = network()
        net, optimizer, loader = session.prepare(
            net, torch.optim.SGD(net.parameters(), lr=0.1), DataLoader(DATA, batch_size=8)
        )
        for number, (inputs, labels) in enumerate(loader):
            cross_entropy(net(inputs), labels).backward()
            if number % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        session.evaluate(accuracy)

    assert served(main).scores[0]["version"] == 1


def test_who_is_first_is_known_once_a_worker_has_prepared():
    loopback = Loopback(workers=2)
    loopback.first = 1
    session = ServedSession(loopback.link())
    assert session.is_first
    net = network()
    session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert not session.is_first


def test_two_workers_share_every_epoch():
    loopback = Loopback(workers=2, rule="dc-asgd")
    running = []
    for worker in range(2):
        seed_generators(0)
        session = ServedSession(loopback.link(worker))
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4, shuffle=True))
        running.append((net, optimizer, iter(loader)))
    waiting = list(running)
    while waiting:
        for one in list(waiting):
            net, optimizer, batches = one
            batch = next(batches, None)
            if batch is None:
                waiting.remove(one)
                continue
            optimizer.zero_grad()
            cross_entropy(net(batch[0]), batch[1]).backward()
            optimizer.step()
    applied = sorted(lease for push in loopback.pushes for lease in push["leases"])
    assert applied == [Lease(0, start, min(start + 4, 26)) for start in range(0, 26, 4)]
    assert {push["worker"] for push in loopback.pushes} == {0, 1}


def test_only_the_first_life_of_worker_0_goes_on_drawing_as_plain_pytorch():
    def draws(worker, incarnation):
        seed_generators(5)
        session = ServedSession(Loopback(workers=2, seed=5).link(worker, incarnation))
        net = network()
        session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), DataLoader(DATA, shuffle=True))
        return torch.rand(1).item()

    seed_generators(5)
    network()
    plain = torch.rand(1).item()
    seed_generators(derive_seed(5, "script", 1, 1))
    own = torch.rand(1).item()
    assert (draws(0, 0), draws(1, 1)) == (plain, own)
    assert len({draws(0, 0), draws(1, 0), draws(0, 1), draws(1, 1)}) == 4


def test_every_global_generator_is_seeded():
    def draws(seed):
        seed_generators(seed)
        return torch.rand(1).item(), random.random(), np.random.rand()

    assert draws(2**62 + 1) == draws(2**62 + 1)
    assert all(one != other for one, other in zip(draws(1), draws(2), strict=True))


def test_a_script_keeps_state_of_its_own():
    loopback = Loopback()
    loopback.state = {"early": 3, "late": [4.0]}
    loaded = {}

    def main(session):
        session.save_with("early", save=lambda: 1, load=lambda value: loaded.update(early=value))
        values = a_script(epochs=1)(session)
        session.save_with("late", save=lambda: 2, load=lambda value: loaded.update(late=value))
        session.save_with("new", save=lambda: 2, load=lambda value: loaded.update(new=value))
        with pytest.raises(SessionError, match="name of its own"):
            session.save_with("new", save=lambda: 2, load=lambda value: None)
        return values

    loopback.wants_state = True
    session = ServedSession(loopback.link())
    main(session)
    assert loaded == {"early": 3, "late": [4.0]}
    assert loopback.saved == [{"early": 1}] * 7


def test_numbers_are_logged():
    def main(session):
        session.log(loss=torch.tensor(0.5), steps=3)
        with pytest.raises(SessionError, match=r"session.log\(name=...\) was given a str"):
            session.log(name="x")
        with pytest.raises(SessionError, match="was given a Tensor"):
            session.log(loss=torch.zeros(2))
        a_script(epochs=1)(session)

    assert served(main).logged == [{"loss": 0.5, "steps": 3.0}]
    assert alone(main).logged == [(0, {"loss": 0.5, "steps": 3.0})]


def test_a_worker_started_again_begins_with_the_epoch_the_run_has_come_to():
    seen = []

    def main(session):
        net = network()
        net, optimizer, loader = session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), DataLoader(DATA))
        for epoch in session.epochs(5):
            seen.append(epoch)
            assert list(zip(loader, range(1), strict=False))
            optimizer.zero_grad()

    served(main, epoch=3)
    assert seen[0] == 3


def test_the_number_of_epochs_may_be_told_with_what_is_prepared():
    def main(session):
        net = network()
        loader = DataLoader(DATA, batch_size=13)
        net, optimizer, loader = session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), loader, epochs=2)
        for _ in range(2):
            for inputs, labels in loader:
                optimizer.zero_grad()
                cross_entropy(net(inputs), labels).backward()
                optimizer.step()

    loopback = served(main)
    assert loopback.planned == 2
    assert loopback.leases.over


def test_a_scheduler_knows_how_far_the_run_is():
    def main(session):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        loader = DataLoader(DATA, batch_size=13)
        net, optimizer, loader, scheduler = session.prepare(net, optimizer, loader, scheduler)
        for epoch in session.epochs(2):
            assert scheduler.last_epoch == epoch
            for inputs, labels in loader:
                optimizer.zero_grad()
                cross_entropy(net(inputs), labels).backward()
                optimizer.step()
            assert scheduler.state_dict()["last_epoch"] == epoch + 1
            assert scheduler.get_last_lr() == [0.1 * 0.5 ** (epoch + 1)]

    served(main)


def test_weights_read_anew_while_a_worker_waits_are_shown():
    """As after a wait for samples that came back: the link calls `renewed`."""
    loopback = Loopback()
    link = loopback.link()
    session = ServedSession(link)
    net = network()
    net, optimizer = session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    loopback.server.push(0, [torch.ones_like(parameter) for parameter in net.parameters()], samples=3)
    loopback.rates_at = loopback.server._lr = lambda samples: (samples / 100,)
    link.renewed(link.refresh())
    assert (session.version, session.samples, optimizer.param_groups[0]["lr"]) == (1, 3, 0.03)


def test_where_the_run_stands():
    def main(session):
        assert (session.version, session.samples, session.is_first) == (0, 0, True)
        assert (session.worker, session.workers, session.incarnation, session.seed) == (0, 1, 0, 7)
        a_script(epochs=1)(session)
        assert (session.version, session.samples) == (7, 26)

    served(main, seed=7)
    alone(main, seed=7)


def test_digests_tell_what_must_not_differ():
    def alike(data, *, shuffle=True, frozen=0.0, batch_size=4):
        seed_generators(3)
        loopback = Loopback()
        net = network()
        net[0].requires_grad_(False).weight.fill_(frozen)
        loader = DataLoader(data, batch_size=batch_size, shuffle=shuffle)
        ServedSession(loopback.link()).prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), loader)
        return dict(loopback.prepared.alike)

    other = TensorDataset(DATA.tensors[0] + 1.0, DATA.tensors[1])
    first = alike(DATA)
    assert first == alike(DATA)

    def differing(found):
        return {name for name in first if first[name] != found[name]}

    assert differing(alike(other)) == {"a data set"}
    assert "an order of samples" in differing(alike(DATA, shuffle=False))
    assert differing(alike(DATA, frozen=1.0)) == {"frozen parameters"}


def test_weights_and_buffers_begin_as_the_first_workers():
    loopback = Loopback(workers=2)
    nets = []
    for worker in range(2):
        seed_generators(worker)
        net = convolutions()
        net[1].running_mean.normal_()
        if worker == 0:
            first = copy.deepcopy(net.state_dict())
        session = ServedSession(loopback.link(worker))
        nets.append(session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))[0])
    for name, value in nets[1].state_dict().items():
        assert torch.equal(value, first[name])
