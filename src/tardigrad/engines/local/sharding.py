"""Shards of the local engine: processes of this machine, each with its range of the weights, on the workers' own slots.

A worker's slots are shared with them by descriptor. So each applies its part of a gradient from where the worker wrote
it, and writes its part of the next weights to where the worker reads them: nothing more travels than with one server.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from torch import Tensor

from tardigrad.backups import Memory
from tardigrad.children import CHILD
from tardigrad.engines.local.nursery import context, importable_main
from tardigrad.engines.local.processes import begin
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.shards.far import TYPES, FarLink, Holder
from tardigrad.shards.links import Link, Opening
from tardigrad.shards.shard import Shard, ShardPlan
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import Listener
from tardigrad.transports.parts import Desk
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import Slot, SlotLayout, ends

_PATIENCE = 600.0  # seconds for one answer: to compile takes the longest
_GRACE = 5.0  # seconds for a process that was told to end


class SocketPost:
    """Messages over a pair of sockets; tensors lie in memory whose descriptor goes along.

    Args:
        end: of the pair; owned by this object from now on.

    Attributes:
        descriptors: that came with the last message and hold no tensors; whoever takes one removes it.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end, self._wire = end, Wire(end)
        self.descriptors: list[int] = []

    def send(
        self,
        word: str,
        content: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send a message; descriptors stay the caller's."""
        if not tensors:
            self._wire.send(word, {"content": content}, descriptors)
            return
        layout = SlotLayout.holding(torch.float32, 0, tensors)
        slot = Slot.make(layout, "message")
        try:
            for name, tensor in tensors.items():
                slot.buffers[name].copy_(tensor)
            places = [[name, str(dtype), shape, offset] for name, dtype, shape, offset in layout.buffers]
            whole = {"content": content, "places": places, "size": layout.size}
            self._wire.send(word, whole, [slot.descriptor, *descriptors])
        finally:
            slot.close()

    def receive(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """The next message; its tensors are the caller's own."""
        word, whole, descriptors = self._wire.receive()
        self._drop()
        tensors: dict[str, Tensor] = {}
        if "places" in whole:
            places = tuple((name, TYPES[dtype], tuple(shape), offset) for name, dtype, shape, offset in whole["places"])
            slot = Slot(SlotLayout(torch.float32, 0, places, whole["size"]), descriptors.pop(0))
            slot.close()
            tensors = dict(slot.buffers)
        self.descriptors = descriptors
        return word, whole["content"], tensors

    def close(self) -> None:
        """Close this end."""
        self._drop()
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # whoever waits for a message comes back
        self._wire.close()

    def _drop(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class ProcessLink(FarLink):
    """A shard in a process of this machine.

    Args:
        plan, weights, imports: as of `FarLink`.
    """

    def __init__(self, plan: ShardPlan, weights: Tensor, *, imports: Sequence[str]) -> None:
        mine, theirs = ends()
        self._process = context().Process(
            target=hold, args=(theirs,), name=f"{CHILD}shard-{plan.range.number}", daemon=True
        )
        with importable_main():
            self._process.start()
        theirs.close()
        mine.settimeout(_PATIENCE)
        self._socket = SocketPost(mine)
        super().__init__(plan, self._socket, weights, imports=imports, ended=lambda: _reap(self._process))

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid or 0

    def keep_in(self, worker: int, down: Memory, up: Memory) -> None:
        """Share both with the process."""
        whole = {"worker": worker, "size": down.flat.numel()}
        try:
            self._socket.send("keep in", whole, {}, [down.descriptor, up.descriptor])
        except OSError as error:
            raise self._lost(error) from error
        self.receive()

    def meet(self, address: str, credentials: Credentials) -> tuple[str, SocketPost]:
        """Let workers of other machines bring and fetch their parts there.

        Args:
            address: where the process listens.
            credentials: to be proven.

        Returns:
            The actual address, and what carries the words of a `tardigrad.transports.parts.Desk`.
        """
        mine, theirs = ends()
        content = {"address": address, "secret": credentials.secret, "trusted": credentials.trusted}
        try:
            self._socket.send("meet", content, {}, [theirs.fileno()])
        except OSError as error:
            raise self._lost(error) from error
        finally:
            theirs.close()
        return str(self.receive()), SocketPost(mine)

    def carries(self, worker: int) -> bool:
        """The process sees every worker's slots."""
        return False


class SlotHolder(Holder):
    """A holder to whom slots come by descriptor."""

    def __init__(self, post: SocketPost) -> None:
        super().__init__(post)
        self._socket = post
        self._listener: Listener | None = None

    def do(self, word: str, content: dict[str, Any]) -> Any:
        """Do what a message says; see the base class."""
        if word == "keep in":
            return self._keep_in(content["worker"], content["size"])
        if word == "meet":
            return self._meet(content)
        return super().do(word, content)

    def _keep_in(self, worker: int, size: int) -> None:
        shard = self._shard_with(descriptors=2)
        part = shard.plan.range
        dtype = part.layout.dtype
        layout = SlotLayout(dtype, size, (), size * dtype.itemsize)
        down, up = (Slot(layout, self._socket.descriptors.pop(0)) for _ in range(2))
        for slot in (down, up):
            slot.close()
        shard.keep_in(worker, part.of(down.flat), part.of(up.flat))

    def _meet(self, content: Mapping[str, Any]) -> str:
        shard = self._shard_with(descriptors=1)
        post = SocketPost(socket.socket(fileno=self._socket.descriptors.pop()))
        desk, address = Desk(shard.memory, post), content["address"]
        try:
            self._listener = Listener(address, Credentials(content["secret"], content["trusted"]), met=desk.met)
        except OSError as error:
            raise InvalidArgument(
                f"shard {shard.plan.range.number} cannot wait for workers at {address} ({error}). Shard k listens at "
                "the run's port + k: name another port, such as --listen :7170; with port 0 each takes any."
            ) from error
        threading.Thread(target=desk.serve, name="desk", daemon=True).start()
        return self._listener.address

    def _shard_with(self, *, descriptors: int) -> Shard:
        if self.shard is None or len(self._socket.descriptors) != descriptors:
            raise ProtocolError("memory came before there was a shard, or not as much as was said.")
        return self.shard


def shard_processes(imports: Sequence[str] = ()) -> Opening:
    """Shards as processes of this machine.

    Args:
        imports: modules or files that register the rule, as of `tardigrad.config.RunConfig`.
    """

    def opening(plans: Sequence[ShardPlan], weights: Sequence[Tensor]) -> Sequence[Link]:
        links: list[ProcessLink] = []
        try:
            for plan, flat in zip(plans, weights, strict=True):
                links.append(ProcessLink(plan, flat, imports=imports))
            for link in links:
                link.built()
        except BaseException:
            for link in links:
                with suppress(OSError):
                    link.close()
            raise
        return links

    return opening


def hold(end: socket.socket) -> None:
    """The life of a process that holds a shard."""
    begin(1)
    SlotHolder(SocketPost(end)).serve()


def _reap(process: ForkServerProcess) -> None:
    process.join(_GRACE)
    if process.is_alive():
        process.kill()
        process.join()
