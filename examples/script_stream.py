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
    """Without end: eight readings, and noisily what they add up to beyond zero. Each worker's are others."""

    def __init__(self, worker):
        self.generator = torch.Generator().manual_seed(worker)

    def __iter__(self):
        while True:
            readings = torch.randn(8, generator=self.generator)
            yield readings, readings.sum(0, keepdim=True).relu() + 0.1 * torch.randn(1, generator=self.generator)


def error(model):
    readings = torch.randn(1000, 8, generator=torch.Generator().manual_seed(12345))
    return F.mse_loss(model(readings), readings.sum(1, keepdim=True).relu())


def main(session):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
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
