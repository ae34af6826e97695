"""What the carriers of between_hosts.py have in common: two processes on two hosts, one of which exchanges when told.

Each carrier is one script, started twice: as the server, which only answers, and as the worker, which prints one line
of JSON when it stands ready and then, for every number that it reads, exchanges so many times and prints the seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from tardigrad.engines.local.processes import end_with_parent

now = time.perf_counter
GRADIENT = 1e-2
DROPPED = 3  # exchanges at the beginning of each turn: the processes slept


@dataclass(frozen=True)
class Told:
    """What a process is told at its start.

    Attributes:
        role: ``"server"`` or ``"worker"``.
        address: of the server, host and port.
        interface: of this host, for those who want its name.
        parameters: how many float32 there are.
        trusted: whether the network is: no TLS then.
        secret: of the two.
        compiled: whether a commit may be compiled.
    """

    role: str
    address: str
    interface: str
    parameters: int
    trusted: bool
    secret: str
    compiled: bool = True

    @property
    def is_server(self) -> bool:
        """Whether this process answers."""
        return self.role == "server"


def told() -> Told:
    """From the command line. The process ends with the one that started it."""
    end_with_parent()
    return Told(**json.loads(sys.argv[1]))


def say(words: Mapping[str, object]) -> None:
    print(json.dumps(words), flush=True)


def serve(turn: Callable[[int], Mapping[str, list[float]]]) -> None:
    """Of a worker: answer every turn with the seconds of its exchanges, but for the first."""
    say({"ready": True})
    for line in sys.stdin:
        found = turn(int(line) + DROPPED)
        say({name: seconds[DROPPED:] for name, seconds in found.items()})


def mark(memory: Tensor, number: int) -> None:
    """What is to arrive, at both ends of a buffer."""
    memory[0] = memory[-1] = number


def require_mark(memory: Tensor, number: int) -> None:
    """It has arrived: else it was not the same work."""
    if float(memory[0]) != number or float(memory[-1]) != number:
        raise RuntimeError(f"{number} was sent, and {float(memory[0])} to {float(memory[-1])} came")


@contextmanager
def counted(seconds: list[float]) -> Iterator[None]:
    """Add how long this took."""
    begun = now()
    yield
    seconds.append(now() - begun)
