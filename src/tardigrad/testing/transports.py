"""The laws of a transport.

``check_transport`` connects places, hands slots over and back, breaks ends and lines, and names the law that does not
hold. Both places are driven from this process; where they are is the caller's to say, so that they may be two hosts.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep

import torch
from torch import Tensor

from tardigrad.records import Lease
from tardigrad.testing.laws import keep, require
from tardigrad.testing.leftovers import held_now, left_since
from tardigrad.transports.carrying import TRANSPORTS, Place, Site, Transport
from tardigrad.transports.slots import Answer, Order, Pushed, Raised, Ready, ServerEnd, Slot, SlotLayout, WorkerEnd

_SIZES = {
    "one number": SlotLayout.holding(torch.float32, 1, {}),
    "no number": SlotLayout.holding(torch.float32, 0, {}),
    "buffers": SlotLayout.holding(
        torch.float32,
        1000,
        {"mean": torch.zeros(7), "none": torch.zeros(0, 3), "count": torch.zeros((), dtype=torch.int64)},
    ),
    "double": SlotLayout.holding(torch.float64, 333, {}),
    "large": SlotLayout.holding(torch.float32, 400_001, {"mean": torch.zeros(5)}),
}
_LONG = SlotLayout.holding(torch.float32, 4_000_037, {})  # takes so long that a line is lost in the middle of it
_EXCHANGES, _INTERRUPTIONS, _WORKERS = 20, 5, 3
_PERIOD = 65521  # bytes; a prime, so that no part of a slot looks like the one that a chunk further on


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is checked, where, and how long it may take to say something, in seconds."""

    name: str
    site: Site
    patience: float

    @contextmanager
    def open(self, layout: SlotLayout = _SIZES["buffers"]) -> Iterator[Transport]:
        """A transport for slots of this layout."""
        transport = TRANSPORTS.load(self.name)(layout, self.site)
        try:
            yield transport
        finally:
            transport.close()

    def connect(self, transport: Transport) -> _Pair:
        """A worker, and its server."""
        pair = _Pair(*transport.connect())
        for place in (pair.server, pair.worker):
            place.end.settimeout(self.patience)
        return pair


@dataclass(frozen=True, slots=True)
class _Pair:
    """A server's place and its worker's."""

    server: Place
    worker: Place

    def order(self, order: Order) -> None:
        """Send it, and require that it arrives."""
        ServerEnd(self.server.end).send(order)
        self.require_order(order)

    def require_order(self, order: Order) -> None:
        """It is the next that the worker hears."""
        found = WorkerEnd(self.worker.end).receive()
        require(found == order, f"the order {order} was sent, and {found} came.")

    def answer(self, answer: Answer) -> None:
        """Send it, and require that it arrives."""
        WorkerEnd(self.worker.end).send(answer)
        self.require_answer(answer)

    def require_answer(self, answer: Answer) -> None:
        """It is the next that the server hears."""
        try:
            found: object = ServerEnd(self.server.end).receive()
        except (EOFError, OSError) as error:
            found = repr(error)
        require(found == answer, f"the answer {answer} was sent, and {found} came.")

    def exchange(self, number: int) -> None:
        """Weights down and a gradient up, by number."""
        _fill(self.server.down, number)
        self.order(_order(number))
        _require_filled(self.worker.down, number, "down")
        _fill(self.worker.up, -number)
        self.answer(_pushed(number))
        _require_filled(self.server.up, -number, "up")

    def require_silence(self) -> None:
        """Nothing more is heard at either place."""
        for what, place in (("server", self.server), ("worker", self.worker)):
            place.end.settimeout(0.05)
            try:
                found = place.end.recv(65536)
            except TimeoutError:
                continue
            require(False, f"the {what} hears {found[:20]!r} once more, or its end was closed.")


def check_transport(
    name: str, *, laws: Collection[str] | None = None, site: Site | None = None, patience: float = 30.0
) -> None:
    """Raise AssertionError, with a sentence, at the first law that the transport breaks.

    Args:
        name: of a registered transport.
        laws: which to check, out of `TRANSPORT_LAWS`; all by default.
        site: where its two places are; by default both are on this machine.
        patience: seconds after which what does not come is missing.
    """
    bench = _Bench(name, site or Site(), patience)
    keep(f"the transport {name!r}", TRANSPORT_LAWS, laws, bench)


