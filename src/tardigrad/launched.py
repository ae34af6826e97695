"""Launched: processes that torchrun or srun has started alike become one run: the first serves, the others join it.

Which process is which stands in the environment: RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE of torchrun, or
SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID and SLURM_STEP_NODELIST of srun. Where the server listens the
processes of torchrun learn from its store, at MASTER_ADDR and MASTER_PORT; those of srun by what the job is called.

Nothing is tolerated here: a failure of any process ends the run. Its other processes are ended by the launcher; where
that leaves them, as srun does unless it is told otherwise, they give up in time.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch.distributed import Store, rendezvous  # type: ignore[attr-defined]

from tardigrad.engines.base import Observer
from tardigrad.engines.joined.agent import Agent
from tardigrad.engines.joined.resolving import Means
from tardigrad.errors import EndedElsewhere, InvalidArgument
from tardigrad.invitation import SECRET_VARIABLE, Invitation
from tardigrad.records import Snapshot
from tardigrad.session.scripts import Script
from tardigrad.transports.credentials import Credentials, read_secret, require_secret, write_secret

_BEGINNING = 1800.0  # seconds for the first process to listen, and for all others to come
_REACHING = 10.0  # seconds without an answer after which a server that was there counts as gone
_SAYING_WHY = 10.0  # seconds for the first process to say why the run ended: at the first exit the launcher ends all
_LOWEST_PORT, _PORTS = 12000, 16000
_OF_THE_LAUNCHER = ("own_workers", "listen", "secret_file", "on_failure")
"""Settings that are refused; ``workers`` is not, but replaced."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of the processes this is.

    Attributes:
        number: from 0; the first serves.
        of: how many there are, >= 2.
        here: which of this machine's.
        all_here: how many this machine has.
    """

    number: int
    of: int
    here: int
    all_here: int


class Launch(ABC):
    """What started this process and its likes.

    Args:
        rank: which of them this is.

    Attributes:
        name: as one types it.
        marks: the variables by which it is known.
    """

    name: str
    marks: str

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    @abstractmethod
    def meet(self) -> None:
        """Find the others, as long as the environment says where. Called once for each run, in every process alike."""

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `tardigrad.run` was given, as it holds in the process that serves."""
        for name in _OF_THE_LAUNCHER:
            if name in given:
                raise InvalidArgument(f"{name}={given[name]!r}: under {self.name} that is settled; leave it out.")
        threads = given.get("threads") or max(1, len(os.sched_getaffinity(0)) // self.rank.all_here)
        own = {"engine": "joined", "workers": self.rank.of, "own_workers": 1, "threads": threads, "on_failure": "raise"}
        return {**given, **own, "listen": self.listen, "trusted_network": self.trusts(given)}

    @property
    @abstractmethod
    def listen(self) -> str:
        """Where the first process listens."""

    @abstractmethod
    def trusts(self, given: Mapping[str, Any]) -> bool:
        """Whether nothing is encrypted."""

    @abstractmethod
    def herald(self) -> Observer:
        """Tells the others, in the process that serves, where that listens."""

    @abstractmethod
    def found(self, given: Mapping[str, Any]) -> tuple[str, Credentials]:
        """In one of the others: where the server listens, and what it is joined with."""

    @contextmanager
    def with_secret(self, settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """While the run is served: these settings, and where the secret is found."""
        yield settings

    def device(self, wanted: str) -> str:
        """Where this process computes: of several GPUs the one of its local rank; some launchers show it only that."""
        return f"cuda:{self.rank.here % max(1, torch.cuda.device_count())}" if wanted == "cuda" else wanted

    def work(self, script: Script, given: Mapping[str, Any]) -> None:
        """Be a worker of the run, until it is over.

        Raises:
            EndedElsewhere: it ended before its end; the first process says why.
            Unreachable: that process is gone.
        """
        address, credentials = self.found(given)
        means = Means(self.device(given.get("device", "cpu")), call=script)
        agent = Agent(address, credentials, means, keep_trying=_BEGINNING, afterwards=_REACHING)
        agent.run()
        if not agent.wishes.finished:
            time.sleep(_SAYING_WHY)
            raise EndedElsewhere(f"the process of rank 0 ended the run: {agent.wishes.words}")


class Torchrun(Launch):
    """torchrun, or whoever sets the same variables."""

    name, marks = "torchrun", "RANK and WORLD_SIZE"
    _store: Store | None = None
    _runs = 0

    def __init__(self, rank: Rank, master: str) -> None:
        super().__init__(rank)
        self._master = master
        self._name = ""

    def meet(self) -> None:
        """See `Launch`."""
        Torchrun._runs += 1
        self._name = f"tardigrad/{Torchrun._runs}"
        if Torchrun._store is None:
            Torchrun._store = next(iter(rendezvous("env://")))[0]

    @property
    def listen(self) -> str:
        """See `Launch`. Where all processes are on this machine nobody else can come in."""
        return "127.0.0.1:0" if self.rank.all_here == self.rank.of else ":0"

    def trusts(self, given: Mapping[str, Any]) -> bool:
        """As torch.distributed: its store, over which the secret goes, encrypts nothing."""
        return True

    def herald(self) -> Observer:
        """See `Launch`."""
        return _Herald(self._tell)

    def found(self, given: Mapping[str, Any]) -> tuple[str, Credentials]:
        """See `Launch`."""
        assert self._store is not None
        self._store.wait([self._name], timedelta(seconds=_BEGINNING))
        port, secret = self._store.get(self._name).decode().split()
        host = "127.0.0.1" if self.rank.all_here == self.rank.of else self._master
        return f"{host}:{port}", Credentials(secret, trusted=True)

    def _tell(self, invitation: Invitation) -> None:
        assert self._store is not None
        port = invitation.address.rpartition(":")[2]
        self._store.set(self._name, f"{port} {read_secret(invitation.secret_file)}")


class Srun(Launch):
    """srun of SLURM: all processes know the same job."""

    name, marks = "srun", "SLURM_PROCID and SLURM_STEP_NUM_TASKS"
    _runs = 0

    def __init__(self, rank: Rank, environ: Mapping[str, str]) -> None:
        super().__init__(rank)
        self._job = f"{environ.get('SLURM_JOB_ID', '0')}.{environ.get('SLURM_STEP_ID', '0')}"
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST", "")
        self._host = environ.get("MASTER_ADDR") or first_host(nodes) or "127.0.0.1"
        drawn = int.from_bytes(hashlib.blake2b(self._job.encode(), digest_size=4).digest(), "big")
        self._first_port = int(environ.get("MASTER_PORT") or _LOWEST_PORT + drawn % _PORTS)
        self._secret = environ.get(SECRET_VARIABLE, "")
        self._run = 0

    def meet(self) -> None:
        """See `Launch`: everybody knows where. No run meets another's processes: port and secret are its own."""
        self._run = Srun._runs
        Srun._runs += 1

    @property
    def _port(self) -> int:
        return self._first_port + self._run

    @property
    def listen(self) -> str:
        """See `Launch`."""
        return f":{self._port}"

    def trusts(self, given: Mapping[str, Any]) -> bool:
        """See `Launch`."""
        return bool(given.get("trusted_network", False))

    def herald(self) -> Observer:
        """See `Launch`: everybody knows already."""
        return Observer()

    def found(self, given: Mapping[str, Any]) -> tuple[str, Credentials]:
        """See `Launch`."""
        return f"{self._host}:{self._port}", Credentials(self._shared(given), self.trusts(given))

    @contextmanager
    def with_secret(self, settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """See `Launch`: not in the run's directory, where a run that goes on finds that of another job."""
        with tempfile.TemporaryDirectory(prefix="tardigrad-") as folder:
            file = Path(folder) / "secret"
            write_secret(file, self._shared(settings))
            yield {**settings, "secret_file": str(file)}

    def _shared(self, given: Mapping[str, Any]) -> str:
        """The secret of this run; on a trusted network what keeps apart the jobs of one machine will do."""
        if not self._secret and not self.trusts(given):
            raise InvalidArgument(
                f"under srun all processes need one secret: in the job's script, before srun, write export "
                f"{SECRET_VARIABLE}=$(head -c 32 /dev/urandom | base64); or, where everybody on the network may be "
                "trusted, tardigrad.run(main, trusted_network=True)."
            )
        known = require_secret(self._secret) if self._secret else f"{self._job} {os.getuid()}"
        return "tg-" + hashlib.blake2b(f"{known} {self._run}".encode(), digest_size=26).hexdigest()


class _Herald(Observer):
    def __init__(self, tell: Any) -> None:
        self._tell = tell

    def invited(self, time: float, invitation: Invitation) -> None:
        """The run's server listens."""
        self._tell(invitation)


class Roll(Observer):
    """In the process that serves: whether all have come, without whom nothing begins.

    Args:
        launch: of this process.
        stop: asked after every push, and while others are waited for; None: nobody says stop.
    """

    def __init__(self, launch: Launch, stop: Callable[[], bool] | None) -> None:
        self._launch, self._stop = launch, stop
        self._until = monotonic() + _BEGINNING
        self._complete = False

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """The run begins: all are there."""
        self._complete = True

    def stop(self) -> bool:
        """Whether the run is to stop.

        Raises:
            EndedElsewhere: some have not come in time.
        """
        if not self._complete and monotonic() >= self._until:
            raise EndedElsewhere(
                f"{self._launch.name} has started {self._launch.rank.of} processes, and within {_BEGINNING:g} seconds "
                "not all of them came to this run: some failed before, or do not reach this machine; see what they say."
            )
        return self._stop is not None and self._stop()


def find_launch(environ: Mapping[str, str] | None = None) -> Launch | None:
    """What started this process together with others; None: nobody, or it is the only one.

    Args:
        environ: the environment; None: this process's.
    """
    known = os.environ if environ is None else environ
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(known):
        of = int(known["WORLD_SIZE"])
        here, all_here = int(known.get("LOCAL_RANK", 0)), int(known.get("LOCAL_WORLD_SIZE", of))
        return Torchrun(Rank(int(known["RANK"]), of, here, all_here), known["MASTER_ADDR"]) if of > 1 else None
    if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= set(known):
        of = int(known["SLURM_STEP_NUM_TASKS"])
        each = re.match(r"\d+", known.get("SLURM_STEP_TASKS_PER_NODE", ""))
        all_here = int(each[0]) if each else of
        rank = Rank(int(known["SLURM_PROCID"]), of, int(known.get("SLURM_LOCALID", 0)), all_here)
        return Srun(rank, known) if of > 1 else None
    return None


def first_host(nodes: str) -> str:
    """The first of SLURM's list of hosts.

    >>> first_host("gpu-a[003-006,009],login1")
    'gpu-a003'
    """
    found = re.match(r"([^,\[]*)(?:\[(\w+))?", nodes)
    return "" if found is None else found[1] + (found[2] or "")
