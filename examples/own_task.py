"""A task of your own: a model, data, a loss and a metric. Here: points in ten clusters, and a small network.

Type: python examples/own_task.py
"""

import statistics

import torch
from torch import nn

import tardigrad
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import ERROR, Split, Task


def clusters() -> Task:
    """Points in ten overlapping clusters, and a network with one hidden layer."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 20, generator=generator)
    labels = torch.arange(1200) % 10
    points = centres[labels] + torch.randn(1200, 20, generator=generator)
    return Task(
        name="clusters",
        model=lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10)),
        loss=nn.functional.cross_entropy,
        metric=ERROR,
        train=Split(points[:800], labels[:800]),
        validation=Split(points[800:1000], labels[800:1000]),
        test=Split(points[1000:], labels[1000:]),
    )


TASKS.register("clusters", clusters)  # now --task clusters works, too

if __name__ == "__main__":
    for workers, rule in ((1, "asgd"), (16, "asgd"), (16, "dc-asgd")):
        runs = [
            tardigrad.train(clusters(), rule=rule, workers=workers, lr=0.3, batch_size=16, epochs=10, seed=seed)
            for seed in range(3)
        ]
        error = statistics.fmean(100 * run.evaluations[-1].scores["test"]["error"] for run in runs)
        staleness = runs[0].summary["staleness"]["mean"]
        print(f"workers {workers:>2}, rule {rule:<8} mean staleness {staleness:4.1f}, test error {error:4.1f} %")
