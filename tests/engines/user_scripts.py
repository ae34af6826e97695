"""Training scripts as users write them, for the tests of the engine that runs them."""

import os

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

SAMPLES, BATCH = 96, 8


def points(samples=SAMPLES):
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(samples, 6, generator=generator)
    return TensorDataset(inputs, (inputs[:, :3].argmax(1)))


def parts(*, num_workers=0, optimizer=torch.optim.SGD, samples=SAMPLES, **keywords):
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    loader = DataLoader(points(samples), batch_size=BATCH, shuffle=True, num_workers=num_workers)
    return model, optimizer(model.parameters(), **({"lr": 0.05} | keywords)), loader


def score(model):
    inputs, labels = next(iter(DataLoader(points(), batch_size=SAMPLES)))
    outputs = model(inputs)
    return {
        "loss": F.cross_entropy(outputs, labels).item(),
        "error": (outputs.argmax(1) != labels).double().mean().item(),
    }


def step(model, optimizer, inputs, labels):
    loss = F.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def usual(session, epochs=2, num_workers=0):
    model, optimizer, loader = session.prepare(*parts(num_workers=num_workers, momentum=0.9, weight_decay=1e-3))
    for _ in session.epochs(epochs):
        for inputs, labels in loader:
            step(model, optimizer, inputs, labels)
        session.evaluate(score)


def adamw_with_schedule(session, epochs=2):
    model, optimizer, loader = parts(optimizer=torch.optim.AdamW, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    model, optimizer, loader, scheduler = session.prepare(model, optimizer, loader, scheduler)
    for _ in session.epochs(epochs):
        for inputs, labels in loader:
            step(model, optimizer, inputs, labels)
        scheduler.step()
        session.evaluate(score)


def counting(session, epochs=3):
    """Keeps a number of its own in the checkpoints, and says what it found there."""
    seen = {"steps": 0}
    session.save_with("seen", save=lambda: dict(seen), load=seen.update)
    model, optimizer, loader = session.prepare(*parts())
    session.log(found=float(seen["steps"]))
    for _ in session.epochs(epochs):
        for inputs, labels in loader:
            step(model, optimizer, inputs, labels)
            seen["steps"] += 1


def raising_once(session):
    model, optimizer, loader = session.prepare(*parts())
    for _ in session.epochs(2):
        for number, (inputs, labels) in enumerate(loader):
            if session.worker == 1 and session.incarnation == 0 and number == 2:
                raise ValueError("a mistake of the user's")
            step(model, optimizer, inputs, labels)


def raising_early(session):
    raise ValueError("before anything was prepared")


def never_preparing(session):
    pass


def other_data(session):
    usual_size = SAMPLES if session.worker == 0 else SAMPLES - 8
    session.prepare(*parts(samples=usual_size))


def other_epochs(session):
    model, optimizer, loader = session.prepare(*parts())
    for _ in session.epochs(1 + session.worker):
        for inputs, labels in loader:
            step(model, optimizer, inputs, labels)


def ending_early(session):
    model, optimizer, loader = session.prepare(*parts())
    for _ in session.epochs(5):
        for number, (inputs, labels) in enumerate(loader):
            step(model, optimizer, inputs, labels)
            if number == 2:
                return


def dying_at_once(session):
    session.prepare(*parts())
    os._exit(3)


class Stream(IterableDataset):
    def __init__(self, worker):
        self.worker = worker

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.worker)
        for _ in range(20):
            inputs = torch.randn(6, generator=generator)
            yield inputs, inputs[:3].argmax()


def streaming(session):
    model, optimizer, _ = parts()
    loader = DataLoader(Stream(session.worker), batch_size=8)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    for inputs, labels in loader:
        step(model, optimizer, inputs, labels)
