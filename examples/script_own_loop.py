"""A training script in the usual style: a small convolutional network on handwritten digits, with a loop of its own.

python examples/script_own_loop.py                                                  # plain PyTorch, one process
tardigrad run --engine local --workers 2 examples/script_own_loop.py --epochs 5     # two processes and a server
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import tardigrad


class Digits(Dataset):
    """1,797 images of 8 x 8 pixels; for training every one gets some noise."""

    def __init__(self, train):
        bunch = load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16.0
        labels = torch.tensor(bunch.target)
        part = slice(0, 1408) if train else slice(1408, None)
        self.images, self.labels, self.train = images[part], labels[part], train

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        if self.train:
            image = image + 0.1 * torch.randn(image.shape)
        return image, self.labels[index]


def network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def accuracy(model):
    right = 0
    for images, labels in DataLoader(Digits(train=False), batch_size=128):
        right += (model(images).argmax(1) == labels).sum().item()
    return right / len(Digits(train=False))


def main(session):
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    loader = DataLoader(Digits(train=True), batch_size=32, shuffle=True)
    model, optimizer, loader, scheduler = session.prepare(model, optimizer, loader, scheduler)

    for epoch in session.epochs(args.epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        found = session.evaluate(accuracy)
        if session.is_first:
            print(f"epoch {epoch + 1}: accuracy {found['score']:.2f}")


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
