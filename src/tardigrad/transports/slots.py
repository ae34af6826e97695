"""Slots: server and worker on one machine, by shared memory.

Each worker has two slots. In the *down slot* the server writes what a pull hands out: weights and model buffers; the
worker's parameters are views of it, and it is the worker's backup. In the *up slot* the worker writes what a push
hands in: gradient and model buffers. Beside them travel messages of some dozen bytes, and their order says whose turn
a slot is: from order to answer the worker's, from answer to order the server's.

Messages go over a pair of sockets that keep them apart (SOCK_SEQPACKET): one system call sends one, one receives it,
and the kernel tells of the other end's closing, however it came about. What a small exchange costs beside its commit is
two processes woken by the kernel; a second call for each message would be a quarter more.

A slot is a memfd, passed by descriptor: it has no name that could be left behind, and no limit but memory.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import socket
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tardigrad.errors import ProtocolError
from tardigrad.layout import FlatLayout
from tardigrad.records import Lease
from tardigrad.transports.requests import LARGEST, json_of

_ALIGNMENT = 64  # bytes; as torch aligns what it allocates
_ORDER = struct.Struct("<5qB")  # version, incarnation, epoch, start, stop, fault
_PUSH = struct.Struct("<2qddd")  # version, incarnation, loss, norm, seconds
_PUSHED, _READY, _RAISED = b"p", b"r", b"x"
FAULTS = ("", "raise", "hang", "corrupt")


@dataclass(frozen=True, slots=True)
class Order:
    """Server to worker: compute the gradient of this lease at what the down slot holds.

    Attributes:
        version, incarnation: of the snapshot.
        lease: the samples.
        fault: what is to go wrong on purpose: one of `FAULTS`.
    """

    version: int
    incarnation: int
    lease: Lease
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """Worker to server: the up slot holds the gradient.

    Attributes:
        version, incarnation: of the order.
        loss, norm: of batch and gradient.
        seconds: that the gradient took.
    """

    version: int
    incarnation: int
    loss: float
    norm: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to server: it is built; what it found there, by name."""

    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Raised:
    """Worker to server: its code raised; it ends."""

    traceback: str


Answer = Pushed | Ready | Raised


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """Where what stands in a slot: the flat buffer first, then each model buffer.

    Attributes:
        dtype, elements: of the flat buffer.
        buffers: (name, dtype, shape, offset in bytes) of each model buffer.
        size: in bytes.
    """

    dtype: torch.dtype
    elements: int
    buffers: tuple[tuple[str, torch.dtype, tuple[int, ...], int], ...]
    size: int

    @classmethod
    def of(cls, layout: FlatLayout, buffers: Mapping[str, Tensor]) -> SlotLayout:
        """For weights of this layout and a model with these buffers."""
        return cls.holding(layout.dtype, layout.size, buffers)

    @classmethod
    def holding(cls, dtype: torch.dtype, elements: int, buffers: Mapping[str, Tensor]) -> SlotLayout:
        """For so many numbers in one piece, and these buffers."""
        end = aligned(elements * dtype.itemsize)
        places = []
        for name, tensor in buffers.items():
            places.append((name, tensor.dtype, tuple(tensor.shape), end))
            end = aligned(end + tensor.numel() * tensor.element_size())
        return cls(dtype, elements, tuple(places), max(end, _ALIGNMENT))


class Slot:
    """One piece of shared memory: a flat buffer and the model's buffers.

    Args:
        layout: of the slot.
        descriptor: of the memfd, owned by this object from now on.
        writable: False maps it for reading only: a write ends the process that tries.

    Attributes:
        flat: shape (elements,), a view of the memory.
        buffers: by name, views of the memory.
    """

    def __init__(self, layout: SlotLayout, descriptor: int, *, writable: bool = True) -> None:
        self.layout = layout
        self.descriptor = descriptor
        how = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(descriptor, layout.size, mmap.MAP_SHARED, how)
        self.flat = self._view(layout.dtype, (layout.elements,), 0)
        self.buffers = {name: self._view(dtype, shape, place) for name, dtype, shape, place in layout.buffers}

    @classmethod
    def make(cls, layout: SlotLayout, name: str) -> Slot:
        """A new one, all zeros; ``name`` shows in /proc only."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(descriptor, layout.size)
        return cls(layout, descriptor)

    @property
    def memory(self) -> memoryview:
        """All its bytes, as they lie."""
        return memoryview(self._memory)

    def close(self) -> None:
        """Close the descriptor. The memory goes when the last view of it in any process does."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def pin(self) -> None:
        """Lock the memory for a GPU's direct access, which makes copies to and from it faster."""
        pointer = self.flat.data_ptr()
        code = torch.cuda.cudart().cudaHostRegister(pointer, self.layout.size, 0)  # type: ignore[no-untyped-call]
        if int(code) != 0:
            warnings.warn(f"the slot cannot be pinned (CUDA error {int(code)}); copies are slower.", stacklevel=2)

    def _view(self, dtype: torch.dtype, shape: tuple[int, ...], place: int) -> Tensor:
        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=place).view(shape)


