"""A gradient that travels as bfloat16: the same numbers wherever it is computed, in half of the bytes."""

import json
import math

import pytest
import torch

import tardigrad
from recorded_runs import NOISY, lines_of, record
from tardigrad.arithmetic import Arithmetic, rounded_for
from tardigrad.config import RunConfig
from tardigrad.engines.base import Network
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.layout import FlatLayout
from tardigrad.records import Lease, Snapshot
from tardigrad.transports.packing import Flat, Packed
from tardigrad.transports.slots import Slot, SlotLayout
from tardigrad.worker import Worker

MANY = torch.cat([torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-40, -3e38, 3.3e38, 1 + 2**-8, 1 + 3 * 2**-8]),
                  torch.randn(500, generator=torch.Generator().manual_seed(3)) * 1e-3])  # fmt: skip


def test_rounding_is_to_the_nearest_and_to_even_between_two():
    rounded = rounded_for("bfloat16", MANY.clone())
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, MANY.bfloat16().float())
    assert rounded[7:9].tolist() == [1.0, 1 + 4 * 2**-8]
    assert not torch.equal(rounded, MANY)
    assert torch.equal(rounded_for("bfloat16", rounded.clone()), rounded)
    assert torch.equal(rounded_for("float32", MANY.clone()), MANY)


def pushed(**arithmetic):
    """One push of a worker, its gradient copied."""
    worker = Worker(NOISY, seed=1, arithmetic=Arithmetic(**arithmetic))
    flat = worker.layout.pack(worker.weights)
    push = worker.compute(0, Snapshot(0, [], Lease(0, 0, 16), flat, worker.buffers))
    return push.gradient.clone(), push


def test_a_worker_rounds_its_gradient_before_it_measures_it():
    (plain, before), (rounded, after) = pushed(), pushed(wire="bfloat16")
    assert torch.equal(rounded, plain.bfloat16().float())
    assert after.norm == float(torch.linalg.vector_norm(rounded)) != before.norm
    assert after.loss == before.loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("names", [(), ("mean", "none", "count", "mask")], ids=str)
def test_a_packed_slot_comes_out_bit_for_bit_in_half_of_the_bytes_or_less(dtype, names):
    weights = [MANY.to(dtype), torch.ones(3, 5, dtype=dtype)]
    known = {"mean": torch.arange(7.0), "none": torch.zeros(0, 3), "count": torch.tensor(3), "mask": torch.ones(5) > 0}
    buffers, layout = {name: known[name] for name in names}, FlatLayout.of(weights)
    slots = SlotLayout.of(layout, buffers)
    here, there = Slot.make(slots, "here"), Slot.make(slots, "there")
    rounded_for("bfloat16", here.flat.copy_(layout.pack(weights)))
    for name, buffer in buffers.items():
        here.buffers[name].copy_(buffer)
    packed, arrived = (Packed(slot.memory, Flat.of(slot)) for slot in (here, there))
    packed.pack()
    arrived.memory[:] = packed.memory
    arrived.unpack()
    assert torch.equal(there.flat.view(torch.uint8), here.flat.view(torch.uint8))
    assert all(torch.equal(there.buffers[name], buffer) for name, buffer in buffers.items())
    assert len(packed.memory) <= slots.size - layout.size * (dtype.itemsize - 2) + 64


def test_what_is_no_number_stays_none():
    slots = SlotLayout.of(FlatLayout.of([torch.zeros(100)]), {})
    here, there = Slot.make(slots, "here"), Slot.make(slots, "there")
    here.flat[0] = math.nan
    packed, arrived = (Packed(slot.memory, Flat.of(slot)) for slot in (here, there))
    packed.pack()
    arrived.memory[:] = packed.memory
    arrived.unpack()
    assert there.flat.isnan().tolist() == [True] + [False] * (len(here.flat) - 1)


@pytest.mark.parametrize("content", [{}, {"size": -1, "dtype": "float32"}, {"size": 8, "dtype": "bool"}, {"size": "8"}])
def test_what_a_script_says_is_checked(content):
    with pytest.raises(ProtocolError, match="a script prepares"):
        Flat.prepared(content)


def test_more_numbers_than_the_slot_holds_are_refused():
    slot = Slot.make(SlotLayout.of(FlatLayout.of([torch.zeros(16)]), {}), "here")
    with pytest.raises(ProtocolError, match="does not hold 17 numbers"):
        Packed(slot.memory, Flat(17, torch.float32))


def test_it_is_computed_with_recorded_and_replayed(tmp_path):
    run = record(tmp_path / "rounded", wire="bfloat16")
    plain = record(tmp_path / "plain")
    assert lines_of(run.directory)[0]["wire"] == "bfloat16"
    assert not torch.equal(run.weights()[0], plain.weights()[0])
    assert tardigrad.replay(run.directory, task=NOISY).equal
    config = run.directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"wire": "float32"}))
    assert not tardigrad.replay(run.directory, task=NOISY).equal


def test_a_run_with_it_has_another_name_and_older_ones_keep_theirs():
    assert RunConfig(wire="bfloat16").digest != RunConfig().digest
    older = {name: value for name, value in RunConfig().as_json().items() if name != "wire"}
    assert RunConfig.from_json(older) == RunConfig()
    with pytest.raises(InvalidArgument, match="wire"):
        RunConfig(wire="float16")


def test_in_virtual_time_a_gradient_takes_half_as_long_and_the_weights_as_long_as_ever():
    assert Network(0.5, 100.0).exchange(50, 4) == 2 * (0.5 + 2.0)
    assert Network(0.5, 100.0, wire="bfloat16").exchange(50, 4) == (0.5 + 2.0) + (0.5 + 1.0)


@pytest.mark.timeout(120)
def test_real_workers_hand_in_what_the_simulator_does(tmp_path):
    same = {"workers": 2, "epochs": 1, "consistency": "synchronous", "wire": "bfloat16"}
    ours = tardigrad.train("quadratic", engine="local", directory=tmp_path / "local", **same)
    theirs = tardigrad.train("quadratic", directory=tmp_path / "simulated", **same)
    assert all(torch.equal(mine, other) for mine, other in zip(ours.weights(), theirs.weights(), strict=True))
    assert tardigrad.replay(ours.directory).equal
