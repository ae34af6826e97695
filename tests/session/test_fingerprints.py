"""Fingerprints: what differs between workers shows, what may differ does not, and nothing is changed by looking."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from leasing_desk import Squares
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from tardigrad.session.fingerprints import of_dataset, of_frozen, of_loader
from tardigrad.session.orders import Orders


class Items(Dataset):
    """Whatever items."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@dataclass
class Sample:
    inputs: torch.Tensor
    label: int


class Picture:
    """As an image of Pillow's looks."""

    def __init__(self, content, size=(2, 2)):
        self.content, self.size = content, size

    def tobytes(self):
        return self.content


class Opaque:
    def __init__(self, number):
        self.number = number


DIFFERENT = {
    "tensors": (torch.zeros(2), torch.ones(2)),
    "types": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "bfloat16": (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    "shapes": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "arrays": (np.zeros(2), np.ones(2)),
    "nested": ({"a": [torch.zeros(1), 1]}, {"a": [torch.zeros(1), 2]}),
    "names": ({"a": 1}, {"b": 1}),
    "texts": ("one", "two"),
    "bytes": (b"one", b"two"),
    "numbers": (1, 1.0),
    "array numbers": (np.int64(1), np.int64(2)),
    "pictures": (Picture(b"1234"), Picture(b"1235")),
    "data classes": (Sample(torch.zeros(1), 1), Sample(torch.zeros(1), 2)),
    "kinds": (Opaque(1), None),
}


@pytest.mark.parametrize(("first", "second"), DIFFERENT.values(), ids=DIFFERENT)
def test_other_items_show(first, second):
    assert of_dataset(Items(first)) == of_dataset(Items(first))
    assert of_dataset(Items(first)) != of_dataset(Items(second))


def test_class_and_length_show():
    class Others(Squares):
        pass

    assert of_dataset(Squares(5)) == of_dataset(Squares(5))
    assert len({of_dataset(dataset) for dataset in (Squares(5), Squares(6), Others(5))}) == 3


def test_a_name_does_not_run_into_a_length():
    kinds = [type(name, (Items,), {"__module__": "data"}) for name in ("A", "A1")]
    assert of_dataset(kinds[0](*[0] * 12), [0]) != of_dataset(kinds[1](*[0] * 2), [0])


def test_first_middle_and_last_item_show():
    assert of_dataset(Items(1, 2, 3, 4)) == of_dataset(Items(1, 9, 3, 4))
    for other in [(9, 2, 3, 4), (1, 2, 9, 4), (1, 2, 3, 9)]:
        assert of_dataset(Items(1, 2, 3, 4)) != of_dataset(Items(*other))


def test_an_object_nobody_knows_counts_as_its_type():
    assert of_dataset(Items(Opaque(1))) == of_dataset(Items(Opaque(2)))


class Augmented(Squares):
    """Draws from every generator that there is."""

    def __init__(self, length, seed, shape=(2,)):
        super().__init__(length)
        self.own, self.shape = [np.random.default_rng(seed)], shape

    def __getitem__(self, index):
        noise = torch.rand(()).item() + random.random() + np.random.rand() + self.own[0].random()
        return torch.full(self.shape, noise)


def test_augmented_items_count_by_their_shapes():
    assert of_dataset(Augmented(3, seed=1)) == of_dataset(Augmented(3, seed=2))
    assert of_dataset(Augmented(3, seed=1)) != of_dataset(Augmented(3, seed=1, shape=(3,)))


class Noisy(Squares):
    """Draws from one global generator."""

    def __init__(self, draw, offset):
        super().__init__(3)
        self.draw, self.offset = draw, offset

    def __getitem__(self, index):
        return float(self.draw()) + self.offset


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()), random.random, np.random.rand], ids=["torch", "random", "numpy"]
)
def test_a_draw_from_any_global_generator_is_noticed(draw):
    assert of_dataset(Noisy(draw, 0.0)) == of_dataset(Noisy(draw, 1.0))


@pytest.mark.parametrize("processes", [0, 1])
def test_generators_are_left_as_they_were(processes):
    dataset = Augmented(3, seed=1)
    loader = DataLoader(dataset, 2, num_workers=processes)
    orders = Orders(loader)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(()).item(), random.random(), np.random.rand()
    own = dataset.own[0].bit_generator.state
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    of_loader(loader, orders)
    assert (torch.rand(()).item(), random.random(), np.random.rand()) == expected
    assert dataset.own[0].bit_generator.state == own