def ends() -> tuple[socket.socket, socket.socket]:
    """Two ends for messages between a server and one worker; either may travel to another process as it is started."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class ServerEnd:
    """The server's end: orders go out, answers come in."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """To be waited for by a selector: readable where an answer or the other end's closing is there."""
        return self._end.fileno()

    def send(self, order: Order) -> None:
        """Give an order.

        Raises:
            OSError: the worker's end is closed.
        """
        lease = order.lease
        fault = FAULTS.index(order.fault) if order.fault else 0
        self._end.send(_ORDER.pack(order.version, order.incarnation, lease.epoch, lease.start, lease.stop, fault))

    def receive(self) -> Answer:
        """The next answer, waited for.

        Raises:
            EOFError, OSError: the worker's end is closed.
            ProtocolError: for bytes that are no answer.
        """
        message = self._end.recv(LARGEST)
        if not message:
            raise EOFError
        return answer_of(message)

    def close(self) -> None:
        """Close it: the worker ends."""
        self._end.close()


class WorkerEnd:
    """The worker's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def receive(self) -> Order | None:
        """Wait for an order; None: the server wants no more.

        Raises:
            ProtocolError: for bytes that are no order.
        """
        try:
            message = self._end.recv(LARGEST)
        except OSError:
            return None
        return _order(message) if message else None

    def send(self, answer: Answer) -> None:
        """Answer. Of a traceback that is too long the middle is left out.

        Raises:
            OSError: the server's end is closed.
            ProtocolError: for facts that are too long.
        """
        if isinstance(answer, Pushed):
            body = _PUSH.pack(answer.version, answer.incarnation, answer.loss, answer.norm, answer.seconds)
            self._end.send(_PUSHED + body)
        elif isinstance(answer, Ready):
            self._end.send(_fitting(_READY + json.dumps(dict(answer.facts)).encode()))
        else:
            self._end.send(_RAISED + _shortened(answer.traceback.encode()))


def hands_in(message: bytes) -> bool:
    """Whether this message of a worker says that the up slot holds a gradient."""
    return message[:1] == _PUSHED


def answer_of(message: bytes) -> Answer:
    """What a worker said in one message. Raises ProtocolError for bytes that are no answer."""
    kind, body = message[:1], message[1:]
    if kind == _PUSHED and len(body) == _PUSH.size:
        return Pushed(*_PUSH.unpack(body))
    if kind == _READY:
        return Ready(_facts(body))
    if kind == _RAISED:
        return Raised(body.decode(errors="replace"))
    raise ProtocolError(f"a message of {len(message)} bytes beginning with {message[:8]!r} is no answer of a worker.")


def _facts(body: bytes) -> dict[str, Any]:
    facts = json_of(body)
    if not isinstance(facts, dict):
        raise ProtocolError(f"a worker says that it found {str(facts)[:16]!r}, which is no dict of facts.")
    return facts


def _order(message: bytes) -> Order:
    if len(message) != _ORDER.size or message[-1] >= len(FAULTS):
        raise ProtocolError(f"a message of {len(message)} bytes ending in {message[-8:]!r} is no order of a server.")
    version, incarnation, epoch, start, stop, fault = _ORDER.unpack(message)
    return Order(version, incarnation, Lease(epoch, start, stop), FAULTS[fault])


def _fitting(message: bytes) -> bytes:
    if len(message) > LARGEST:
        raise ProtocolError(f"a message of {len(message)} bytes is longer than the {LARGEST} that one may have.")
    return message


def _shortened(text: bytes) -> bytes:
    """Its beginning, and more of its end: there a traceback says what was raised."""
    if len(text) < LARGEST:
        return text
    return text[: LARGEST // 4] + b"\n[...]\n" + text[-LARGEST // 2 :]


def aligned(size: int) -> int:
    """The next multiple of what everything in a slot is aligned to, in bytes."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
