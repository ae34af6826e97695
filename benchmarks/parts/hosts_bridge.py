"""All of it between two hosts: a worker process, its bridge, the line, the server's bridge, and a commit of dc-asgd.

The commit is the compiled one (where there is a compiler), reads the gradient from the up slot and the backup from the
down slot, and writes the worker's next weights there in the same pass, as the engine's does.
"""

from __future__ import annotations

import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection
from socket import socket

import torch
from hosts_process import GRADIENT, Told, counted, now, serve, told
from hosts_stream import PATIENCE, patient_dial

from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import Part
from tardigrad.engines.local.processes import SlotParcel, SlotPass
from tardigrad.errors import CompileError
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts, Lease
from tardigrad.rules.base import make_rule
from tardigrad.transports.bridge import Bridge
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import Listener
from tardigrad.transports.slots import Order, Pushed, ServerEnd, Slot, SlotLayout, WorkerEnd, ends

LR = 1e-3


class Commits:
    """Weights, and dc-asgd's commit from slot to slot."""

    def __init__(self, down: Slot, up: Slot, *, compiled: bool) -> None:
        self._weights = torch.ones(len(down.flat))
        layout = FlatLayout.of([self._weights])
        down.flat.copy_(self._weights)
        self._part, self._down = Part(0, up.flat, down.flat, Facts(1, LR, 1, 2, 1)), down
        for path in ("compiled", "exact") if compiled else ("exact",):
            try:
                self._path = COMMIT_PATHS.load(path)(make_rule("dc-asgd"), layout, threads=1)
                self._path.prepare(mirrored=True)
                return
            except CompileError:
                continue

    def apply(self) -> float:
        """Its seconds."""
        begun = now()
        self._path.apply(self._weights, [self._part], mirrors=[self._down.flat])
        return now() - begun


class Side:
    """A bridge, its slots, and the end that the server or the worker of this host holds."""

    def __init__(self, side: str, parameters: int) -> None:
        layout = SlotLayout.holding(torch.float32, FlatLayout.of([torch.empty(parameters)]).size, {})
        self.down, self.up = Slot.make(layout, "down"), Slot.make(layout, "up")
        self.mine, other = ends()
        self.gone = threading.Event()
        known = {"down": self.down, "up": self.up, "speaks": "task"}
        self.bridge = Bridge(other, side=side, told=lambda *_: None, lost=lambda _: self.gone.set(), **known)


def answer(given: Told, credentials: Credentials) -> None:
    """As the server."""
    side = Side("server", given.parameters)
    listener = Listener(given.address, credentials, met=side.bridge.attach, patience=PATIENCE)
    commits = Commits(side.down, side.up, compiled=given.compiled)
    server = ServerEnd(side.mine)
    server.send(Order(0, 0, Lease(0, 0, 1)))
    try:
        while True:
            server.receive()
            took = commits.apply()
            server.send(Order(round(1e9 * took), 0, Lease(0, 0, 1)))  # in place of a version: what the commit took
    except (EOFError, OSError):
        side.bridge.close()
        listener.close()


def work(end: socket, down: SlotPass, up: SlotPass, asked: Connection) -> None:
    """In the worker's own process: a gradient that is written, but not computed."""
    torch.set_num_threads(1)
    server, weights, gradient = WorkerEnd(end), down.open(writable=False), up.open(writable=True)
    server.receive()
    while True:
        try:
            times = asked.recv()
        except EOFError:
            return
        exchanges: list[float] = []
        commits = []
        for _ in range(times):
            gradient.flat.fill_(GRADIENT)
            before = float(weights.flat[0])
            with counted(exchanges):
                server.send(Pushed(1, 0, 0.5, 1.0, 0.0))
                order = server.receive()
            assert order is not None
            commits.append(1e-9 * order.version)
            if not float(weights.flat[0]) < before:
                raise RuntimeError("a commit has changed nothing that came back")
        asked.send({"exchange": exchanges, "commit": commits})


def exchange(given: Told, credentials: Credentials) -> None:
    """As the worker's host."""
    side = Side("worker", given.parameters)
    asking, asked = get_context("spawn").Pipe()
    end, side.mine = side.mine, None  # the worker's from now on
    arguments = (end, SlotParcel(side.down), SlotParcel(side.up), asked)
    process = get_context("spawn").Process(target=work, args=arguments, daemon=True)
    process.start()
    end.close()
    asked.close()
    side.bridge.attach(patient_dial(given.address, credentials))

    def turn(times: int) -> dict[str, list[float]]:
        asking.send(times)
        found: dict[str, list[float]] = asking.recv()
        return found

    serve(turn)
    asking.close()
    process.join()
    side.bridge.close()


def main() -> None:
    given = told()
    torch.set_num_threads(1)
    (answer if given.is_server else exchange)(given, Credentials(given.secret, given.trusted))


if __name__ == "__main__":
    main()
