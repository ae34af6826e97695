"""A training script as users write them, which notes the moments of its steps."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tardigrad
from tardigrad.models.resnet import small_resnet

TASKS = {"perceptron": (64, 20_000), "small ResNet": (32, 6_000)}  # batch, samples in an epoch


def model_of(task: str) -> nn.Module:
    if task == "small ResNet":
        return small_resnet()
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 80), nn.ReLU(), nn.Linear(80, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def train(session: tardigrad.Session, task: str, samples: int, where: str) -> None:
    """The script; it leaves the moments of its steps in a file."""
    batch, _ = TASKS[task]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (samples,), generator=generator)
    model = model_of(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=True)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    moments = []
    for _ in session.epochs(1):
        for inputs, targets in loader:
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            moments.append((time.time(), len(targets)))
    name = f"{session.worker}-{getattr(session, 'rank', 0)}.json"
    Path(where, name).write_text(json.dumps(moments))
