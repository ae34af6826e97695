"""LeasedLoader: leased batches under a DataLoader, in plain PyTorch's order, each sample once whatever happens."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from leasing_desk import Desk, Squares, Worker
from torch.nn.functional import dropout
from torch.utils.data import DataLoader, RandomSampler, Sampler, SubsetRandomSampler, WeightedRandomSampler

from tardigrad.errors import SessionError
from tardigrad.records import Lease
from tardigrad.session.generators import GeneratorStates, seed_cpu_generators

PROCESSES = [0, 2]


def drawn(loader):
    """What the global generator draws next, and the DataLoader's own."""
    own = [] if loader.generator is None else loader.generator.get_state().tolist()
    return torch.rand(()).item(), own


def plain_epochs(make, epochs):
    """The batches of each epoch in plain PyTorch, and what is drawn after it."""
    torch.manual_seed(3)
    loader = make()
    return [([indices.tolist() for indices, _ in loader], drawn(loader)) for _ in range(epochs)]


def leased_epochs(make, epochs):
    """The same of one served worker."""
    torch.manual_seed(3)
    loader = make()
    worker = Worker(Desk(len(loader.sampler) // 4 * 4 if loader.drop_last else len(loader.sampler), 4), loader)
    found = []
    for _ in worker.clock.epochs(epochs):
        seen = []
        worker.train(seen)
        found.append((seen, drawn(loader)))
    worker.loader.finish()
    return found


def own_generator():
    return torch.Generator().manual_seed(7)


def replacing():
    generator = own_generator()
    sampler = RandomSampler(Squares(70), replacement=True, generator=generator)
    return DataLoader(Squares(70), batch_size=4, sampler=sampler, generator=generator)


LOADERS = {
    "in order": lambda: DataLoader(Squares(10), batch_size=4),
    "own generator": lambda: DataLoader(Squares(10), batch_size=4, shuffle=True, generator=own_generator()),
    "drop last": lambda: DataLoader(Squares(10), 4, shuffle=True, drop_last=True, generator=own_generator()),
    "replacement": replacing,
    "processes": lambda: DataLoader(Squares(10), 4, shuffle=True, num_workers=2, generator=own_generator()),
    "persistent": lambda: DataLoader(
        Squares(10), 4, shuffle=True, num_workers=1, persistent_workers=True, generator=own_generator()
    ),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_one_worker_sees_and_draws_what_plain_pytorch_does(make):
    assert leased_epochs(make, 3) == plain_epochs(make, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Squares(10), batch_size=4, shuffle=True),
        lambda: DataLoader(Squares(10), batch_size=4, sampler=SubsetRandomSampler([1, 3, 5, 7, 9])),
        lambda: DataLoader(Squares(10), batch_size=4, sampler=WeightedRandomSampler([0.1] * 10, 12)),
    ],
    ids=["shuffle", "subset", "weighted"],
)
def test_an_implicit_shuffle_is_plain_pytorchs_where_the_script_draws_nothing(make):
    torch.manual_seed(3)
    plain = make()
    expected = [[indices.tolist() for indices, _ in plain] for _ in range(3)]
    after = torch.rand(())
    torch.manual_seed(3)
    loader = make()
    worker, seen = Worker(Desk(len(loader.sampler), 4), loader), [[], [], []]
    for epoch in worker.clock.epochs(3):
        worker.train(seen[epoch])
    assert seen == expected
    assert torch.rand(()) == after


def test_what_one_of_several_workers_draws_does_not_change_the_order():
    torch.manual_seed(3)
    plain = DataLoader(Squares(10), batch_size=4, shuffle=True)
    expected = [[indices.tolist() for indices, _ in plain] for _ in range(2)]
    torch.manual_seed(3)
    worker, seen = Worker(Desk(10, 4, workers=2), DataLoader(Squares(10), batch_size=4, shuffle=True)), [[], []]
    torch.manual_seed(99)
    for epoch in worker.clock.epochs(2):
        worker.train(seen[epoch])
        torch.rand(5)
    assert seen == expected


def judged():
    """An evaluation in the usual style: its DataLoader draws from the global generator."""
    for _ in DataLoader(Squares(3), batch_size=2):
        pass


@pytest.mark.parametrize("shared", [None, own_generator], ids=["implicit", "own generator"])
@pytest.mark.parametrize("processes", PROCESSES)
def test_the_order_of_the_only_worker_is_plain_pytorchs_whatever_the_script_draws(processes, shared):
    def loader():
        generator = None if shared is None else shared()
        return DataLoader(Squares(10), 4, shuffle=True, num_workers=processes, generator=generator)

    def trained(batches, step, epochs):
        judged()
        seen = []
        for _ in epochs:
            for indices, squares in batches:
                seen.append((indices.tolist(), dropout(squares).tolist()))
                step()
            judged()
        return seen, drawn(batches)

    torch.manual_seed(3)
    expected = trained(loader(), lambda: None, range(3))
    torch.manual_seed(3)
    worker = Worker(Desk(10, 4), loader())
    assert trained(worker.loader, worker.step, worker.clock.epochs(3)) == expected


class Reshuffling(Sampler):
    """Shuffles its own list: an order depends on the ones before."""

    def __init__(self):
        self.order = list(range(20))

    def __len__(self):
        return 20

    def __iter__(self):
        random.shuffle(self.order)
        return iter(list(self.order))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Squares(20), 2, shuffle=True),
        lambda: DataLoader(Squares(20), 2, shuffle=True, num_workers=1, prefetch_factor=2),
        lambda: DataLoader(Squares(20), 2, shuffle=True, generator=own_generator()),
        lambda: DataLoader(Squares(20), 2, sampler=Reshuffling()),
    ],
    ids=["implicit", "processes", "own generator", "keeps what it drew"],
)
def test_whoever_goes_on_for_the_only_worker_computes_the_rest_of_its_epochs(make):
    desk, seen = Desk(20, 2), []
    for life, left in enumerate((3, 9, 8, 30)):  # batches of a life; what it fetched beyond is another's to compute
        desk.leases.join(0)
        seed_cpu_generators(3)  # every life begins alike
        worker = Worker(desk, make(), 0, desk.leases.reached)
        seed_cpu_generators(life)  # and draws from a seed of its own then
        for _ in worker.clock.epochs(3):
            for indices, _ in worker.loader:
                if left == 0:
                    break
                left -= 1
                seen += indices.tolist()
                worker.step()
            judged()
            if left == 0:
                break
        worker.loader.finish()
        desk.die(0)
    assert desk.leases.over
    assert sorted(seen) == sorted([*range(20)] * 3)


