"""A server that a test plays by hand over a real connection on this machine, for the agents that dial it."""

import dataclasses
import queue
import threading

import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.engines.joined.agent import Agent
from tardigrad.engines.joined.greeting import Assignment, Hello, TaskAssignment
from tardigrad.engines.local.processes import Duty
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.meeting import Listener
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import Ready, ServerEnd, Slot, SlotLayout, ends

SOON = 60.0


class Server:
    """The other end: greets, and holds the engine's end of a worker's bridge."""

    def __init__(self, credentials):
        self.met = queue.SimpleQueue()
        self.told, self.lost = queue.SimpleQueue(), queue.SimpleQueue()
        self.listener = Listener("127.0.0.1:0", credentials, met=self.met.put)
        self.bridges, self.slots, self.ends = [], [], []

    def greeted(self):
        """The next place that dials, and what it says."""
        channel = self.met.get(timeout=SOON)
        message = channel.receive()
        assert message.word == "hello"
        return channel, Hello.from_json(message.content)

    def answer(self, word, **content):
        channel, hello = self.greeted()
        channel.send(word, content)
        return channel, hello

    def assign(self, assignment):
        """Seat the next that dials; the engine's end, its slots and what it said."""
        down = up = None
        if assignment.task is not None:
            down, up = (Slot.make(assignment.task.slots, name) for name in ("down", "up"))
            self.slots += [down, up]
        mine, theirs = ends()
        bridge = Bridge(
            theirs, side="server", down=down, up=up, speaks=assignment.kind,
            told=lambda *said: self.told.put(said), lost=lambda how, why: self.lost.put(how),
        )  # fmt: skip
        channel, hello = self.answer("assign", **assignment.as_json())
        bridge.attach(channel)
        self.bridges.append(bridge)
        self.ends.append(mine)
        mine.settimeout(SOON)
        return (ServerEnd(mine) if assignment.task is not None else Wire(mine)), down, up, hello

    def over(self, **content):
        self.bridges[-1].tell("over", {"words": "the run has ended", "finished": True, **content})

    def close(self):
        for bridge in self.bridges:
            bridge.close()
        self.listener.close()
        for each in (*self.slots, *self.ends):
            each.close()


class Guest:
    """An agent in a thread of its own, and what came of it."""

    def __init__(self, server, credentials, means, **settings):
        self.words, self.error = [], None
        address = settings.pop("address", server.listener.address)
        self.agent = Agent(address, credentials, means, tell=self.words.append, **settings)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.agent.run()
        except Exception as error:
            self.error = error

    def ended(self):
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        return self.error


def the_task(**changes):
    blueprint = Blueprint("quadratic(dimension=4)", 0, Arithmetic())
    body = blueprint.build_worker(blueprint.build_task())
    slots = SlotLayout.of(body.layout, body.buffers)
    task = TaskAssignment.of(Duty(0, blueprint), slots, body.layout.hash)
    return Assignment("life", 0, 0, task=dataclasses.replace(task, **changes)), body


def begun(server, **changes):
    """A worker that is ready; its end, its slots, the body that computes the same here."""
    assignment, body = the_task(**changes)
    end, down, up, _ = server.assign(assignment)
    ready = end.receive()
    assert isinstance(ready, Ready)
    torch.manual_seed(0)
    down.flat.copy_(torch.randn(down.flat.shape, dtype=down.flat.dtype))
    return end, down, up, body, ready.facts["pid"]
