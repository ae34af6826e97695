"""The cluster: one that runs already, or one of its own on this machine that ends with the run."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import ray

from tardigrad.engines.base import Meeting
from tardigrad.engines.ray.needs import Needs
from tardigrad.errors import InvalidArgument

_STORE = 100 << 20  # bytes for Ray's objects in a cluster of one's own: what travels here goes past it
_CLIENT = "ray://"


class Cluster:
    """This process's connection to a Ray cluster.

    Where it has one already (in a job that Ray runs, or after ``ray.init``) that is used, and stays.

    Args:
        wish: what is asked of it.

    Attributes:
        ip: where the workers reach this process: of this node, or 127.0.0.1 in a cluster of its own.
        is_held: whether anybody needs it.

    Raises:
        InvalidArgument: there is no such cluster; or it would never have what is asked for.
    """

    def __init__(self, wish: Wish) -> None:
        self._holders, self._wish = 0, wish
        self._begun = not ray.is_initialized()
        self._own = self._begun and not wish.address
        if self._own:
            _start(wish)
        elif self._begun:
            _connect(wish)
        else:
            _require_brought(wish.needs)
        self.ip: str = "127.0.0.1" if self._own else ray.util.get_node_ip_address()

    @property
    def is_held(self) -> bool:
        """See above."""
        return self._holders > 0

    def hold(self) -> Self:
        """One more needs it."""
        self._holders += 1
        return self

    def close(self) -> None:
        """One less needs it: with the last, give up the connection, and end the cluster, if they began here."""
        self._holders -= 1
        if self._holders <= 0:
            self.end()

    def end(self) -> None:
        """Give up the connection, and end the cluster, if they began here."""
        global _open
        _open = None if _open is self else _open
        if self._begun and ray.is_initialized():
            ray.shutdown()
        self._begun = False

    def serves(self, wish: Wish) -> bool:
        """Whether it is what another run asks for.

        Raises:
            InvalidArgument: it is not, and still needed by somebody else.
        """
        if wish == self._wish:
            return True
        if not self.is_held:
            return False
        if self._begun and wish.address != self._wish.address:
            here, there = (each or "one of its own" for each in (self._wish.address, wish.address))
            raise InvalidArgument(f"another run of this process still has a Ray cluster: {here}, not {there}.")
        if wish.needs.uploads != self._wish.needs.uploads:
            _require_brought(wish.needs)
        if self._own:
            require_room(wish)
        return True

    def require_workers(self, needs: Needs, workers: int) -> None:
        """Refuse more of them than will ever have room."""
        if self._own:
            require_room(replace(self._wish, needs=needs, workers=workers))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run asks of a cluster.

    Attributes:
        address: of one that runs: ``auto`` or ``host:6379``; empty: one of its own here, with as many CPUs as are asked
            for even where that is more than this machine has.
        needs: of each worker.
        workers: how many there are to be.
        servers: how many shards of the server are actors.
    """

    address: str
    needs: Needs
    workers: int
    servers: int = 0


_open: Cluster | None = None


def reached(meeting: Meeting, *, server_actor: bool = False) -> Cluster:
    """The cluster of a run; the first question connects, the others find it.

    Args:
        meeting: of the run.
        server_actor: whether the server's first shard is an actor too.

    Raises:
        InvalidArgument: see `Cluster`.
    """
    global _open
    workers, servers = meeting.workers - meeting.own_workers, meeting.shards - (not server_actor)
    wish = Wish(meeting.address, Needs.parse(meeting.ray), workers, servers)
    if _open is not None and (not ray.is_initialized() or not _open.serves(wish)):
        _open.end()  # nobody needs it: a run that failed before its beginning left it
    if _open is None:
        _open = Cluster(wish)
    return _open


def let_go() -> None:
    """End what nobody holds: a run is over, or failed before its beginning."""
    if _open is not None and not _open.is_held:
        _open.end()


