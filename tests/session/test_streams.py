"""StreamedLoader: plain PyTorch's batches of a worker's own stream, their samples counted."""

import numpy as np
import pytest
import torch
from leasing_desk import Desk, Squares
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tardigrad.errors import SessionError
from tardigrad.session.book import LeaseBook
from tardigrad.session.loader import EpochClock
from tardigrad.session.streams import StreamedLoader, samples_in


class Stream(IterableDataset):
    """Numbers with some noise, each of the DataLoader's processes a part of its own."""

    def __init__(self, length, *, batches=False):
        self.length, self.batches = length, batches

    def __iter__(self):
        info = get_worker_info()
        for number in range(info.id if info else 0, self.length, info.num_workers if info else 1):
            value = torch.rand(()) + number
            yield {"inputs": value.repeat(number + 1, 2)} if self.batches else value


def streamed(loader, drained=lambda: None):
    book, clock = LeaseBook(), EpochClock(Desk(1, 1).link())
    return StreamedLoader(loader, book, clock, drained), book, clock


@pytest.mark.parametrize(
    "keywords",
    [
        {"batch_size": 4},
        {"batch_size": 4, "drop_last": True},
        {"batch_size": 4, "num_workers": 2},
        {"batch_size": 4, "num_workers": 1, "persistent_workers": True},
    ],
    ids=str,
)
def test_batches_and_draws_are_plain_pytorchs(keywords):
    torch.manual_seed(1)
    plain = DataLoader(Stream(10), **keywords)
    expected = [([batch.tolist() for batch in plain], torch.rand(()).item()) for _ in range(2)]
    torch.manual_seed(1)
    loader, book, clock = streamed(DataLoader(Stream(10), **keywords))
    found, counted = [], []
    for _ in clock.epochs(2):
        batches = []
        for batch in loader:
            batches.append(batch.tolist())
            book.backward()
            counted.append(book.for_push())
        found.append((batches, torch.rand(()).item()))
    loader.finish()
    assert found == expected
    assert [part.samples for part in counted] == [len(batch) for batches, _ in expected for batch in batches]
    assert {part.leases for part in counted} == {()}


def test_batches_of_the_streams_own_making_are_counted_by_their_first_dimension():
    loader, book, _ = streamed(DataLoader(Stream(3, batches=True), batch_size=None))
    assert [batch["inputs"].shape for batch in loader] == [(1, 2), (2, 2), (3, 2)]
    assert book.for_push().samples == 6


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        ((torch.zeros(5, 2), torch.zeros(5)), 5),
        ({"id": "text", "inputs": [np.zeros((3, 2))]}, 3),
        ((torch.tensor(1.0), torch.zeros(4)), 4),
        ("text", 1),
        (3.0, 1),
    ],
)
def test_samples_in_a_batch(batch, samples):
    assert samples_in(batch) == samples


def test_an_epoch_is_one_pass_and_nobody_waits():
    called = []
    loader, book, clock = streamed(DataLoader(Stream(6), 2), lambda: called.append(clock.inside))
    found = [(epoch, len(list(loader))) for epoch in clock.epochs(2)]
    assert found == [(0, 3), (1, 3)]
    assert called == [True, True, False]  # at the end of each pass, and after the last
    assert book.for_push().samples == 12


def test_leaving_a_pass_early():
    loader, _, clock = streamed(DataLoader(Stream(6), 2))
    for _ in loader:
        break
    assert not clock.inside
    assert len(list(loader)) == 3


def test_loops_do_not_nest():
    loader, _, _ = streamed(DataLoader(Stream(6), 2))
    outer = iter(loader)
    next(outer)
    list(loader)
    with pytest.raises(SessionError, match="do not nest"):
        next(outer)


def test_a_loader_that_is_no_stream_is_refused():
    with pytest.raises(SessionError, match="IterableDataset"):
        streamed(DataLoader(Squares(4), 2))


def test_a_stream_without_a_length_has_none():
    loader, _, _ = streamed(DataLoader(Stream(6), 2))
    with pytest.raises(TypeError):
        len(loader)
