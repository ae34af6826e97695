"""Saving: when a run writes its checkpoints. The state is taken between two commits; writing it may take its time.

A store has a thread of its own: one that is slow or does not answer holds up neither the checkpoints here nor the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic, perf_counter
from typing import Any

from tardigrad.checkpoint import write_checkpoint
from tardigrad.config import RunConfig
from tardigrad.engines.base import BasicEngine
from tardigrad.errors import TardigradError
from tardigrad.parcels import Parcel
from tardigrad.recording import Recorder
from tardigrad.stores import Store

_MINUTES = 5.0  # between checkpoints of real workers where nothing else is asked for
_SILENCE = 60.0  # seconds without a byte after which a store is not waited for any longer


class Sender:
    """Keeps parcels in a store, in a thread of its own: where they come faster than they are kept, the newest.

    Args:
        store: of the run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Condition()
        self._waiting: Parcel | None = None
        self._works = False
        self._problem = ""

    def send(self, parcel: Parcel) -> None:
        """Have this kept, in place of one that has not been begun with; it is closed then. Returns at once."""
        with self._state:
            if self._waiting is not None:
                self._waiting.close()
            self._waiting = parcel
            if not self._works:
                self._works = True
                self._store.moved = monotonic()
                Thread(target=self._work, name="tardigrad-store", daemon=True).start()

    def finish(self) -> str:
        """Wait until all is kept, as long as anything moves; what went wrong since this was asked last, in words."""
        with self._state:
            while self._works:
                left = self._store.moved + _SILENCE - monotonic()
                if left <= 0.0:
                    return f"not kept: {self._store.url} has not answered for {_SILENCE:g} s."
                self._state.wait(left)
        return self.problem()

    def problem(self) -> str:
        """What went wrong since this was asked last; empty: nothing."""
        with self._state:
            problem, self._problem = self._problem, ""
        return problem

    def _work(self) -> None:
        while (parcel := self._next()) is not None:
            try:
                with parcel:
                    self._store.keep(parcel)
            except TardigradError as error:
                with self._state:
                    self._problem = f"not kept: {error}"

    def _next(self) -> Parcel | None:
        with self._state:
            parcel, self._waiting = self._waiting, None
            if parcel is None:
                self._works = False
                self._state.notify_all()
            return parcel


class Saving:
    """Writes checkpoints every so many minutes, and when the run is to be stopped.

    With real workers commits stand still for one copy of the state, and a thread writes it; one that cannot be written
    (a full disk) is noted, and the run goes on with the ones before. In the simulator nothing would go on meanwhile.
    Where the run has a store, they are kept there too, by a `Sender`; what cannot be is noted.

    Args:
        engine: whose state is saved.
        recorder: of the run.
        config: of the run.
        stop: asked after every push and at least twice a second; True: save, and stop.
    """

    def __init__(
        self, engine: BasicEngine, recorder: Recorder, config: RunConfig, stop: Callable[[], bool] | None = None
    ) -> None:
        self._engine, self._recorder, self._config, self._stop = engine, recorder, config, stop
        self._seconds = 60.0 * (config.checkpoint_every or (_MINUTES if engine.has_processes else 0.0))
        at_once = engine.has_processes and (config.checkpoint_every or config.chaos)
        self._next = perf_counter() + (0.0 if at_once else self._seconds)
        self._thread: Thread | None = None
        self._problem = ""
        self._sender = Sender(Store(config.store)) if config.store else None

    @property
    def pause(self) -> Callable[[], bool] | None:
        """What the engine asks after each push; None where there is nothing to ask."""
        return self._due if self._stop is not None or self._seconds else None

    @property
    def asked_for(self) -> bool:
        """Whether checkpoints were asked for, so that those of a run that has ended are kept too."""
        return self._config.checkpoint_every > 0.0

    def save(self) -> None:
        """Write a checkpoint now.

        Raises:
            RunDirectoryError: it cannot be written; the ones before still stand.
        """
        self._join()
        self._write(*self._taken())

    def finish(self) -> None:
        """Wait for a checkpoint that is being written, and kept."""
        self._join()
        if self._sender is not None:
            self._note(self._sender.finish())

    def keep_end(self) -> None:
        """The run has ended and writes nothing any more: bring its store up to that, or warn that it is not."""
        if self._sender is not None:
            directory = self._recorder.directory
            try:
                self._sender.send(Parcel.at_end(directory))
                problem = self._sender.finish()
            except OSError as error:
                problem = f"not kept: {error}"
            if problem:
                warnings.warn(f"The run's end is only in {directory}: {problem}", stacklevel=2)

    def _join(self) -> None:
        """Wait for a checkpoint that is being written; note what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        problem, self._problem = self._problem, ""
        self._note(problem)
        if self._sender is not None:
            self._note(self._sender.problem())

    def _note(self, problem: str) -> None:
        for observer in self._engine.job.observers if problem else ():
            observer.noted(self._engine.now, problem)

    def _due(self) -> bool:
        if self._stop is not None and self._stop():
            self.save()
            return True
        if self._seconds and perf_counter() >= self._next:
            self._save_beside()
        return False

    def _save_beside(self) -> None:
        """Take the state now; write it while training goes on, where it does."""
        if not self._engine.has_processes:
            self.save()
            self.finish()
        elif self._thread is None or not self._thread.is_alive():
            self._join()
            self._thread = Thread(target=self._write_or_tell, args=self._taken(), name="tardigrad-checkpoint")
            self._thread.start()
        self._next = perf_counter() + self._seconds

    def _taken(self) -> tuple[int, dict[str, Any], dict[str, Any]]:
        engine, recorder = self._engine, self._recorder
        state = {"config": self._config.as_json(), "engine": engine.state_dict(), "recorder": recorder.state_dict()}
        return engine.job.server.version, state, recorder.positions()

    def _write(self, version: int, state: dict[str, Any], positions: dict[str, Any]) -> None:
        kept = self._config.checkpoints_kept
        write_checkpoint(self._recorder.directory, state, version=version, growing=positions, kept=kept)
        if self._sender is not None:
            try:
                self._sender.send(Parcel.at_checkpoint(self._recorder.directory, version=version, growing=positions))
            except OSError as error:
                self._problem = f"not kept: {error}"

    def _write_or_tell(self, version: int, state: dict[str, Any], positions: dict[str, Any]) -> None:
        try:
            self._write(version, state, positions)
        except (TardigradError, OSError) as error:
            self._problem = f"no checkpoint: {error}"