def any_port(ip: str) -> str:
    """To listen there."""
    return f"[{ip}]:0" if ":" in ip else f"{ip}:0"


def _connect(wish: Wish) -> None:
    address = wish.address
    if address.startswith(_CLIENT):
        raise InvalidArgument(
            f"--address {address}: the run's server is this process, which must be on a node of the cluster for its "
            "workers to reach it. Start it there (ray job submit ... -- tardigrad train ... --address auto)."
        )
    try:
        with _signals_kept():
            ray.init(address=address, runtime_env=_brought(wish.needs), logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}) Start one with: ray start --head; "
            "or leave out --address: then a cluster of its own begins on this machine."
        ) from error


def _start(wish: Wish) -> None:
    needs, cores = wish.needs, len(os.sched_getaffinity(0))
    _require_nodes(wish)
    wanted = math.ceil(needs.num_cpus * wish.workers + needs.server_cpus * (wish.servers + 1))
    try:
        with _signals_kept():
            ray.init(
                address="local",  # else one that somebody started here would be joined
                num_cpus=max(cores, wanted),
                object_store_memory=_STORE,
                include_dashboard=False,
                runtime_env=_brought(needs),
                _system_config={"worker_niceness": 0},  # the workers are what this machine is for
                logging_level=logging.WARNING,
            )
        require_room(wish)
    except BaseException:
        ray.shutdown()
        raise


def require_room(wish: Wish) -> None:
    """Refuse what a cluster of its own, which no node is ever added to, will never have."""
    _require_nodes(wish)
    short = wish.needs.lacking(ray.cluster_resources(), wish.workers, wish.servers)
    if short:
        servers = f" and {wish.servers} of the server" if wish.servers else ""
        raise InvalidArgument(
            f"{wish.workers} workers{servers} need {shortage(short)} more than a cluster of its own has on this "
            "machine. Ask for less with --ray, say --workers where it begins, or name a cluster that has it: --address "
            "auto."
        )


def _require_nodes(wish: Wish) -> None:
    """Refuse a node for each of several workers where there is one."""
    if wish.needs.strategy == "strict-spread" and wish.workers > 1:
        raise InvalidArgument(
            f"strategy='strict-spread' wants {wish.workers} nodes for as many workers, and a cluster of its own is "
            "one. Name a cluster that has them: --address auto; or leave strategy out."
        )


def _brought(needs: Needs) -> dict[str, Any] | None:
    """For ``ray.init``: the folders that Ray is to bring to all nodes.

    Raises:
        InvalidArgument: they are not here.
    """
    folder = needs.uploads.get("working_dir", ".")
    if not os.path.exists(folder):
        raise InvalidArgument(f"ray: runtime_env names the working_dir {folder!r}, which is not here.")
    return needs.uploads or None


def _require_brought(needs: Needs) -> None:
    """Refuse folders that the connection of this process, which is there already, does not bring."""
    brought = ray.get_runtime_context().runtime_env
    missing = [name for name in needs.uploads if name != "excludes" and not brought.get(name)]
    if missing:
        raise InvalidArgument(
            f"ray: runtime_env names a folder of this machine ({', '.join(missing)}), which Ray takes only when it is "
            "connected with, and this process is already. Say it there: ray.init(runtime_env={'working_dir': '.'}), or "
            "ray job submit --working-dir ."
        )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM over when it begins; here a first one writes a checkpoint."""
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if mine else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shortage(short: dict[str, float]) -> str:
    """What is lacking, in words."""
    return ", ".join(f"{number:g} {name}" for name, number in short.items())


def draining() -> frozenset[str]:
    """Nodes that have been told to go, such as preempted ones: hexadecimal ids.

    Ray tells it nowhere in its public interface; its own libraries (Train, Serve, Data) ask as is done here.
    """
    ask = getattr(ray._private.state.state, "get_draining_nodes", None)
    return frozenset() if ask is None else frozenset(ask())