def test_a_worker_that_joins_the_only_one_knows_its_order():
    desk, seen = Desk(20, 2), []
    workers = []
    for number in range(2):
        seed_cpu_generators(3)
        workers.append(Worker(desk, DataLoader(Squares(20), 2, shuffle=True), number))
    desk.leases.join(1)
    for epoch in range(2):
        states = [torch.manual_seed(10 * epoch + number) and GeneratorStates.now() for number in range(2)]
        loops = [iter(worker.loader) for worker in workers]
        for turn in (0, 1, 1, 0, 1, 0, 0, 1, 1, 0):  # each draws from a generator of its own
            states[turn].put_back()
            seen += next(loops[turn])[0].tolist()
            workers[turn].step()
            states[turn] = GeneratorStates.now()
        assert [next(loop, None) for loop in loops] == [None, None]
    assert sorted(seen) == sorted([*range(20)] * 2)
    assert seen[:20] != seen[20:]


def test_two_workers_share_every_epoch():
    desk = Desk(10, 4, workers=2)
    torch.manual_seed(3)
    loaders = [DataLoader(Squares(10), batch_size=4, shuffle=True) for _ in range(2)]
    workers = []
    for number, loader in enumerate(loaders):
        torch.manual_seed(3)
        workers.append(Worker(desk, loader, number))
    assert workers[0].orders.digest == workers[1].orders.digest
    seen = []
    for _ in range(2):
        for batches in itertools.zip_longest(*[iter(worker.loader) for worker in workers]):
            for worker, batch in zip(workers, batches, strict=True):
                if batch is not None:
                    seen += batch[0].tolist()
                    worker.step()
    assert sorted(seen) == sorted([*range(10), *range(10)])
    assert sorted(desk.applied) == [(epoch, place) for epoch in range(2) for place in range(10)]


def test_prefetch_holds_no_more_leases_than_there_are_batches_under_way():
    desk = Desk(64, 2)
    worker = Worker(desk, DataLoader(Squares(64), 2, num_workers=2, prefetch_factor=3))
    for _ in worker.loader:
        assert desk.ledger.holds(0) <= 2 * 3 + 1  # and the batch that the script has
        worker.step()
    assert desk.leases.finished_epochs == 1


@pytest.mark.parametrize("processes", PROCESSES)
def test_leaving_a_loop_gives_back_what_was_fetched_ahead(processes):
    desk = Desk(20, 2)
    worker = Worker(desk, DataLoader(Squares(20), 2, num_workers=processes))
    for _ in worker.loader:
        worker.step()
        break
    assert desk.ledger.holds(0) == 0
    assert not worker.clock.inside
    seen = []
    worker.clock.last = None
    for indices, _ in worker.loader:
        seen += indices.tolist()
        worker.step()
    assert seen == [*range(2, 20), *range(20)]  # the rest of the first epoch, and the second
    assert desk.skipped == []


