"""What runs in the processes of the local engine beside the server's: workers, and one that evaluates."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import forkserver, reduction
from multiprocessing.connection import Connection
from typing import Any

import torch

from tardigrad.blueprint import Blueprint
from tardigrad.engines.local.prebuilt import task_of
from tardigrad.engines.local.turns import Turn
from tardigrad.faults import PlannedFault
from tardigrad.records import Push, Snapshot
from tardigrad.transports.slots import Order, Pushed, Raised, Ready, Slot, SlotLayout, WorkerEnd
from tardigrad.worker import Worker

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class SlotPass:
    """A slot on its way into another process."""

    layout: SlotLayout
    descriptor: Any  # what multiprocessing makes of a descriptor that travels

    @classmethod
    def of(cls, slot: Slot) -> SlotPass:
        """To be made while a process is being started: the descriptor travels with it."""
        return cls(slot.layout, reduction.DupFd(slot.descriptor))

    def open(self, *, writable: bool) -> Slot:
        """In the other process: the same memory."""
        return Slot(self.layout, self.descriptor.detach(), writable=writable)


class SlotParcel:
    """A slot as an argument of a process: when it is pickled for its start, the descriptor is passed along."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def __reduce__(self) -> Any:
        """Become a `SlotPass`."""
        return _unpacked, (SlotPass.of(self._slot),)


def _unpacked(passed: SlotPass) -> SlotPass:
    return passed


@dataclass(frozen=True, slots=True)
class Duty:
    """What a worker process is told at its start.

    Attributes:
        worker: its number.
        blueprint: of the run, on this worker's device.
        speed: in (0, 1]: it sleeps until a gradient has taken 1 / speed times as long.
        turn: held while it computes, which others do in turn with it; None: it computes whenever it may.
    """

    worker: int
    blueprint: Blueprint
    speed: float = 1.0
    turn: Turn | None = None


def work(end: socket.socket, down: SlotPass, up: SlotPass, duty: Duty) -> None:
    """A worker's whole life: build, then answer orders until there are no more."""
    begin(duty.blueprint.threads)
    server = WorkerEnd(end)
    try:
        desk = _Desk(down, up, duty)
        server.send(Ready(desk.facts))
        while (order := server.receive()) is not None:
            with duty.turn or nullcontext():
                answer = desk.fulfil(order)
            server.send(answer)
    except BaseException as error:
        _report(server, error)
        raise SystemExit(1) from None


def begin(threads: int) -> None:
    """What every process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to hear
    die_with_parent()
    torch.set_num_threads(threads)


def die_with_parent() -> None:
    """Have the kernel end this process when the forkserver ends, which ends with the server: even one that hangs.

    The forkserver ends when the last copy of its lifeline is closed, and hands each child a copy, for children of its
    own. There will be none: the server's copy is to be the last.
    """
    own = getattr(forkserver, "_forkserver", None)
    lifeline = getattr(own, "_forkserver_alive_fd", None)
    if lifeline is not None:
        os.close(lifeline)
        own._forkserver_alive_fd = None  # type: ignore[union-attr]
    end_with_parent()
    if not select.select([multiprocessing.parent_process().sentinel], [], [], 0.0)[0]:  # type: ignore[union-attr]
        return
    raise SystemExit(1)  # the server ended before


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Desk:
    """A worker and the slots it works on."""

    def __init__(self, down: SlotPass, up: SlotPass, duty: Duty) -> None:
        self._duty = duty
        on_cuda = duty.blueprint.arithmetic.on_cuda
        self._down, self._up = down.open(writable=on_cuda), up.open(writable=True)
        blueprint, task = duty.blueprint, task_of(duty.blueprint)
        if on_cuda:
            self._down.pin()
            self._up.pin()
            self._body = blueprint.build_worker(task)
        else:
            self._body = blueprint.build_worker(task, weights=self._down.flat, gradient=self._up.flat)

    @property
    def facts(self) -> dict[str, Any]:
        """What the server compares with its own, and records."""
        return {
            "layout": self._body.layout.hash,
            "threads": torch.get_num_threads(),
            "computation": self._body.computation,
            "pid": os.getpid(),
        }

    def fulfil(self, order: Order) -> Pushed:
        """Compute a gradient, and leave it in the up slot."""
        since = time.perf_counter()
        if order.fault == "raise":
            raise PlannedFault("the chaos of this run says that this gradient raises")
        while order.fault == "hang":
            time.sleep(3600.0)
        push = self._body.compute(self._duty.worker, self._snapshot(order))
        self._hand_in(push, self._body)
        if order.fault == "corrupt":
            self._up.flat[0] = float("nan")
            push = Push(push.worker, push.gradient, loss=push.loss, norm=float("nan"))
        self._sleep(time.perf_counter() - since)
        assert push.loss is not None
        assert push.norm is not None
        return Pushed(order.version, order.incarnation, push.loss, push.norm, time.perf_counter() - since)

    def _snapshot(self, order: Order) -> Snapshot:
        flat, buffers = self._down.flat, self._down.buffers
        return Snapshot(order.version, [], order.lease, flat, buffers, order.incarnation)

    def _hand_in(self, push: Push, body: Worker) -> None:
        if push.gradient is not self._up.flat:
            self._up.flat.copy_(push.gradient, non_blocking=True)
        if push.buffers:
            places = [self._up.buffers[name] for name in push.buffers]
            torch._foreach_copy_(places, list(push.buffers.values()), non_blocking=True)
        if body.layout.device.type == "cuda":
            torch.cuda.synchronize(body.layout.device)

    def _sleep(self, seconds: float) -> None:
        """Be as slow as this worker is to be."""
        if self._duty.speed < 1.0:
            time.sleep(seconds * (1.0 / self._duty.speed - 1.0))


def _report(server: WorkerEnd, error: BaseException) -> None:
    """Tell the server what was raised, if it still listens."""
    if isinstance(error, (SystemExit, BrokenPipeError)):  # told to end, or nobody is there any more
        return
    words = "".join(traceback.format_exception(error))
    try:
        server.send(Raised(words))
    except OSError:
        print(words, file=sys.stderr)


def judge(connection: Connection, passed: SlotPass, blueprint: Blueprint) -> None:
    """The life of the process that evaluates: scores for every request, until there are no more."""
    begin(1)
    slot = passed.open(writable=False)
    evaluator = blueprint.build_evaluator(task_of(blueprint))
    while True:
        try:
            connection.recv_bytes()
        except (EOFError, OSError):
            return
        since = time.perf_counter()
        scores = evaluator.evaluate(slot.flat, slot.buffers)
        connection.send_bytes(json.dumps([scores, time.perf_counter() - since]).encode())