# -- messages and slots ------------------------------------------------------------------------------------------------


def _messages_arrive_in_order_and_once(bench: _Bench) -> None:
    """Orders and answers, also several that wait, arrive as they were sent; none is lost, doubled or made up."""
    answers: list[Answer] = [Ready({"pid": 7, "layout": "ü"}), Raised("Traceback: ü" * 1000), *map(_pushed, range(20))]
    with bench.open() as transport:
        pair = bench.connect(transport)
        for number in range(_EXCHANGES):
            pair.order(_order(number))
        for answer in answers:
            WorkerEnd(pair.worker.end).send(answer)
        for answer in answers:
            pair.require_answer(answer)
        pair.require_silence()


def _slots_arrive_as_they_were_handed_over(bench: _Bench) -> None:
    """With an order the down slot, with a gradient the up slot: every byte, buffers too, for slots of all sizes."""
    for size, layout in _SIZES.items():
        with bench.open(layout) as transport:
            pair = bench.connect(transport)
            try:
                for number in range(3):
                    pair.exchange(number)
            except AssertionError as error:
                raise AssertionError(f"with {size}: {error}") from error


def _a_message_comes_after_its_slot(bench: _Bench) -> None:
    """When a message is there, so is what it hands over: looked at as soon as it comes, over and over."""
    with bench.open(_SIZES["large"]) as transport:
        pair = bench.connect(transport)
        for number in range(1, _EXCHANGES + 1):
            pair.server.down.flat.fill_(number)
            pair.order(_order(number))
            found = pair.worker.down.flat[[0, -1]].tolist()
            require(found == [number] * 2, f"order {number} came before its weights: {found}.")
            pair.worker.up.flat.fill_(-number)
            pair.answer(_pushed(number))
            found = pair.server.up.flat[[0, -1]].tolist()
            require(found == [-number] * 2, f"push {number} came before its gradient: {found}.")


