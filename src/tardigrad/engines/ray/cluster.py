"""The cluster: one that runs already, or one of its own on this machine that ends with the run."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

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
        address: of one that runs: ``auto`` or ``host:6379``; empty: one of its own here, with as many CPUs as are asked
            for even where that is more than this machine has.
        needs: of each worker.
        workers: how many there are to be.
        servers: how many shards of the server, >= 1.

    Attributes:
        ip: where the workers reach this process: of this node, or 127.0.0.1 in a cluster of its own.

    Raises:
        InvalidArgument: there is no such cluster; or one of its own would never have what is asked for.
    """

    def __init__(self, address: str, needs: Needs, workers: int, servers: int = 1) -> None:
        self._holders = 0
        self._begun = not ray.is_initialized()
        if self._begun and address:
            _connect(address)
        elif self._begun:
            _start(needs, workers, servers)
        own = self._begun and not address
        self.ip: str = "127.0.0.1" if own else ray.util.get_node_ip_address()

    def hold(self) -> Self:
        """One more needs it."""
        self._holders += 1
        return self

    def close(self) -> None:
        """One less needs it: with the last, give up the connection, and end the cluster, if they began here."""
        global _open
        self._holders -= 1
        if self._holders > 0:
            return
        _open = None
        if self._begun and ray.is_initialized():
            ray.shutdown()
        self._begun = False


_open: Cluster | None = None


def reached(meeting: Meeting) -> Cluster:
    """The cluster of a run; the first question connects, the others find it."""
    global _open
    if _open is None or not ray.is_initialized():
        workers = meeting.workers - meeting.own_workers
        _open = Cluster(meeting.address, Needs.parse(meeting.ray), workers, meeting.shards)
    return _open


def _connect(address: str) -> None:
    if address.startswith(_CLIENT):
        raise InvalidArgument(
            f"--address {address}: the run's server is this process, which must be on a node of the cluster for its "
            "workers to reach it. Start it there (ray job submit ... -- tardigrad train ... --address auto)."
        )
    try:
        with _signals_kept():
            ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}) Start one with: ray start --head; "
            "or leave out --address: then a cluster of its own begins on this machine."
        ) from error


def _start(needs: Needs, workers: int, servers: int) -> None:
    cores = len(os.sched_getaffinity(0))
    wanted = math.ceil(needs.num_cpus * workers + needs.server_cpus * servers)
    with _signals_kept():
        ray.init(
            address="local",  # else one that somebody started here would be joined
            num_cpus=max(cores, wanted),
            object_store_memory=_STORE,
            include_dashboard=False,
            _system_config={"worker_niceness": 0},  # the workers are what this machine is for
            logging_level=logging.WARNING,
        )
    short = needs.lacking(ray.cluster_resources(), workers)
    if short:
        ray.shutdown()
        raise InvalidArgument(
            f"{workers} workers need {shortage(short)} more than this machine has; ask for less with --ray, or name a "
            "cluster that has it: --address auto."
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
