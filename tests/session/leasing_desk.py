"""A server that only leases, for tests of what a worker's loader does; and a data set that tells its samples."""

import json
import os

import torch
from torch.utils.data import Dataset

from tardigrad.leases import Leases
from tardigrad.ledger import Ledger
from tardigrad.session.book import LeaseBook
from tardigrad.session.generators import GeneratorStates
from tardigrad.session.link import Link
from tardigrad.session.loader import EpochClock, LeasedLoader
from tardigrad.session.orders import Orders


class Squares(Dataset):
    """Sample i is (i, i * i)."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(index), torch.tensor(float(index * index))


class Desk:
    """Hands out leases to workers and remembers what became of them.

    ``meanwhile`` is called when a worker waits and nothing is there: what another does in that time.
    """

    def __init__(self, samples, batch_size, workers=1):
        self.workers = workers
        self.leases = Leases(samples, batch_size, workers=workers)
        self.ledger = Ledger(self.leases)
        self.applied = []
        self.skipped = []
        self.waits = []
        self.told = []
        self.meanwhile = lambda: None

    def link(self, worker=0):
        return DeskLink(self, worker)

    def die(self, worker):
        self.ledger.leave(worker)


class DeskLink(Link):
    """One worker's way to the desk; no tensor travels."""

    def __init__(self, desk, worker):
        self.desk, self.worker, self.workers, self.incarnation, self.seed = desk, worker, desk.workers, 0, 0
        self.process = os.getpid()

    def epochs(self, number):
        self.desk.told.append(number)
        self.desk.leases.epochs = number

    def take(self, epoch, *, wait):
        assert os.getpid() == self.process
        lease = self.desk.ledger.take(self.worker, epoch)
        if lease is None and wait:
            assert self.desk.ledger.holds(self.worker) == 0, "a worker that holds leases must not wait"
            self.desk.waits.append(self.worker)
            self.desk.meanwhile()
            lease = self.desk.ledger.take(self.worker, epoch)
        return lease

    def order(self, epoch, states):
        assert os.getpid() == self.process
        ledger = self.desk.ledger
        assert ledger.holds(self.worker), "only who holds a lease asks"
        if ledger.begun(epoch) is None:
            ledger.begin(epoch, json.loads(json.dumps(states.as_plain())))
        return GeneratorStates.from_plain(ledger.begun(epoch))

    def give_back(self, leases, *, skipped=False):
        assert os.getpid() == self.process
        assert leases, "a call for nothing"
        self.desk.ledger.give_back(self.worker, leases, skipped=skipped)
        self.desk.skipped += list(leases) if skipped else []

    def push(self, *, leases, samples, norm=1.0, loss=None, absent=()):
        self.desk.ledger.committed(self.desk.ledger.pushed(self.worker, leases))
        self.desk.applied += [(lease.epoch, place) for lease in leases for place in range(lease.start, lease.stop)]

    def prepare(self, prepared):
        raise AssertionError("a loader asks this of nobody")

    refresh = evaluated = log = save = finish = prepare


class Worker:
    """A worker's book, clock and loader at a desk; `step` is what an optimizer's step does with them."""

    def __init__(self, desk, loader, worker=0, first=0):
        self.link = desk.link(worker)
        self.book, self.orders = LeaseBook(), Orders(loader)
        self.clock = EpochClock(self.link, first)
        self.drained = 0
        self.loader = LeasedLoader(loader, self.link, self.book, self.orders, self.clock, self.drain)

    def drain(self):
        self.drained += 1

    def step(self):
        self.book.backward()
        batches = self.book.for_push()
        self.link.push(leases=batches.leases, samples=batches.samples)

    def zero_grad(self):
        if leases := self.book.thrown_away():
            self.link.give_back(leases, skipped=True)

    def train(self, seen):
        """One loop in the usual style; what it saw goes into ``seen``."""
        for indices, _ in self.loader:
            seen.append(indices.tolist())
            self.step()
