"""A script under a server: with one worker it is plain PyTorch, bit for bit."""

import copy

import pytest
import torch
from loopback import Loopback, alone, require_equal, served
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tardigrad.errors import SessionError
from tardigrad.records import Lease
from tardigrad.seeding import derive_seed
from tardigrad.session.randomness import seed_generators
from tardigrad.session.served import ServedSession

_DRAWS = torch.Generator().manual_seed(11)
INPUTS = torch.randn(26, 6, generator=_DRAWS)
DATA = TensorDataset(INPUTS, torch.randint(0, 3, (26,), generator=_DRAWS))
IMAGES = TensorDataset(torch.randn(20, 3, 6, 6, generator=_DRAWS), torch.randint(0, 3, (20,), generator=_DRAWS))


def network(*, dropout=0.0):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def a_script(
    *, model=network, sgd=None, make=None, data=DATA, shuffle=True, epochs=2, batch_size=4, before_step=None, **prepared
):
    """A training script in the usual style; it returns the final weights and buffers."""

    def main(session):
        net = model()
        optimizer = (
            make(net) if make else torch.optim.SGD(net.parameters(), **{"lr": 0.1, "momentum": 0.9} | (sgd or {}))
        )
        loader = DataLoader(data, batch_size=batch_size, shuffle=shuffle)
        net, optimizer, loader = session.prepare(net, optimizer, loader, **prepared)
        for _ in session.epochs(epochs):
            for inputs, labels in loader:
                loss = cross_entropy(net(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                if before_step:
                    before_step(net)
                optimizer.step()
        return list(net.state_dict().values())

    return main


# -- the items of real training ------------------------------------------------------------------------------------


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


def test_autocast_to_bfloat16():
    class Autocast(nn.Sequential):
        def forward(self, inputs):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(inputs)

    require_equal(a_script(model=lambda: Autocast(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))))


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


def test_frozen_parameters_do_not_travel():
    def frozen_below():
        net = network()
        net[0].requires_grad_(False)
        return net

    loopback = require_equal(a_script(model=frozen_below))
    assert loopback.prepared.layout.names == ("3.weight", "3.bias")
    assert loopback.server.flat.numel() < 64
    assert loopback.prepared.alike["frozen parameters"]


class Branches(nn.Module):
    """Two heads, of which a batch uses one."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs):
        return (self.first if inputs[0, 0] > 0 else self.second)(torch.relu(self.body(inputs)))


@pytest.mark.parametrize("make", [
    lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, foreach=False),
], ids=["sgd", "adamw"])  # fmt: skip
def test_parameters_without_a_gradient_are_passed_over(make):
    loopback = require_equal(a_script(model=Branches, make=make))
    names = loopback.prepared.layout.names
    used = [{names[number].split(".")[0] for number in push["absent"]} for push in loopback.pushes]
    assert {frozenset(each) for each in used} == {frozenset({"second", "unused"}), frozenset({"first", "unused"})}


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_gradient_set_to_zero_is_one_and_a_gradient_set_to_none_is_none(set_to_none):
    def main(session):
        net = Branches()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(1):
            for inputs, labels in loader:
                optimizer.zero_grad(set_to_none=set_to_none)
                cross_entropy(net(inputs), labels).backward()
                optimizer.step()
        return list(net.parameters())

    loopback = require_equal(main)
    assert len(loopback.pushes[-1]["absent"]) == (4 if set_to_none else 2)


def test_tied_weights_travel_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.last.weight = self.first.weight

        def forward(self, inputs):
            return self.last(torch.relu(self.first(inputs)))

    loopback = require_equal(a_script(model=Tied))
    assert loopback.prepared.layout.names == ("first.weight",)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_and_memory_format(memory_format):
    def make():
        return convolutions().to(memory_format=memory_format)

    def main(session):
        values = a_script(model=make, data=IMAGES, batch_size=3)(session)
        assert values[0].is_contiguous(memory_format=memory_format)
        return values

    loopback = require_equal(main)
    assert set(loopback.prepared.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert loopback.server.buffers.combined([0])["1.num_batches_tracked"] == 14


def test_dropout_draws_what_it_would_have_drawn():
    require_equal(a_script(model=lambda: network(dropout=0.5), shuffle=False))


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model():
    def compiled():
        return torch.compile(convolutions(), backend="aot_eager")

    loopback = require_equal(a_script(model=compiled, data=IMAGES, batch_size=5, epochs=1))
    assert loopback.prepared.layout.names[0] == "0.weight"
    assert next(iter(loopback.prepared.buffers)) == "1.running_mean"


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
    assert [push["samples"] for push in loopback.pushes] == 2 * [4, 4, 4, 4, 4, 4, 2]
    assert loopback.server.samples_applied == 52


def test_a_script_without_a_loader_counts_steps():
    def main(session):
        net = network()
        net, optimizer = session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
        for _ in session.epochs(2):
            for start in (0, 8):
                optimizer.zero_grad()
                cross_entropy(net(DATA.tensors[0][start : start + 8]), DATA.tensors[1][start : start + 8]).backward()
                optimizer.step()
        assert session.samples == session.version == 4
        return list(net.parameters())

    require_equal(main)


# -- what a session is ---------------------------------------------------------------------------------------------


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


def test_where_the_run_stands():
    def main(session):
        assert (session.version, session.samples, session.is_first) == (0, 0, True)
        assert (session.worker, session.workers, session.incarnation, session.seed) == (0, 1, 0, 7)
        a_script(epochs=1)(session)
        assert (session.version, session.samples) == (7, 26)

    served(main, seed=7)
    alone(main, seed=7)


def test_the_initial_weights_are_the_first_workers():
    loopback = Loopback(workers=2)
    nets = []
    for worker in range(2):
        seed_generators(worker)
        net = network()
        if worker == 0:
            first = copy.deepcopy(net)
        session = ServedSession(loopback.link(worker))
        nets.append(session.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))[0])
    for one, other in zip(first.parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_model_on_cuda(accumulate):
    def main(session):
        device = torch.device("cuda")
        net = convolutions().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, foreach=False)
        loader = DataLoader(IMAGES, batch_size=4, shuffle=True)
        net, optimizer, loader = session.prepare(net, optimizer, loader, accumulate=accumulate)
        for _ in session.epochs(2):
            for inputs, labels in loader:
                optimizer.zero_grad()
                cross_entropy(net(inputs.to(device)), labels.to(device)).backward()
                optimizer.step()
            session.evaluate(lambda net: 0.0)
        return [value.cpu() for value in net.state_dict().values()]

    require_equal(main, device="cuda", tolerance=1e-5)