def _workers_are_apart(bench: _Bench) -> None:
    """Several workers exchange at the same time, each over slots of its own; the end of one ends no other."""
    found: list[str] = []

    def drive(pair: _Pair, first: int) -> None:
        try:
            for number in range(_EXCHANGES):
                pair.exchange(first + number)
        except (AssertionError, OSError) as error:
            found.append(str(error))

    with bench.open() as transport:
        pairs = [bench.connect(transport) for _ in range(_WORKERS)]
        threads = [threading.Thread(target=drive, args=(pair, 1000 * each)) for each, pair in enumerate(pairs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        require(not found, f"together: {found[:1]}.")
        for each, pair in enumerate(pairs):
            pair.exchange(each)
        for each, pair in enumerate(pairs):
            _require_filled(pair.server.up, -each, "up")
        pairs[0].worker.end.close()
        _require_end(pairs[0].server, "worker")
        for pair in pairs[1:]:
            pair.exchange(1)


# -- ends --------------------------------------------------------------------------------------------------------------


def _an_end_is_seen_after_the_last_message(bench: _Bench) -> None:
    """What was said before an end was closed arrives, then the end; at the worker's place and at the server's."""
    with bench.open() as transport:
        pair = bench.connect(transport)
        WorkerEnd(pair.worker.end).send(Raised("why"))
        pair.worker.end.close()
        pair.require_answer(Raised("why"))
        _require_end(pair.server, "worker")
    with bench.open() as transport:
        pair = bench.connect(transport)
        ServerEnd(pair.server.end).send(_order(1))
        pair.server.end.close()
        pair.require_order(_order(1))
        _require_end(pair.worker, "server")


def _a_killed_worker_is_seen(bench: _Bench) -> None:
    """A process that holds the worker's end is killed: the server hears the end of it."""
    with bench.open() as transport:
        pair = bench.connect(transport)
        pair.exchange(1)
        end = pair.worker.end
        wait = [sys.executable, "-S", "-E", "-c", "import sys; print(flush=True); sys.stdin.read()"]
        pipe = subprocess.PIPE
        with subprocess.Popen(wait, stdin=pipe, stdout=pipe, pass_fds=[end.fileno()]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            end.close()
            process.kill()
            _require_end(pair.server, "worker")


def _a_lost_line_changes_nothing(bench: _Bench) -> None:
    """Lines are lost in the middle of orders and gradients: all of them arrive, in order and once."""
    with bench.open(_LONG) as transport:
        pair = bench.connect(transport)

        def order(number: int) -> None:
            _fill(pair.server.down, number)
            ServerEnd(pair.server.end).send(_order(number))
            _await_begin(pair.worker.down, number, bench.patience)

        def push(number: int) -> None:
            _fill(pair.worker.up, -number)
            WorkerEnd(pair.worker.end).send(_pushed(number))
            _await_begin(pair.server.up, -number, bench.patience)

        for number in range(1, _INTERRUPTIONS + 1):
            transport.interrupt(0, partial(order, number))
            pair.require_order(_order(number))
            _require_filled(pair.worker.down, number, "down")
            transport.interrupt(0, partial(push, number))
            pair.require_answer(_pushed(number))
            _require_filled(pair.server.up, -number, "up")
        pair.require_silence()


def _nothing_is_left_behind(bench: _Bench) -> None:
    """No thread, descriptor, process or memory is left, whether ends were closed before or not."""
    before = held_now()
    _use_and_leave(bench)
    left = left_since(before)
    require(not left, f"left behind: {', '.join(left)}.")


def _use_and_leave(bench: _Bench) -> None:
    with bench.open() as transport:
        pairs = [bench.connect(transport) for _ in range(_WORKERS)]
        pairs[0].exchange(1)
        pairs[1].worker.end.close()
        pairs[2].server.end.close()
        transport.interrupt(0)


TRANSPORT_LAWS: Mapping[str, Callable[[_Bench], None]] = {
    "messages arrive in order and once": _messages_arrive_in_order_and_once,
    "slots arrive as they were handed over": _slots_arrive_as_they_were_handed_over,
    "a message comes after its slot": _a_message_comes_after_its_slot,
    "workers are apart": _workers_are_apart,
    "an end is seen after the last message": _an_end_is_seen_after_the_last_message,
    "a killed worker is seen": _a_killed_worker_is_seen,
    "a lost line changes nothing": _a_lost_line_changes_nothing,
    "nothing is left behind": _nothing_is_left_behind,
}
"""Every law by the sentence that names it."""


def _require_end(place: Place, whose: str) -> None:
    """The next that is heard at this place is the end of the other one."""
    try:
        found = place.end.recv(65536)
    except TimeoutError:
        found = b"nothing"
    except OSError:
        found = b""
    require(not found, f"the {whose}'s end was closed, and {found[:20]!r} is heard.")


def _order(number: int) -> Order:
    return Order(number, number % 3, Lease(1, 16 * number, 16 * number + 16))


def _pushed(number: int) -> Pushed:
    return Pushed(number, number % 3, 0.1 * number, 1e-300, 12.5)


def _tensors(slot: Slot) -> list[Tensor]:
    return [slot.flat, *slot.buffers.values()]


def _content(slot: Slot, number: int) -> list[Tensor]:
    """What this number stands for, byte by byte: all patterns of bits, not only numbers."""
    found = []
    for place, tensor in enumerate(_tensors(slot)):
        count = tensor.numel() * tensor.element_size()
        period = (torch.arange(_PERIOD) * 131 + 7 * place + number * 29).to(torch.uint8)
        pattern = period.repeat(-(-count // _PERIOD))[:count]
        found.append(pattern.view(tensor.dtype).view(tensor.shape))
    return found


def _fill(slot: Slot, number: int) -> None:
    for tensor, content in zip(_tensors(slot), _content(slot, number), strict=True):
        tensor.copy_(content)


def _await_begin(slot: Slot, number: int, patience: float) -> None:
    """Wait until the first of what this number stands for lies in the slot; the rest may be on its way."""
    first, found = (one[:1].view(torch.uint8) for one in (_content(slot, number)[0], slot.flat))
    until = monotonic() + patience
    while not torch.equal(found, first):
        require(monotonic() < until, f"nothing came of what was handed over as {number}.")
        sleep(0)


def _require_filled(slot: Slot, number: int, name: str) -> None:
    for tensor, content in zip(_tensors(slot), _content(slot, number), strict=True):
        same = torch.equal(tensor.reshape(-1).view(torch.uint8), content.reshape(-1).view(torch.uint8))
        require(same, f"the {name} slot holds something else than was handed over as {number}.")
