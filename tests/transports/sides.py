"""A server's side and a worker's, each with a bridge, and a line between them."""

import threading
from contextlib import contextmanager
from queue import Queue

import torch
from lines import channels, closed
from torch import nn

from tardigrad.layout import FlatLayout
from tardigrad.records import Lease
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.slots import Order, Pushed, ServerEnd, Slot, SlotLayout, WorkerEnd, ends

SOON = 30.0  # seconds after which what does not come is missing


def small_layout():
    return layout_of(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)))


def layout_of(model):
    return SlotLayout.of(FlatLayout.of_model(model), dict(model.named_buffers()))


class Side:
    """One side: a bridge, the local end on its other side, its slots, and what it was told."""

    def __init__(self, side, layout, speaks, **more):
        self.mine, end = ends()
        self.mine.settimeout(SOON)
        self.slots = {name: Slot.make(layout, name) for name in ("down", "up")} if speaks == "task" else {}
        self.told, self.lost = Queue(), Queue()
        down, up = (self.slots.get(name) for name in ("down", "up"))
        self.why = ""
        more |= {"told": lambda *words: self.told.put(words), "lost": self._lose}
        self.bridge = Bridge(end, side=side, down=down, up=up, speaks=speaks, **more)

    def _lose(self, how, why):
        self.why = why
        self.lost.put(how)

    def close(self):
        self.bridge.close()
        self.mine.close()
        closed(*self.slots.values())


class Both:
    """A server's side and a worker's, and a line between them.

    ``more``: words for the worker's bridge; ``each``: for both.
    """

    def __init__(self, layout=None, speaks="task", *, line=None, more=None, each=None):
        layout, each = layout or small_layout(), each or {}
        self.server = Side("server", layout, speaks, **each)
        self.worker = Side("worker", layout, speaks, **each, **(more or {}))
        self.sides = (self.server, self.worker)
        self.connect(line or channels())

    def connect(self, line):
        """Attach, each told what the other has received."""
        received = [side.bridge.detach() for side in self.sides]
        for side, channel, of_other in zip(self.sides, line, reversed(received), strict=True):
            side.bridge.attach(channel, received=of_other)

    def close(self):
        for side in self.sides:
            side.close()


def order(number):
    return Order(number, 2, Lease(1, 16 * number, 16 * number + 16), "raise" if number % 2 else "")


def exchange(both, number):
    """An order with weights there, a gradient back; each slot is found as it was handed over."""
    server, worker = ServerEnd(both.server.mine), WorkerEnd(both.worker.mine)
    for slot, value in ((both.server.slots["down"], number + 0.5), (both.worker.slots["up"], -number - 0.5)):
        slot.flat.fill_(value)
        for buffer in slot.buffers.values():
            buffer.fill_(int(value * 2))
    server.send(order(number))
    assert worker.receive() == order(number)
    worker.send(Pushed(number, 2, 0.25, 1e-30, 3.5))
    assert server.receive() == Pushed(number, 2, 0.25, 1e-30, 3.5)
    for name in ("down", "up"):
        mine, theirs = both.server.slots[name], both.worker.slots[name]
        assert torch.equal(mine.flat, theirs.flat)
        assert all(torch.equal(mine.buffers[key], theirs.buffers[key]) for key in mine.buffers)


@contextmanager
def mended(both):
    """Within it a line that is lost is mended, once: the two are connected anew."""

    def mend():
        if both.server.lost.get(timeout=SOON) == "ended":
            assert both.worker.lost.get(timeout=SOON) == "ended"
            both.connect(channels())

    mending = threading.Thread(target=mend, daemon=True)
    mending.start()
    yield
    both.server.lost.put("enough")
    mending.join()
