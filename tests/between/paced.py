"""A task and a script whose gradients take as long as a file says: so that a run outlasts what is done to it."""

import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tardigrad
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR, Split, Task

SAMPLES, BATCH, EPOCHS = 1280, 8, 5
PACE = "SECONDS_A_GRADIENT"  # names the file; where it names none, nobody waits


class Network(nn.Module):
    """Some 50,000 parameters, so that a bandwidth limit is felt; in training each call takes its time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 220), nn.ReLU())
        self.last = nn.Linear(220, 3)

    def forward(self, inputs):
        if self.training and PACE in os.environ:
            time.sleep(float(Path(os.environ[PACE]).read_text()))
        return self.last(self.layers(inputs))


def points():
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(SAMPLES, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def paced() -> Task:
    """A small classification, one split for everything."""
    split = Split(*points())
    return Task(name="paced", model=Network, loss=F.cross_entropy, train=split, test=split, metric=ERROR)


TASKS.register("paced", paced)


def main(session):
    model, loader = Network(), DataLoader(TensorDataset(*points()), batch_size=BATCH, shuffle=True, num_workers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    for _ in session.epochs(EPOCHS):
        for inputs, labels in loader:
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
