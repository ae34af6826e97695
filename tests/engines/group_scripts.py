"""Training scripts for workers that are groups of processes."""

import os
import signal

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

BATCH = 4


def points(samples):
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


class Net(nn.Module):
    """With a layer that no loss depends on."""

    def __init__(self, *between):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), *between, nn.Tanh(), nn.Linear(16, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.body(inputs)


def parts(session, samples, *between, num_workers=0):
    """Of the script, which takes the whole batch where it runs in one process."""
    model = Net(*between).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    size = BATCH if session.group > 1 else 2 * BATCH
    order = torch.Generator().manual_seed(3)
    loader = DataLoader(points(samples), size, shuffle=True, generator=order, num_workers=num_workers)
    return model, optimizer, loader


def clipped(session, samples, accumulate, by_hand):
    """Uneven leases, clipping, accumulation: all that makes a mean of means differ from the mean."""
    model, optimizer, loader = session.prepare(*parts(session, samples), accumulate=accumulate)
    for _ in session.epochs(2):
        for number, (inputs, labels) in enumerate(loader, start=1):
            if (number - 1) % by_hand == 0:
                optimizer.zero_grad()
            (F.cross_entropy(model(inputs), labels) / by_hand).backward()
            if number % by_hand == 0 or number == len(loader):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()


def normalized(session, samples):
    model, optimizer, loader = session.prepare(*parts(session, samples, nn.BatchNorm1d(16)))
    for _ in session.epochs(2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        session.evaluate(lambda own: own(points(samples).tensors[0]).sum().item())
        session.log(first=float(session.is_first), rank=float(session.rank))


def dying(session, samples, deaths):
    """``deaths``: [worker, rank, step]: which process kills itself before which of its first life's steps."""
    model, optimizer, loader = session.prepare(*parts(session, samples, nn.Dropout(0.3), num_workers=1))
    steps = 0
    for _ in session.epochs(2):
        for inputs, labels in loader:
            if session.incarnation == 0 and [session.worker, session.rank, steps] in deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            steps += 1
        session.evaluate(lambda own: own(points(8).tensors[0]).sum().item())


def raising(session, ranks):
    """In the first life; with a loader that fetches ahead."""
    model, optimizer, loader = session.prepare(*parts(session, 64, num_workers=1))
    for _ in session.epochs(1):
        for number, (inputs, labels) in enumerate(loader):
            if session.rank in ranks and session.incarnation == 0 and number == 2:
                raise ValueError("a mistake of the user's")
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def unwrapped(session):
    model, optimizer, loader = parts(session, 64)
    _, optimizer, loader = session.prepare(model, optimizer, loader)
    for inputs, labels in loader:
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


class Stream(IterableDataset):
    """Each process has its own, and the second one's is shorter."""

    def __init__(self, rank):
        self.rank = rank

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.rank)
        for _ in range(22 - 8 * self.rank):
            inputs = torch.randn(6, generator=generator, dtype=torch.float64)
            yield inputs, inputs[:3].argmax()


def streaming(session):
    model, optimizer, _ = parts(session, 8)
    loader = DataLoader(Stream(session.rank), batch_size=BATCH)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    for inputs, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
