"""Runs of one engine, each in a folder of its own, with everything they told; made once for all laws that ask."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tardigrad.engines.base import Observer
from tardigrad.errors import Stopped
from tardigrad.records import Commit, Failure, Rejected, Snapshot
from tardigrad.records import Push as Push
from tardigrad.replaying import replay
from tardigrad.testing.laws import require
from tardigrad.training import Run, train

REPLAYED = "replayed"
"""The engine that obeys a log: its runs are replays of the simulator's."""


class Tape(Observer):
    """What the laws look at, in order: (word, version at that moment, what was told)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, Any]] = []
        self.version = 0

    def of(self, word: str) -> list[Any]:
        """All that was told of one kind."""
        return [what for each, _, what in self.told if each == word]

    @property
    def commits(self) -> list[Commit]:
        """In order."""
        return self.of("commit")

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """Note (worker, incarnation, lease) and the version that was read."""
        self._note("pull", ((worker, snapshot.incarnation, snapshot.lease), snapshot.version))

    def committed(self, time: float, commit: Commit) -> None:
        """Note the commit."""
        self.version = commit.version
        self._note("commit", commit)

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """Note the rejection."""
        self._note("reject", result)

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """Note who."""
        self._note("join", (worker, incarnation))

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """Note who, and why."""
        self._note("leave", (worker, incarnation, reason))

    def failed(self, time: float, failure: Failure) -> None:
        """Note the failure."""
        self._note("fail", failure)

    def _note(self, word: str, what: Any) -> None:
        self.told.append((word, self.version, what))


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that has ended.

    Attributes:
        directory: of the run; of a replay that of the run which was replayed.
        weights: at the end, and buffers, by name.
        tape: what was told.
    """

    directory: Path
    weights: Mapping[str, Tensor]
    tape: Tape


@dataclass(slots=True)
class Bench:
    """Trains one engine.

    Attributes:
        engine: its name.
        folder: for the runs.
        settings: of every run, unless a law says otherwise.
    """

    engine: str
    folder: Path
    settings: Mapping[str, Any]
    _made: dict[str, Ran] = field(default_factory=dict)

    @property
    def replays(self) -> bool:
        """Whether what is checked is a replay of the simulator's runs."""
        return self.engine == REPLAYED

    @property
    def trains_with(self) -> str:
        """The engine that trains."""
        return "simulated" if self.replays else self.engine

    def once(self, name: str, **settings: Any) -> Ran:
        """The run of this name: trained with these settings when it is first asked for."""
        if name not in self._made:
            self._made[name] = self.run(name, **settings)
        return self._made[name]

    def run(self, name: str, **settings: Any) -> Ran:
        """Train to the end."""
        tape = Tape()
        done = self.train(name, tape, **settings)
        return self._replayed(done) if self.replays else Ran(done.directory, done.state_dict(), tape)

    def run_in_parts(self, name: str, *, version: int, **settings: Any) -> tuple[Ran, Path]:
        """Train to a version, stop, and go on; also where a copy of the stopped run is."""
        tape, copied = Tape(), self.folder / f"{name}-stopped"
        try:
            self.train(name, tape, stop=lambda: tape.version >= version, **settings)
        except Stopped:
            shutil.copytree(self.folder / name, copied)
        require(copied.is_dir(), f"the run was not stopped at version {version}, when that was asked for.")
        stopped_at = tape.version
        done = self.train(name, tape, **settings)
        require(tape.version > stopped_at, f"a run stopped at version {stopped_at} ended without another commit.")
        return (self._replayed(done) if self.replays else Ran(done.directory, done.state_dict(), tape)), copied

    def train(self, name: str, tape: Tape, *, stop: Callable[[], bool] | None = None, **settings: Any) -> Run:
        """Train as `tardigrad.train` does."""
        chosen = {"engine": self.trains_with, **self.settings, **settings}
        return train(chosen.pop("recipe"), directory=self.folder / name, observers=[tape], stop=stop, **chosen)

    def _replayed(self, done: Run) -> Ran:
        tape = Tape()
        found = replay(done.directory, observers=[tape])
        require(found.equal is True, f"a replay of the simulator's run says: {found.verdict}")
        return Ran(done.directory, found.state_dict(), tape)