class Opening(Items):
    """Opens a file where it is first read, as data sets do that a DataLoader's processes share."""

    opened = None

    def __getitem__(self, index):
        self.opened = self.opened or "a file"
        return super().__getitem__(index)


class Opened(Items):
    """Is opened by the DataLoader's worker_init_fn."""

    opened = None

    def __getitem__(self, index):
        if self.opened is None:
            raise OSError("not open")
        return super().__getitem__(index)


def opens(worker):
    get_worker_info().dataset.opened = f"a file of process {worker}"


def test_items_are_fetched_in_a_process_where_the_loader_has_some():
    loader = DataLoader(Opening(1, 2, 3), 2, num_workers=2)
    first = of_loader(loader, Orders(loader))
    assert loader.dataset.opened is None
    alone = DataLoader(Opening(1, 2, 3), 2)
    assert of_loader(alone, Orders(alone)) == first


def test_items_are_fetched_as_the_loaders_processes_do():
    loaders = [DataLoader(Opened(1, 2, last), 2, num_workers=1, worker_init_fn=opens) for last in (3, 3, 4)]
    first, same, other = [of_loader(loader, Orders(loader)) for loader in loaders]
    assert first == same != other
    augmented = [DataLoader(Augmented(3, seed=seed), 2, num_workers=1) for seed in (1, 2)]
    assert len({of_loader(loader, Orders(loader)) for loader in augmented}) == 1


class Unreadable(Squares):
    def __getitem__(self, index):
        raise OSError("gone")


@pytest.mark.parametrize("processes", [0, 1])
def test_an_item_that_cannot_be_read_is_no_matter_here(processes):
    loader = DataLoader(Unreadable(4), 2, num_workers=processes)
    assert of_loader(loader, Orders(loader)) == of_loader(loader, Orders(loader))
    assert of_dataset(Unreadable(4)) != of_dataset(Unreadable(5))


def test_samples_that_are_no_numbers_are_fetched_by_their_names():
    class Named(Dataset):
        def __init__(self, value):
            self.value = value

        def __getitem__(self, name):
            return f"{name} {self.value}"

    loaders = [DataLoader(Named(value), 2, sampler=["a", "b"]) for value in (1, 1, 2)]
    first, same, other = [of_loader(loader, Orders(loader)) for loader in loaders]
    assert first == same != other


def test_of_a_stream_only_the_class_counts():
    class Stream(IterableDataset):
        def __iter__(self):
            pytest.fail("a stream was read")

    assert of_dataset(Stream()) == of_dataset(Stream())


def model(*, seed=0, size=3, extra=0.0):
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(torch.nn.Linear(3, size), torch.nn.Linear(size, 2))
    with torch.no_grad():
        layers[0].weight[0, 0] += extra
    return layers


def test_only_what_does_not_travel_counts():
    base, other = model(), model(extra=1.0)
    same = model()
    assert of_frozen(base, base[1].parameters()) == of_frozen(same, same[1].parameters())
    assert of_frozen(base, base[1].parameters()) != of_frozen(other, other[1].parameters())
    assert of_frozen(base, base.parameters()) == of_frozen(other, other.parameters())


def test_names_shapes_and_one_element_of_a_large_tensor_show():
    def frozen(shape, place=None, name="base"):
        values = torch.zeros(shape)
        if place is not None:
            values.view(-1)[place] = 1.0
        module = torch.nn.Module()
        module.register_parameter(name, torch.nn.Parameter(values))
        return of_frozen(module, [])

    large = (700, 1000)
    assert frozen(large) == frozen(large)
    digests = [frozen(large), frozen(large, 0), frozen(large, 699_999), frozen(large, 1), frozen((1000, 700))]
    assert len({*digests, frozen(large, name="other"), frozen((3, 2)), frozen((2, 3)), frozen((3, 2), 5)}) == 9


def test_memory_formats_do_not_count():
    values = torch.rand(2, 3, 4, 4)
    modules = []
    for tensor in (values, values.to(memory_format=torch.channels_last)):
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(tensor)
        modules.append(module)
    assert of_frozen(modules[0], []) == of_frozen(modules[1], [])


def test_tensors_without_values_count_by_their_shapes():
    def on_meta(size):
        return of_frozen(torch.nn.Linear(2, size, device="meta"), [])

    assert on_meta(3) == on_meta(3) != on_meta(4)
