"""Consistency: who may read now, and how many pushes make a commit.

A consistency is bookkeeping only: no weights, no clock. The server tells it who joined, left and arrived, and asks
who may read. `max_staleness` is separate: see the server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.hyperparameters import require_choice, require_integer
from tardigrad.specs import Registry, format_spec


class Consistency(ABC):
    """Who may read, and when pushes become a commit. One instance serves one server."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.live: set[int] = set()

    @property
    @abstractmethod
    def spec(self) -> str:
        """How this instance is written in a configuration."""

    def join(self, worker: int) -> None:
        """A worker takes part from now on."""
        self.live.add(worker)

    def leave(self, worker: int) -> None:
        """A worker takes part no longer; what it still owed is not waited for."""
        self.live.discard(worker)

    @abstractmethod
    def may_read(self, worker: int) -> bool:
        """Whether a live worker may start its next step."""

    @abstractmethod
    def is_late(self, worker: int, read_version: int, version: int) -> bool:
        """Whether a push computed on ``read_version`` has missed its round at ``version``."""

    @abstractmethod
    def arrive(self, worker: int) -> None:
        """An acceptable push of a live worker has come."""

    @abstractmethod
    def due(self) -> list[int]:
        """Workers whose waiting pushes make a commit now, in worker order; empty when it must wait."""

    @abstractmethod
    def committed(self, workers: list[int]) -> None:
        """The commit of these workers' pushes was applied."""

    def lr_factor(self, contributions: int) -> float:
        """Factor on the learning rate for a commit of so many contributions."""
        return 1.0

    @property
    def barrier(self) -> bool:
        """Whether workers wait for each other's pushes before a commit."""
        return False

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What to restore."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class Asynchronous(Consistency):
    """Every push is a commit at once; nobody waits."""

    name: ClassVar[str] = "asynchronous"

    def __init__(self) -> None:
        super().__init__()
        self._arrived: list[int] = []

    @property
    def spec(self) -> str:
        """``asynchronous``."""
        return self.name

    def may_read(self, worker: int) -> bool:
        """Always."""
        return True

    def is_late(self, worker: int, read_version: int, version: int) -> bool:
        """Never."""
        return False

    def arrive(self, worker: int) -> None:
        """Due at once."""
        self._arrived.append(worker)

    def due(self) -> list[int]:
        """The one that has just arrived."""
        return self._arrived

    def committed(self, workers: list[int]) -> None:
        """Forget it."""
        self._arrived = []

    def state_dict(self) -> dict[str, Any]:
        """Only who is live."""
        return {"live": sorted(self.live)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore who is live."""
        self.live, self._arrived = set(state["live"]), []


class SSP(Asynchronous):
    """Stale synchronous parallel: the fastest worker is at most k steps ahead of the slowest (Ho et al. 2013).

    No worker starts step c + 1 while a live worker has completed fewer than c - k steps. The bound counts steps,
    not staleness. ssp(0) lets all workers read the same weights and commits their pushes one after the other.

    Args:
        k: >= 0.
    """

    name: ClassVar[str] = "ssp"

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = require_integer("consistency 'ssp'", "k", k, low=0)
        self.clocks: dict[int, int] = {}

    @property
    def spec(self) -> str:
        """``ssp(k=2)``."""
        return format_spec(self.name, {"k": self.k})

    def join(self, worker: int) -> None:
        """A newcomer starts at the slowest live worker's clock: it holds nobody back, and nobody waits for it."""
        super().join(worker)
        self.clocks[worker] = min((self.clocks[w] for w in self.live if w != worker), default=0)

    def leave(self, worker: int) -> None:
        """Its clock no longer binds the others."""
        super().leave(worker)
        self.clocks.pop(worker, None)

    def may_read(self, worker: int) -> bool:
        """Whether its clock is at most k ahead of the slowest."""
        return self.clocks[worker] - self.k <= min(self.clocks.values())

    def committed(self, workers: list[int]) -> None:
        """A step of the worker is complete."""
        super().committed(workers)
        for worker in workers:
            self.clocks[worker] += 1

    def state_dict(self) -> dict[str, Any]:
        """Live workers and their clocks."""
        return {"live": sorted(self.live), "clocks": dict(self.clocks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self.clocks = {int(worker): clock for worker, clock in state["clocks"].items()}


class Synchronous(Consistency):
    """A commit is the mean of the first ``wait_for`` pushes of a round; later ones of that round are dropped.

    With all workers waited for this is SSGD. A round ends with fewer pushes when fewer workers are live.

    Args:
        wait_for: pushes a commit waits for, >= 1; None: all live workers.
        lr_scaling: ``"none"``, or ``"linear"``: the learning rate times the number of contributions (Goyal et al.
            2017), so that an epoch moves as far as it does with one worker.
    """

    name: ClassVar[str] = "synchronous"

    def __init__(self, wait_for: int | None = None, lr_scaling: str = "none") -> None:
        super().__init__()
        owner = "consistency 'synchronous'"
        self.wait_for = None if wait_for is None else require_integer(owner, "wait_for", wait_for, low=1)
        self.lr_scaling = require_choice(owner, "lr_scaling", lr_scaling, ("none", "linear"))
        self._arrived: set[int] = set()

    @property
    def spec(self) -> str:
        """``synchronous(wait_for=6, lr_scaling='none')``."""
        return format_spec(self.name, {"wait_for": self.wait_for, "lr_scaling": self.lr_scaling})

    @property
    def barrier(self) -> bool:
        """Yes."""
        return True

    def leave(self, worker: int) -> None:
        """Its push, if it waits, still counts; if not, the round no longer waits for it."""
        super().leave(worker)

    def may_read(self, worker: int) -> bool:
        """Whether it has not yet pushed in this round."""
        return worker not in self._arrived

    def is_late(self, worker: int, read_version: int, version: int) -> bool:
        """Whether the round in which it read is over."""
        return read_version != version

    def arrive(self, worker: int) -> None:
        """Wait for the rest of the round."""
        if worker in self._arrived:
            raise ProtocolError(f"worker {worker} has already pushed in this round; pull after the commit.")
        self._arrived.add(worker)

    def due(self) -> list[int]:
        """All that have arrived, once they are as many as are waited for."""
        missing = len(self.live - self._arrived)
        enough = self.wait_for is not None and len(self._arrived) >= self.wait_for
        return sorted(self._arrived) if self._arrived and (enough or not missing) else []

    def committed(self, workers: list[int]) -> None:
        """A new round begins."""
        self._arrived.clear()

    def lr_factor(self, contributions: int) -> float:
        """The number of contributions under linear scaling, else 1."""
        return float(contributions) if self.lr_scaling == "linear" else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Live workers, and those that wait."""
        return {"live": sorted(self.live), "arrived": sorted(self._arrived)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.live, self._arrived = set(state["live"]), set(state["arrived"])


CONSISTENCIES = Registry(
    "consistency",
    {
        "asynchronous": "tardigrad.consistency:Asynchronous",
        "ssp": "tardigrad.consistency:SSP",
        "synchronous": "tardigrad.consistency:Synchronous",
    },
    group="tardigrad.consistencies",
)


def build_consistency(spec: str | Consistency) -> Consistency:
    """Build from a spec such as ``"ssp(2)"``; an instance is passed through."""
    made = CONSISTENCIES.build(spec) if isinstance(spec, str) else spec
    if not isinstance(made, Consistency):
        raise InvalidArgument(f"consistency {spec!r} is not a Consistency.")
    return made
