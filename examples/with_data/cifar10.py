"""A CIFAR-10 script in the usual style: ResNet-20, random crops and flips, step schedule, a DataLoader with processes.

python examples/with_data/cifar10.py                                           # plain PyTorch, one process
tardigrad run --engine local --workers 2 examples/with_data/cifar10.py         # two processes and a server

The data is looked for in TARDIGRAD_DATA, or downloaded.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import tardigrad
from tardigrad.data.cifar import load_cifar
from tardigrad.models.resnet import cifar_resnet

MEAN, DEVIATION = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])


class Images(Dataset):
    """Normalised images, cropped and flipped at random for training."""

    def __init__(self, images, labels, train):
        self.images, self.labels, self.train = images, labels, train

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index].float() / 255.0
        image = (image - MEAN[:, None, None]) / DEVIATION[:, None, None]
        if self.train:
            top, left = torch.randint(0, 9, (2,)).tolist()
            image = F.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
            image = image.flip(2) if torch.rand(()) < 0.5 else image
        return image, self.labels[index]


def main(session):
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.1)
    args = parser.parse_args()

    torch.manual_seed(0)
    data = load_cifar("cifar10")
    train = Images(data.train_images[: args.images], data.train_labels[: args.images], train=True)
    test = Images(data.test_images[: args.images // 5], data.test_labels[: args.images // 5], train=False)

    model = cifar_resnet(args.depth).to(session.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-4)
    milestones = [args.epochs // 2, args.epochs * 3 // 4]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    loader = DataLoader(train, batch_size=128, shuffle=True, num_workers=1)
    model, optimizer, loader, scheduler = session.prepare(model, optimizer, loader, scheduler)

    def error(model: nn.Module) -> float:
        wrong = 0
        for images, labels in DataLoader(test, batch_size=500):
            wrong += (model(images.to(session.device)).argmax(1).cpu() != labels).sum().item()
        return 100.0 * wrong / len(test)

    for epoch in session.epochs(args.epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(session.device)), labels.to(session.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        found = session.evaluate(error)
        if session.is_first:
            print(f"epoch {epoch + 1}: {found['score']:.1f} % wrong", flush=True)


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
