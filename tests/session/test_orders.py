"""Orders: the user's own sampler, evaluated apart: plain PyTorch's order, alike in every worker, leaving no trace."""

import random
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from tardigrad.errors import SessionError
from tardigrad.session.generators import GeneratorStates, generators_kept
from tardigrad.session.orders import Orders, batch_of


class Numbers(Dataset):
    def __init__(self, length=10):
        self.length = length
        self.content = list(range(length))

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


class Shuffled(Sampler):
    """Draws from Python's generator, numpy's, and one of its own."""

    def __init__(self, dataset):
        self.dataset, self.own = dataset, np.random.default_rng(5)

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        order = list(self.own.permutation(len(self.dataset)).tolist())
        random.shuffle(order)
        return iter([order[place] for place in np.random.permutation(len(order)).tolist()])


def batches_of(loader):
    return [batch.tolist() for batch in loader]


def seed():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)


def shared_generator():
    generator = torch.Generator().manual_seed(2)
    return DataLoader(Numbers(), 3, shuffle=True, generator=generator)


def persistent():
    return DataLoader(Numbers(), 3, shuffle=True, num_workers=1, persistent_workers=True)


LOADERS = {
    "in order": lambda: DataLoader(Numbers(), 3),
    "shuffle": lambda: DataLoader(Numbers(), 3, shuffle=True),
    "generator": shared_generator,
    "persistent": persistent,
    "weighted": lambda: DataLoader(Numbers(), 3, sampler=WeightedRandomSampler([1.0] * 10, 7)),
    "replacement": lambda: DataLoader(Numbers(), 3, sampler=RandomSampler(Numbers(), replacement=True, num_samples=40)),
    "all generators": lambda: DataLoader(Numbers(), 3, sampler=Shuffled(Numbers())),
    "drop last": lambda: DataLoader(Numbers(), 3, shuffle=True, drop_last=True),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_every_epoch_is_plain_pytorchs(make):
    seed()
    plain = make()
    expected = [batches_of(plain) for _ in range(4)]
    seed()
    loader = make()
    orders = Orders(loader)
    for epoch, batches in enumerate(expected):
        flat = [sample for batch in batches for sample in batch]
        assert batch_of(orders.of(epoch), 0, orders.samples) == flat
        assert orders.samples == len(flat)


def test_an_epoch_long_past_is_found_again():
    seed()
    orders = Orders(LOADERS["all generators"]())
    first = [batch_of(orders.of(epoch), 0, 10) for epoch in range(8)]
    assert len({tuple(order) for order in first}) == 8
    assert [batch_of(orders.of(epoch), 0, 10) for epoch in (7, 2, 0, 5)] == [first[epoch] for epoch in (7, 2, 0, 5)]


def test_evaluating_leaves_no_trace():
    seed()
    sampler = Shuffled(Numbers())
    generator = torch.Generator().manual_seed(4)
    loader = DataLoader(Numbers(), 3, sampler=sampler, generator=generator)
    expected = (torch.rand(()).item(), random.random(), np.random.rand())
    own, given = sampler.own.bit_generator.state, generator.get_state()
    seed()
    Orders(loader).of(3)
    assert (torch.rand(()).item(), random.random(), np.random.rand()) == expected
    assert sampler.own.bit_generator.state == own
    assert torch.equal(generator.get_state(), given)


def test_what_the_script_draws_later_changes_nothing():
    seed()
    expected = Orders(LOADERS["shuffle"]()).of(2)
    seed()
    orders = Orders(LOADERS["shuffle"]())
    torch.manual_seed(77)
    assert orders.of(2).tolist() == expected.tolist()


def epochs_begun(loader, epochs):
    """Plain PyTorch's batches of each epoch, something being drawn in between; and its states as the order is drawn."""
    states, found = [], []
    for _ in range(epochs):
        if loader.generator is None:
            with generators_kept():
                torch.empty((), dtype=torch.int64).random_()  # the DataLoader's base seed
                states.append(GeneratorStates.now())
        else:
            states.append(GeneratorStates.now())
        found.append([sample for batch in batches_of(loader) for sample in batch])
        _ = torch.rand(3), random.random(), np.random.rand()
    return states, found


@pytest.mark.parametrize("kind", ["in order", "shuffle", "generator", "weighted", "replacement", "drop last"])
def test_an_epoch_can_be_evaluated_from_the_states_it_was_begun_with(kind):
    seed()
    loader = LOADERS[kind]()
    orders = Orders(loader)
    states, expected = epochs_begun(loader, 6)
    asked = []
    orders.follow(lambda epoch: asked.append(epoch) or GeneratorStates.from_plain(states[epoch].as_plain()))
    before = GeneratorStates.now().as_plain()
    for epoch in (0, 1, 1, 4, 5, 2, 0):  # the first ones in turn; then as one who came late, or was given back some
        assert batch_of(orders.of(epoch), 0, orders.samples) == expected[epoch]
    assert asked == [0, 1, 4, 5, 2, 0]
    assert GeneratorStates.now().as_plain() == before


def test_a_sampler_that_keeps_what_it_drew_is_not_evaluated_from_anywhere_else():
    class Reshuffling(Sampler):
        def __init__(self):
            self.order = list(range(10))

        def __len__(self):
            return 10

        def __iter__(self):
            random.shuffle(self.order)
            return iter(list(self.order))

    seed()
    expected = Orders(DataLoader(Numbers(), 3, sampler=Reshuffling())).of(2).tolist()
    seed()
    orders = Orders(DataLoader(Numbers(), 3, sampler=Reshuffling()))
    orders.follow(lambda epoch: pytest.fail("nobody is to be asked"))
    assert orders.of(2).tolist() == expected


def test_set_epoch_is_called_with_the_epoch():
    sampler = DistributedSampler(Numbers(), num_replicas=1, rank=0, shuffle=True)
    loader = DataLoader(Numbers(), 3, sampler=sampler)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected.append(list(sampler))
    sampler.set_epoch(9)
    orders = Orders(loader)
    assert [orders.of(epoch).tolist() for epoch in range(3)] == expected
    assert sampler.epoch == 9


@pytest.mark.parametrize(
    "around", [lambda dataset: Subset(dataset, range(5)), lambda dataset: ConcatDataset([dataset])]
)
def test_the_data_set_is_not_copied(around):
    dataset = Numbers()
    dataset.lock = threading.Lock()  # cannot be copied
    dataset.dataset = part = around(dataset)  # and leads back
    sampler = Shuffled(dataset)
    sampler.part = part
    sampler.content = dataset.content
    orders = Orders(DataLoader(part, 2, sampler=sampler))
    assert orders._sampler.dataset is dataset
    assert orders._sampler.content is dataset.content
    assert orders._sampler is not sampler


def test_a_generator_that_the_data_set_holds_is_copied():
    dataset = Numbers()
    sampler = Shuffled(dataset)
    dataset.own = sampler.own
    before = sampler.own.bit_generator.state
    Orders(DataLoader(dataset, 2, sampler=sampler)).of(2)
    assert sampler.own.bit_generator.state == before


def test_samples_that_are_no_numbers_stay_what_they_are():
    names = [("a", 1), ("b", 2), ("c", 3)]
    orders = Orders(DataLoader(Numbers(), 2, sampler=names))
    assert batch_of(orders.of(0), 1, 3) == [("b", 2), ("c", 3)]
    assert orders.digest != Orders(DataLoader(Numbers(), 2, sampler=names[::-1])).digest


def test_numbers_come_back_as_python_ints():
    assert {type(sample) for sample in batch_of(Orders(DataLoader(Numbers(), 3)).of(0), 0, 3)} == {int}
    assert {
        type(sample) for sample in batch_of(Orders(DataLoader(Numbers(), 2, sampler=[True, False])).of(0), 0, 2)
    } == {bool}


def test_another_order_has_another_digest():
    seed()
    first = Orders(LOADERS["shuffle"]())
    second = Orders(LOADERS["shuffle"]())
    torch.rand(())
    third = Orders(LOADERS["shuffle"]())
    assert first.digest == second.digest != third.digest


class Uneven(Sampler):
    """Yields one sample less in its second epoch."""

    def __init__(self):
        self.epochs = 0

    def __len__(self):
        return 6

    def __iter__(self):
        self.epochs += 1
        return iter(range(7 - self.epochs))


class TooMany(Uneven):
    def __iter__(self):
        while True:
            yield 1


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 1


class Uncopied(Uneven):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class OwnLoop(DataLoader):
    def __iter__(self):
        return super().__iter__()


def test_an_epoch_of_another_length_is_refused():
    orders = Orders(DataLoader(Numbers(), 2, sampler=Uneven()))
    with pytest.raises(SessionError, match="5 samples in epoch 1 and 6 in the first"):
        orders.of(1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: [1, 2], "takes a torch.utils.data.DataLoader; list is none"),
        (lambda: DataLoader(Stream(), 2), "nothing can be leased"),
        (lambda: OwnLoop(Numbers(), 2), "OwnLoop is a DataLoader with a loop of its own"),
        (lambda: DataLoader(Numbers(), batch_size=None), r"DataLoader\(dataset, batch_size=\.\.\.\)"),
        (
            lambda: DataLoader(Numbers(), batch_sampler=BatchSampler(SequentialSampler(Numbers()), 2, False)),
            "any sampler is followed",
        ),
        (lambda: DataLoader(Numbers(), 2, num_workers=1, in_order=False), "Leave in_order=False out"),
        (lambda: DataLoader(Numbers(), 2, sampler=Endless()), "Endless has no length"),
        (lambda: DataLoader(Numbers(), 2, sampler=TooMany()), r"more samples than its length says \(6\)"),
        (lambda: DataLoader(Numbers(), 2, sampler=Uncopied()), "Uncopied cannot be copied"),
        (lambda: DataLoader(Numbers(), 20, drop_last=True), "a smaller batch_size"),
        (lambda: DataLoader(Numbers(), 2, sampler=[]), "nothing to train on"),
    ],
)
def test_what_cannot_be_leased_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(SessionError, match=sentence):
        Orders(make())
