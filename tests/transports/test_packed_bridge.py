"""Bridges over which gradients travel as bfloat16: the slots hold the same bits, and fewer bytes have come over."""

import pytest
import torch
from lines import channels, counted, cut_channels
from sides import exchange, layout_of, mended
from torch import nn

from tardigrad.arithmetic import rounded_for
from tardigrad.layout import FlatLayout
from tardigrad.session.encoding import prepared_content, prepared_slot
from tardigrad.session.link import Group, Prepared
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import Slot, SlotLayout

PACKING = {"wire": "bfloat16"}


def test_a_gradient_comes_over_whole_in_half_of_the_bytes(make):
    line = channels()
    both = make(layout_of(nn.Sequential(nn.Linear(100, 70), nn.BatchNorm1d(70))), line=line, each=PACKING)
    down, up = counted(line[0]), counted(line[1])
    slots = both.worker.slots["up"].layout
    for number in range(3):
        exchange(both, number)
    assert 3 * 4 * slots.elements < down()
    assert 3 * 2 * slots.elements < up() < 3 * (slots.size - 2 * slots.elements) + 2000


@pytest.mark.parametrize("after", [0, 300, 301, 600, 1100])
def test_what_is_cut_on_its_way_comes_again_whole(make, after):
    both = make(layout_of(nn.Linear(10, 20)), line=cut_channels(after=after, by=1), each=PACKING)
    with mended(both):
        for number in range(3):
            exchange(both, number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scripts_slots_are_known_from_what_it_prepares(make, dtype):
    weights = [torch.randn(9, 4, dtype=dtype), torch.randn(3, dtype=dtype)]
    prepared = Prepared(
        FlatLayout.of(weights), (Group(2, "sgd", 0.1),), weights, {"mean": torch.ones(5)}, samples=8, batch_size=2
    )
    layout = SlotLayout.of(prepared.layout, prepared.buffers)
    both = make(layout, "script", each=PACKING)
    server, worker = Wire(both.server.mine), Wire(both.worker.mine)
    handed = prepared_slot(prepared)
    worker.send("prepare", prepared_content(prepared), [handed.descriptor])
    assert server.receive()[0] == "prepare"
    mine = [Slot.make(layout, name) for name in ("down", "up")]
    server.send("welcome", {"epoch": 0}, [slot.descriptor for slot in mine])
    there = Slot(layout, worker.receive()[2][1])
    rounded_for("bfloat16", there.flat.copy_(torch.linspace(-1.0, 1.0, layout.elements, dtype=dtype)))
    there.buffers["mean"].fill_(0.1)
    worker.send("push", {})
    assert server.receive()[0] == "push"
    assert both.server.bridge._packed is not None
    assert torch.equal(mine[1].flat, there.flat)
    assert torch.equal(mine[1].buffers["mean"], there.buffers["mean"])
