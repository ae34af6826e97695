"""A script without an engine: plain PyTorch on its own objects."""

import pytest
import torch
from loopback import alone
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tardigrad.session.alone import AloneSession, samples_in
from tardigrad.session.randomness import seed_generators

DATA = TensorDataset(torch.randn(22, 4), torch.randint(0, 3, (22,)))


def backward(net, batch):
    cross_entropy(net(batch[0]), batch[1]).backward()


def own(seed=0):
    seed_generators(seed)
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    return net, optimizer, DataLoader(DATA, batch_size=4, shuffle=True), scheduler


def test_the_very_same_objects_come_back():
    objects = own()
    assert all(one is other for one, other in zip(objects, AloneSession().prepare(*objects), strict=True))


def test_it_is_plain_pytorch_bit_for_bit():
    def train(net, optimizer, loader, scheduler, epochs):
        for _ in epochs:
            for batch in loader:
                optimizer.zero_grad()
                backward(net, batch)
                optimizer.step()
            scheduler.step()
        return list(net.parameters())

    plain = train(*own(), range(2))
    session = AloneSession()
    ours = train(*session.prepare(*own()), session.epochs(2))
    assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))
    assert (session.version, session.samples) == (12, 44)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("batches", [2, 3])
def test_accumulated_steps_are_what_people_write_by_hand(batches, set_to_none):
    def by_hand():
        net, optimizer, loader, _ = own()
        for _ in range(2):
            taken = 0
            for number, batch in enumerate(loader, 1):
                backward(net, batch)
                taken += 1
                if taken == batches or number == len(loader):
                    for parameter in net.parameters():
                        parameter.grad /= taken
                    optimizer.step()
                    optimizer.zero_grad()
                    taken = 0
        return list(net.parameters())

    net, optimizer, loader, _ = own()
    session = AloneSession()
    net, optimizer, loader = session.prepare(net, optimizer, loader, accumulate=batches)
    for _ in session.epochs(2):
        for batch in loader:
            optimizer.zero_grad(set_to_none)
            backward(net, batch)
            optimizer.step()
    assert session.version == 2 * -(-6 // batches)
    assert session.samples == 44
    assert all(torch.equal(one, other) for one, other in zip(by_hand(), net.parameters(), strict=True))


def test_an_accumulating_optimizer_is_the_original_to_whoever_looks():
    net, original, loader, scheduler = own()
    called = []
    original.register_step_pre_hook(lambda *_: called.append(1))
    net, optimizer, loader, scheduler = AloneSession().prepare(
        net, original, loader, scheduler, accumulate=2, schedule="step"
    )
    assert (len(loader), loader.batch_size, loader.dataset) == (6, 4, DATA)
    rates = []
    for batch in loader:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert rates == [0.1, 0.05, 0.05, 0.025, 0.025, 0.0125]
    assert len(called) == 6
    assert optimizer.param_groups is original.param_groups
    state = optimizer.state_dict()
    assert set(state["state"]) == {0, 1, 2, 3}
    optimizer.load_state_dict(state)
    assert optimizer.param_groups is original.param_groups
    assert optimizer.state is original.state
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert len(original.param_groups) == 2
    assert "AccumulatingOptimizer for SGD" in repr(optimizer)


def test_parameters_without_a_gradient_are_passed_over():
    unused, net = nn.Linear(2, 2), nn.Linear(4, 3)
    whole = nn.ModuleList([unused, net])
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, weight_decay=0.5)
    before = unused.weight.detach().clone()
    _, optimizer, loader = AloneSession().prepare(whole, optimizer, DataLoader(DATA, batch_size=4), accumulate=2)
    for batch in loader:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()
    assert torch.equal(unused.weight, before)


def test_evaluations_and_numbers_are_kept():
    def main(session):
        net, optimizer, loader, _ = own()
        net[1].eval()
        net, optimizer, loader = session.prepare(net, optimizer, loader)
        for batch in loader:
            optimizer.zero_grad()
            backward(net, batch)
            optimizer.step()
        assert session.evaluate(lambda net: float(net.training or torch.is_grad_enabled())) == {"score": 0.0}
        assert session.evaluate(lambda net: {"a": 1, "b": torch.ones(1)}, split="train") == {"a": 1.0, "b": 1.0}
        assert [net.training, net[0].training, net[1].training] == [True, True, False]
        session.log(loss=2)

    session = alone(main)
    assert session.evaluations == [(6, "test", {"score": 0.0}), (6, "train", {"a": 1.0, "b": 1.0})]
    assert session.logged == [(6, {"loss": 2.0})]
    assert session.is_first


@pytest.mark.filterwarnings("ignore")
def test_trained_weights_and_buffers_by_name():
    session = AloneSession()
    assert session.state_dict() == {}
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    net[0].weight.requires_grad_(False)
    session.prepare(torch.compile(net), torch.optim.SGD(net.parameters(), lr=0.1))
    state = session.state_dict()
    buffers = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert list(state) == ["0.bias", "1.weight", "1.bias", *buffers]
    assert torch.equal(state["0.bias"], net[0].bias)
    net[0].bias.data.zero_()
    assert not torch.equal(state["0.bias"], net[0].bias)


class Trainer:
    model = nn.Linear(2, 2)


Trainer.__module__ = "transformers.trainer"


def test_a_trainer_comes_back_as_it_is():
    trainer = Trainer()
    session = AloneSession()
    assert session.prepare(trainer) is trainer
    assert set(session.state_dict()) == {"weight", "bias"}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(9))


@pytest.mark.parametrize(
    ("loader", "steps", "accumulate", "samples"),
    [
        (DataLoader(range(10), batch_size=4), 3, 1, 10),
        (DataLoader(range(10), batch_size=4), 4, 1, 14),
        (DataLoader(range(10), batch_size=4, drop_last=True), 3, 1, 12),
        (DataLoader(range(10), batch_size=4), 1, 2, 8),
        (DataLoader(range(10), batch_size=4), 2, 2, 10),
        (DataLoader(range(10), batch_size=4), 3, 2, 18),
        (DataLoader(Stream(), batch_size=4), 3, 2, 24),
        (DataLoader(Stream(), batch_size=None), 3, 1, 3),
    ],
)
def test_samples_behind_steps(loader, steps, accumulate, samples):
    assert samples_in(loader, steps, accumulate) == samples
