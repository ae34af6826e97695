"""Remote shards: each in a process of whichever machine, with slots of its own for its range.

What workers of other machines bring and fetch goes there straight, over connections of their own. What a worker of the
server's machine does goes over the server's connection with the shard.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from tardigrad.backups import Memory
from tardigrad.errors import ProtocolError, ShardLost
from tardigrad.shards.far import TYPES, FarLink, Holder
from tardigrad.shards.links import Link, Opening
from tardigrad.shards.shard import ShardPlan
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import Listener, dial
from tardigrad.transports.parts import Desk
from tardigrad.transports.stream import Channel, Message, Piece

_QUESTIONS, _DESK = "questions", "desk"
_DIALLING = 20.0  # seconds


class ChannelPost:
    """Messages over a channel; tensors travel behind them.

    A thread receives, which keeps the line alive however long what is asked takes.

    Args:
        channel: owned by this object from now on.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._received: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._receive, name=f"post-{channel.peer}", daemon=True)
        self._thread.start()

    def send(self, word: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Send a message."""
        plain = [tensor.detach().contiguous() for tensor in tensors.values()]
        kinds = [[name, str(each.dtype), list(each.shape)] for name, each in zip(tensors, plain, strict=True)]
        pieces = [Piece("", each.view(-1).numpy().data.cast("B")) for each in plain if each.numel()]
        self._channel.send(word, {"content": dict(content), "tensors": kinds}, pieces)

    def receive(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """The next message; its tensors are the caller's own."""
        message = self._received.get()
        if isinstance(message, Exception):
            self._received.put(message)
            raise message
        blobs, tensors = iter(message.blobs), {}
        for name, kind, shape in message.content["tensors"]:
            if kind not in TYPES:
                raise ConnectionError(f"a tensor of numbers {kind!r}, which no shard holds")
            empty = torch.empty(shape, dtype=TYPES[kind])
            if empty.numel():
                read = torch.frombuffer(bytearray(next(blobs)), dtype=TYPES[kind])
                tensors[name] = read.view(shape)
            else:
                tensors[name] = empty
        return message.word, message.content["content"], tensors

    def close(self) -> None:
        """Close the channel; leaves no thread behind."""
        self._channel.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _receive(self) -> None:
        try:
            while True:
                self._received.put(self._channel.receive())
        except (EOFError, OSError) as error:
            self._received.put(error)
        except ProtocolError as error:
            self._received.put(ConnectionError(str(error)))


class RemoteLink(FarLink):
    """A shard that a `ShardHost` holds.

    Args:
        plan, weights, imports, ended: as of `FarLink`.
        address: of the host.
        credentials: to be proven there.

    Attributes:
        direct: workers that bring and fetch their parts themselves.
    """

    def __init__(
        self,
        plan: ShardPlan,
        weights: Tensor,
        *,
        address: str,
        credentials: Credentials,
        imports: Sequence[str] = (),
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.direct: set[int] = set()
        self._address, self._credentials = address, credentials
        post = ChannelPost(self._dialled(_QUESTIONS))
        super().__init__(plan, post, weights, imports=imports, ended=ended)

    def keep_in(self, worker: int, down: Memory, up: Memory) -> None:
        """Have the shard make slots of its own for this worker."""
        self.direct.discard(worker)
        self.send("make room", {"worker": worker})
        self.receive()

    def meet(self, address: str, credentials: Credentials) -> tuple[str, ChannelPost]:
        """Let workers bring and fetch their parts there; see `tardigrad.engines.local.sharding.ProcessLink.meet`.

        Args:
            address: not used: the shard listens where its host does, at a port of its own.
            credentials: to be proven by the workers.

        Returns:
            The address, and what carries the words of a `tardigrad.transports.parts.Desk`.
        """
        post = ChannelPost(self._dialled(_DESK))
        self.send("meet", {"secret": credentials.secret, "trusted": credentials.trusted})
        return str(self.receive()), post

    @property
    def apart(self) -> bool:
        """Its slots are its own."""
        return True

    def carries(self, worker: int) -> bool:
        """Whatever a worker does not bring and fetch itself."""
        return worker not in self.direct

    def _dialled(self, word: str) -> Channel:
        channel = dial(self._address, self._credentials, timeout=_DIALLING)
        channel.send(word)
        return channel


class ShardHost:
    """Holds one shard in this process for the server that dials, until it is gone. For a process or a Ray actor.

    Args:
        address: where it listens; ``"10.0.0.3:0"``: at any port of that address.
        credentials: that the server has to prove.

    Attributes:
        address: the actual one, to be given to `remote_shards`.
    """

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._channels = {word: queue.SimpleQueue[Channel]() for word in (_QUESTIONS, _DESK)}
        self._listener = Listener(address, credentials, met=self._met)
        self.address = self._listener.address

    def serve(self, *, patience: float = 600.0) -> None:
        """Hold a shard for whoever dials first, to its end.

        Args:
            patience: seconds in which somebody must dial.
        """
        try:
            with suppress(queue.Empty):
                RoomHolder(self, self._channels[_QUESTIONS].get(timeout=patience)).serve()
        finally:
            self._listener.close()

    def desk_channel(self) -> Channel:
        """On which the server says who comes."""
        return self._channels[_DESK].get(timeout=_DIALLING)

    def _met(self, channel: Channel) -> None:
        with suppress(EOFError, OSError, ProtocolError):
            word = channel.receive().word
            if word in self._channels:
                self._channels[word].put(channel)
                return
        channel.close()


class RoomHolder(Holder):
    """A holder who makes slots of its own.

    Args:
        host: of the shard.
        channel: on which the server asks.
    """

    def __init__(self, host: ShardHost, channel: Channel) -> None:
        super().__init__(ChannelPost(channel))
        self._host = host
        self._desk: Desk | None = None
        self._listener: Listener | None = None
        self._desk_post: ChannelPost | None = None
        self._hearing: threading.Thread | None = None

    def serve(self) -> None:
        """Answer until the server is gone; leaves no thread behind."""
        try:
            super().serve()
        finally:
            self._post.close()
            if self._listener is not None and self._desk is not None and self._desk_post is not None:
                self._listener.close()
                self._desk_post.close()
                self._desk.close()
            if self._hearing is not None:
                self._hearing.join()

    def do(self, word: str, content: dict[str, Any]) -> Any:
        """Do what a message says; see the base class."""
        if word == "make room" and self.shard is not None:
            layout = self.shard.plan.range.layout
            self.shard.keep_in(content["worker"], layout.zeros(), layout.zeros())
            return None
        if word == "meet" and self.shard is not None:
            return self._meet(Credentials(content["secret"], content["trusted"]))
        return super().do(word, content)

    def _meet(self, credentials: Credentials) -> str:
        assert self.shard is not None
        self._desk_post = post = ChannelPost(self._host.desk_channel())
        self._desk = desk = Desk(self.shard.memory, post)
        host = self._host.address.rpartition(":")[0]
        self._listener = Listener(f"{host}:0", credentials, met=desk.met)
        self._hearing = threading.Thread(target=desk.serve, name="desk", daemon=True)
        self._hearing.start()
        return self._listener.address


def remote_shards(
    addresses: Sequence[str],
    credentials: Credentials,
    *,
    imports: Sequence[str] = (),
    ended: Callable[[], None] = lambda: None,
) -> Opening:
    """Shards that hosts hold; one address for each shard but the first.

    Args:
        addresses: of `ShardHost`.
        credentials: to be proven there.
        imports: modules or files that register the rule.
        ended: called once for each of them, when it is needed no more; also where they cannot be built.
    """

    def opening(plans: Sequence[ShardPlan], weights: Sequence[Tensor]) -> Sequence[Link]:
        links: list[RemoteLink] = []
        try:
            for plan, flat, address in zip(plans, weights, addresses, strict=True):
                links.append(_linked(plan, flat, address, credentials, imports, ended))
            for link in links:
                link.built()
        except BaseException:
            for link in links:
                link.close()
            for _ in addresses[len(links) :]:
                ended()
            raise
        return links

    return opening


def _linked(
    plan: ShardPlan,
    weights: Tensor,
    address: str,
    credentials: Credentials,
    imports: Sequence[str],
    ended: Callable[[], None],
) -> RemoteLink:
    try:
        return RemoteLink(plan, weights, address=address, credentials=credentials, imports=imports, ended=ended)
    except OSError as error:
        raise ShardLost(plan.range.number, f"{address}: {error}") from error