def test_leaving_a_loop_with_persistent_processes_leaves_nothing_behind():
    desk = Desk(20, 2)
    loader = DataLoader(Squares(20), 2, num_workers=1, prefetch_factor=3, persistent_workers=True)
    worker, seen = Worker(desk, loader), []
    for epoch in worker.clock.epochs(2):
        for indices, _ in worker.loader:
            seen += indices.tolist()
            worker.step()
            if epoch == 0 and len(seen) == 6:
                break
    worker.loader.finish()
    assert seen == [*range(20), *range(20)]
    assert desk.leases.over


class Broken(Squares):
    def __getitem__(self, index):
        if index == 5:
            raise OSError("a file is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("processes", PROCESSES)
def test_a_batch_that_cannot_be_made_counts_as_skipped_and_the_others_go_back(processes):
    desk = Desk(20, 2)
    worker, seen = Worker(desk, DataLoader(Broken(20), 2, num_workers=processes)), []
    for _ in worker.clock.epochs(1):
        while not desk.leases.over:
            try:
                worker.train(seen)
            except OSError as error:
                error.__traceback__ = None  # it holds the DataLoader's processes
            assert desk.ledger.holds(0) == 0
    assert desk.skipped == [Lease(0, 4, 6)] * 3
    assert desk.leases.lost == [(Lease(0, 4, 6), "skipped")]
    assert sorted(desk.applied) == [(0, place) for place in range(20) if place not in (4, 5)]


@pytest.mark.parametrize("processes", PROCESSES)
def test_loops_do_not_nest(processes):
    desk = Desk(20, 2)
    worker = Worker(desk, DataLoader(Squares(20), 2, num_workers=processes))
    outer = iter(worker.loader)
    next(outer)
    worker.step()
    worker.train([])
    assert desk.leases.applied == 40  # of the first epoch, and of the next
    with pytest.raises(SessionError, match="do not nest"):
        next(outer)


def test_a_loop_that_is_over_stays_over():
    worker = Worker(Desk(4, 2), DataLoader(Squares(4), 2))
    loop = iter(worker.loader)
    assert len(loop) == 2
    for _ in loop:
        worker.step()
    with pytest.raises(StopIteration):
        next(loop)
    worker.loader.close()
    with pytest.raises(StopIteration):
        next(loop)


def test_the_users_loader_shows_through():
    dataset = Squares(10)
    loader = DataLoader(dataset, batch_size=4, num_workers=0, drop_last=False)
    leased = Worker(Desk(10, 4), loader).loader
    assert len(leased) == len(loader) == 3
    assert leased.dataset is dataset
    assert (leased.batch_size, leased.sampler) == (4, loader.sampler)
    with pytest.raises(AttributeError):
        _ = leased.nothing_of_the_kind


def test_collate_and_process_settings_are_the_users():
    def collate(items):
        return [float(square) for _, square in items]

    loader = DataLoader(Squares(4), 2, collate_fn=collate, num_workers=1, prefetch_factor=4, timeout=30)
    leased = Worker(Desk(4, 2), loader).loader
    assert next(iter(leased)) == [0.0, 1.0]
    made = leased._made
    assert (made.num_workers, made.prefetch_factor, made.timeout) == (1, 4, 30)


def test_a_process_of_the_dataloader_never_touches_the_link(monkeypatch):
    desk = Desk(8, 2)
    worker = Worker(desk, DataLoader(Squares(8), 2))
    loop = iter(worker.loader)
    next(loop)
    worker.book.took(desk.ledger.take(0, 0))
    monkeypatch.setattr("tardigrad.session.loader.os.getpid", lambda: -1)
    loop.close()
    assert desk.ledger.holds(0) == 2


ACTIONS = ["step", "step", "step", "overflow", "accumulate", "leave", "die"]


@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=40), samples=st.integers(1, 13), batch=st.integers(1, 5))
def test_every_sample_is_applied_once_or_listed_as_lost(actions, samples, batch):
    desk, script = Desk(samples, batch, workers=2), iter(actions)
    worker, life = None, 0
    while not desk.leases.over:
        desk.leases.join(life)
        worker, alive = Worker(desk, DataLoader(Squares(samples), batch), life, desk.leases.finished_epochs), True
        for _ in worker.clock.epochs(2):
            for _ in worker.loader:
                worker.zero_grad()
                worker.book.backward()
                action = next(script, "step")
                alive = action != "die"
                if action == "step":
                    worker.step()
                if action in ("leave", "die"):
                    break
            if not alive:
                break
        worker.loader.close()
        desk.die(life)  # its leases go back, as by finish()
        life += 1
    lost = [(lease.epoch, place) for lease, _ in desk.leases.lost for place in range(lease.start, lease.stop)]
    assert sorted(desk.applied + lost) == [(epoch, place) for epoch in range(2) for place in range(samples)]
