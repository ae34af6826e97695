"""A training script in the usual style, and what it trains: for the tests of sessions."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

_DRAWS = torch.Generator().manual_seed(11)
INPUTS = torch.randn(26, 6, generator=_DRAWS)
DATA = TensorDataset(INPUTS, torch.randint(0, 3, (26,), generator=_DRAWS))
IMAGES = TensorDataset(torch.randn(20, 3, 6, 6, generator=_DRAWS), torch.randint(0, 3, (20,), generator=_DRAWS))


def network(*, dropout=0.0):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def a_script(
    *, model=network, sgd=None, make=None, data=DATA, shuffle=True, epochs=2, batch_size=4, before_step=None, **prepared
):
    """A training script in the usual style; it returns the final weights and buffers."""

    def main(session):
        net = model()
        optimizer = (
            make(net) if make else torch.optim.SGD(net.parameters(), **{"lr": 0.1, "momentum": 0.9} | (sgd or {}))
        )
        loader = DataLoader(data, batch_size=batch_size, shuffle=shuffle)
        net, optimizer, loader = session.prepare(net, optimizer, loader, **prepared)
        for _ in session.epochs(epochs):
            for inputs, labels in loader:
                loss = cross_entropy(net(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                if before_step:
                    before_step(net)
                optimizer.step()
        return list(net.state_dict().values())

    return main
