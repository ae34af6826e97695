"""Fine-tuning with frozen layers: of a network only small adapters (LoRA) are trained, and only they travel.

    python examples/script_lora.py
    tardigrad run --engine local --workers 2 examples/script_lora.py

After Hu et al., LoRA: Low-rank adaptation of large language models, ICLR 2022 (arXiv 2106.09685).
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tardigrad


class Adapted(nn.Module):
    """A frozen linear layer W, and beside it B A of rank 2, which is trained; B begins as zero."""

    def __init__(self, frozen, rank=2):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, inputs):
        """What the frozen layer says, and what was learnt beside it."""
        return self.frozen(inputs) + inputs @ self.down.T @ self.up.T


def pretrained():
    """Stands for a network that was trained before; it must be the same in every worker."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))


def task(samples):
    """What the network is to learn: another random network of its kind, nearby."""
    model = pretrained()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (model[0].weight, model[2].weight, model[4].weight):
            left = torch.randn(weight.shape[0], 1, generator=generator)
            weight += 0.1 * left @ torch.randn(1, weight.shape[1], generator=generator)
        points = torch.randn(samples, 20, generator=generator)
        return TensorDataset(points, model(points))


def main(session):
    dataset = task(1024)
    model = pretrained()
    for number in (0, 2, 4):
        model[number] = Adapted(model[number])
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=0.01, weight_decay=0.0)
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    if session.is_first:
        numbers = sum(p.numel() for p in adapters), sum(p.numel() for p in model.parameters())
        print("of {1:,} numbers {0:,} are trained".format(*numbers))

    for epoch in session.epochs(4):
        for points, targets in loader:
            loss = F.mse_loss(model(points), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scores = session.evaluate(lambda model: F.mse_loss(model(dataset.tensors[0]), dataset.tensors[1]))
        if session.is_first:
            print(f"epoch {epoch + 1}: loss {scores['score']:.2f}")


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
