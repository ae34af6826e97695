"""Gradient accumulation, clipping and bfloat16: four batches make one step, the forward pass computes in half the bits.

python examples/script_accumulate_bf16.py
tardigrad run --engine local --workers 2 examples/script_accumulate_bf16.py
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tardigrad


def clusters(samples):
    """Points in ten overlapping clusters."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 20, generator=generator)
    labels = torch.arange(samples) % 10
    return TensorDataset(centres[labels] + 0.8 * torch.randn(samples, 20, generator=generator), labels)


def main(session):
    dataset = clusters(1000)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    model, optimizer, loader = session.prepare(model, optimizer, loader, accumulate=4)

    for epoch in session.epochs(3):
        for points, labels in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(points), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # of each batch's gradient
            optimizer.step()  # every fourth is one; what is left at the end of the loader is one too
        scores = session.evaluate(lambda model: F.cross_entropy(model(dataset.tensors[0]), dataset.tensors[1]))
        if session.is_first:
            print(f"epoch {epoch + 1}: loss {scores['score']:.2f}")


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
