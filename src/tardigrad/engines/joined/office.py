"""Office: the server's side of what travels straight between workers and the shards beside the first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tardigrad.engines.joined.remote import RemoteLink
from tardigrad.engines.local.sharding import ProcessLink
from tardigrad.errors import ProtocolError
from tardigrad.server import ParameterServer
from tardigrad.shards.far import Post
from tardigrad.shards.server import ShardedServer
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import parse_address
from tardigrad.transports.parts import Elsewhere, Tally, bytes_of_first


class Office:
    """Tells the shards of workers that come from elsewhere, and hears of the parts that they bring.

    Args:
        posts: one to the desk of each shard but the first; see `tardigrad.transports.parts.Desk`.
        elsewhere: what each of them holds, and where it listens.
        direct: of shards with slots of their own, the workers that bring and fetch their parts themselves.
        gone: told the number of a shard that is not there any more, in a thread of this object; not after `close`.
    """

    def __init__(
        self,
        posts: Sequence[Post],
        elsewhere: Sequence[Elsewhere],
        direct: Sequence[set[int]] = (),
        *,
        gone: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.elsewhere, self._direct, self._gone = tuple(elsewhere), list(direct), gone
        self._posts = list(posts)
        self._closing = False
        self._lives: dict[str, ServerParts] = {}
        self._lock = threading.Lock()
        self._readers = [
            threading.Thread(target=self._read, args=(key,), name=f"office-{key + 1}", daemon=True)
            for key in range(len(posts))
        ]
        for reader in self._readers:
            reader.start()

    def parts_of(self, worker: int, life: str) -> ServerParts:
        """For the bridge of one life of a worker, whose slots the shards know."""
        found = ServerParts(self, worker, life)
        with self._lock:
            self._lives[life] = found
        for workers in self._direct:
            workers.add(worker)
        self.say("expect", {"life": life, "worker": worker})
        return found

    def say(self, word: str, content: Mapping[str, Any]) -> None:
        """Tell every shard; one that is gone is noticed where it is heard."""
        for post in self._posts:
            with suppress(OSError):
                post.send(word, content, {})

    def forget(self, life: str) -> None:
        """This life has ended."""
        with self._lock:
            self._lives.pop(life, None)
        self.say("forget", {"life": life})

    def close(self) -> None:
        """Hear nothing any more; leaves no thread behind."""
        self._closing = True
        for post in self._posts:
            post.close()
        for reader in self._readers:
            reader.join()

    def _read(self, key: int) -> None:
        with suppress(EOFError, OSError, ProtocolError, KeyError, TypeError):
            while True:
                word, content, _ = self._posts[key].receive()
                with self._lock:
                    life = self._lives.get(content["life"])
                if life is not None:
                    life.hear(key, word, content)
        if not self._closing:  # what it would have reported nobody waits for any more: the run ends
            self._gone(key + 1)


class ServerParts:
    """The server's side of one life of a worker: a `tardigrad.transports.bridge.Parts`.

    Args:
        office: that reaches the shards.
        worker, life: whose it is.

    Attributes:
        lost: called when a shard has lost its connection with the worker, in a thread of the office.
    """

    def __init__(self, office: Office, worker: int, life: str) -> None:
        self.worker, self.life = worker, life
        self.lost: Callable[[], None] = lambda: None
        self._office = office
        self._tally = Tally(range(len(office.elsewhere)))

    def hear(self, key: int, word: str, content: Mapping[str, Any]) -> None:
        """What a shard reports of this life."""
        if word == "in":
            self._tally.note(key, content["number"])
            return
        self._tally.lose(key, lost=word == "lost")
        if word == "lost":
            self.lost()

    def mine(self, size: int) -> list[slice]:
        """See `Parts`."""
        return bytes_of_first(self._office.elsewhere, size)

    def ship(self, number: int) -> None:
        """See `Parts`."""
        self._office.say("ship", {"life": self.life, "number": number})

    def arrived(self, number: int, meanwhile: Callable[[], None] = lambda: None, every: float | None = None) -> bool:
        """See `Parts`."""
        return self._tally.wait(number, meanwhile, every)

    def wake(self) -> None:
        """See `Parts`."""
        self._tally.wake()

    def close(self) -> None:
        """See `Parts`."""
        self._tally.close()
        self._office.forget(self.life)


def office_of(
    server: ParameterServer, listen: str, credentials: Credentials, gone: Callable[[int], None]
) -> Office | None:
    """Let the shards of a server, but the first, receive workers of other machines; None where there is one server.

    Args:
        server: of the run, with shards that are processes of this machine.
        listen: where the run's server listens; shard k does so at its port + k, or at any free one where that is 0.
        credentials: to be proven.
        gone: told of a shard that is not there any more; see `Office`.

    Raises:
        InvalidArgument: the port of a shard is in use.
    """
    if not isinstance(server, ShardedServer):
        return None
    host, port = parse_address(listen)
    width = server.layout.dtype.itemsize
    posts: list[Post] = []
    elsewhere = []
    try:
        for link in server.links[1:]:
            if not isinstance(link, (ProcessLink, RemoteLink)):
                return None
            part = link.plan.range
            name = f"[{host}]" if ":" in host else host
            address, post = link.meet(f"{name}:{port + part.number if port else 0}", credentials)
            posts.append(post)
            reached = address if link.apart else f":{parse_address(address)[1]}"
            elsewhere.append(Elsewhere(reached, part.start * width, part.stop * width))
    except BaseException:
        for each in posts:
            each.close()
        raise
    remote = [link.direct for link in server.links if isinstance(link, RemoteLink)]
    return Office(posts, elsewhere, remote, gone=gone)
