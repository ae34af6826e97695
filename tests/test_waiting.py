"""Waiting pushes: they keep their own tensors, and come back from a state as they were."""

import math

import torch

from tardigrad.records import Lease, Push
from tardigrad.waiting import WaitingPushes


def a_push(worker, **changes):
    known = {
        "lease": Lease(1, 4, 8),
        "samples": 4,
        "incarnation": 2,
        "sequence": 5,
        "norm": 0.1 + 0.2,
        "loss": math.inf,
    }
    return Push(worker, torch.full((3,), float(worker)), buffers={"mean": torch.ones(2)}, **{**known, **changes})


def test_a_push_that_waits_keeps_its_own_tensors():
    waiting, push = WaitingPushes(), a_push(1)
    waiting.add(push, 6)
    waiting.own(1)
    push.gradient.zero_()
    push.buffers["mean"].zero_()
    assert (1 in waiting, 0 in waiting, len(waiting)) == (True, False, 1)
    ((kept, read),) = waiting.take([1])
    assert (kept.gradient.tolist(), kept.buffers["mean"].tolist(), read) == ([1.0] * 3, [1.0] * 2, 6)
    assert len(waiting) == 0


def test_a_state_brings_back_every_field():
    waiting, restored = WaitingPushes(), WaitingPushes()
    pushes = {3: a_push(3), 0: a_push(0, lease=None, sequence=None, norm=None, loss=None)}
    for worker, push in pushes.items():
        waiting.add(push, worker + 1)
    state = waiting.state_dict()
    pushes[3].gradient.zero_()
    restored.add(a_push(9), 0)
    restored.load_state_dict({str(worker): plain for worker, plain in state.items()}, device=torch.device("cpu"))
    assert len(restored) == 2
    for (push, read), worker in zip(restored.take([0, 3]), (0, 3), strict=True):
        known = pushes[worker]
        assert (read, push.worker, push.lease, push.samples) == (worker + 1, worker, known.lease, 4)
        assert (push.incarnation, push.sequence, push.norm, push.loss) == (2, known.sequence, known.norm, known.loss)
        assert push.gradient.tolist() == [float(worker)] * 3
        assert push.gradient.data_ptr() != state[worker]["gradient"].data_ptr()
        assert push.buffers["mean"].tolist() == [1.0, 1.0]
