"""One worker is plain PyTorch, bit for bit: what a model may be."""

import pytest
import torch
from loopback import require_equal
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from training_loops import DATA, IMAGES, a_script, convolutions, network


def test_autocast_to_bfloat16():
    class Autocast(nn.Sequential):
        def forward(self, inputs):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(inputs)

    require_equal(a_script(model=lambda: Autocast(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))))


def test_frozen_parameters_do_not_travel():
    def frozen_below():
        net = network()
        net[0].requires_grad_(False)
        return net

    loopback = require_equal(a_script(model=frozen_below))
    assert loopback.prepared.layout.names == ("3.weight", "3.bias")
    assert loopback.server.flat.numel() < 64
    assert loopback.prepared.alike["frozen parameters"]


class Branches(nn.Module):
    """Two heads, of which a batch uses one."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs):
        return (self.first if inputs[0, 0] > 0 else self.second)(torch.relu(self.body(inputs)))


@pytest.mark.parametrize("make", [
    lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, foreach=False),
], ids=["sgd", "adamw"])  # fmt: skip
def test_parameters_without_a_gradient_are_passed_over(make):
    accumulated = require_equal(a_script(model=Branches, make=make, accumulate=2))
    assert {len(push["absent"]) for push in accumulated.pushes} == {2, 4}  # absent from both batches
    loopback = require_equal(a_script(model=Branches, make=make))
    names = loopback.prepared.layout.names
    used = [{names[number].split(".")[0] for number in push["absent"]} for push in loopback.pushes]
    assert {frozenset(each) for each in used} == {frozenset({"second", "unused"}), frozenset({"first", "unused"})}


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_gradient_set_to_zero_is_one_and_a_gradient_set_to_none_is_none(set_to_none):
    def main(session):
        net = Branches()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for _ in session.epochs(1):
            for inputs, labels in loader:
                optimizer.zero_grad(set_to_none=set_to_none)
                cross_entropy(net(inputs), labels).backward()
                optimizer.step()
        return list(net.parameters())

    loopback = require_equal(main)
    assert len(loopback.pushes[-1]["absent"]) == (4 if set_to_none else 2)


def test_tied_weights_travel_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.last.weight = self.first.weight

        def forward(self, inputs):
            return self.last(torch.relu(self.first(inputs)))

    loopback = require_equal(a_script(model=Tied))
    assert loopback.prepared.layout.names == ("first.weight",)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_and_memory_format(memory_format):
    def make():
        return convolutions().to(memory_format=memory_format)

    def main(session):
        values = a_script(model=make, data=IMAGES, batch_size=3)(session)
        assert values[0].is_contiguous(memory_format=memory_format)
        return values

    loopback = require_equal(main)
    assert set(loopback.prepared.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert loopback.server.buffers.combined([0])["1.num_batches_tracked"] == 14


def test_dropout_draws_what_it_would_have_drawn():
    require_equal(a_script(model=lambda: network(dropout=0.5), shuffle=False))


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model():
    def compiled():
        return torch.compile(convolutions(), backend="aot_eager")

    loopback = require_equal(a_script(model=compiled, data=IMAGES, batch_size=5, epochs=1))
    assert loopback.prepared.layout.names[0] == "0.weight"
    assert next(iter(loopback.prepared.buffers)) == "1.running_mean"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_model_on_cuda(accumulate):
    def main(session):
        device = torch.device("cuda")
        net = convolutions().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, foreach=False)
        loader = DataLoader(IMAGES, batch_size=4, shuffle=True)
        net, optimizer, loader = session.prepare(net, optimizer, loader, accumulate=accumulate)
        for _ in session.epochs(2):
            for inputs, labels in loader:
                optimizer.zero_grad()
                cross_entropy(net(inputs.to(device)), labels.to(device)).backward()
                optimizer.step()
            session.evaluate(lambda net: 0.0)
        return [value.cpu() for value in net.state_dict().values()]

    require_equal(main, device="cuda", tolerance=1e-5)
