"""What a script's worker hands in where gradients travel as bfloat16."""

import pytest
import torch
from loopback import Loopback
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from training_loops import DATA, network

from tardigrad.session.served import ServedSession


def first_push(travels_as, *, accumulate=1, dtype=torch.float32):
    """The gradient and the norm that a script's first push brings."""
    back = Loopback()
    link = back.link()
    link.travels_as = travels_as
    session = ServedSession(link)
    torch.manual_seed(0)
    net = network().to(dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4), accumulate=accumulate)
    batches = iter(loader)
    while not back.pushes:
        inputs, labels = next(batches)
        optimizer.zero_grad()
        cross_entropy(net(inputs.to(dtype)), labels).backward()
        optimizer.step()
    return link._up.clone(), back.pushes[0]["norm"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_gradient_is_rounded_once_when_it_is_handed_in(accumulate, dtype):
    plain, before = first_push("float32", accumulate=accumulate, dtype=dtype)
    rounded, after = first_push("bfloat16", accumulate=accumulate, dtype=dtype)
    assert not torch.equal(rounded, plain)
    assert torch.equal(rounded, plain.bfloat16().to(dtype))
    assert after == float(torch.linalg.vector_norm(rounded)) != before
