"""An unbounded stream: every worker reads one of its own, and training ends after so many samples by all of them.

python examples/script_stream.py
tardigrad run --engine local --workers 2 examples/script_stream.py
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import tardigrad

SAMPLES = 8192


class Measurements(IterableDataset):
    """Without end: a point, and a noisy value of an unknown function there. Each worker's are others."""

    def __init__(self, worker):
        self.worker = worker

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.worker)
        while True:
            point = 4.0 * torch.rand(1, generator=generator) - 2.0
            yield point, torch.sin(2.0 * point) + 0.1 * torch.randn(1, generator=generator)


def error(model):
    points = torch.linspace(-2.0, 2.0, 101).unsqueeze(1)
    return F.mse_loss(model(points), torch.sin(2.0 * points))


def main(session):
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loader = DataLoader(Measurements(session.worker), batch_size=32)
    model, optimizer, loader = session.prepare(model, optimizer, loader)

    for points, values in loader:
        loss = F.mse_loss(model(points), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if session.samples >= SAMPLES:  # applied so far, by all workers
            break
    scores = session.evaluate(error)
    if session.is_first:
        print(f"mean squared error {scores['score']:.3f}")


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
