"""Saving: when a run writes its checkpoints. The state is taken between two commits; writing it may take its time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Thread
from time import perf_counter
from typing import Any

from tardigrad.checkpoint import write_checkpoint
from tardigrad.config import RunConfig
from tardigrad.engines.base import BasicEngine
from tardigrad.errors import TardigradError
from tardigrad.recording import Recorder
from tardigrad.stores import Store

_MINUTES = 5.0  # between checkpoints of real workers where nothing else is asked for


class Saving:
    """Writes checkpoints every so many minutes, and when the run is to be stopped.

    With real workers commits stand still for one copy of the state, and a thread writes it; one that cannot be written
    (a full disk) is noted, and the run goes on with the ones before. In the simulator nothing would go on meanwhile.
    Where the run has a store, each is kept there too; what cannot be is noted.

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
        self._store = Store(config.store) if config.store else None

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
        self.finish()
        self._write(*self._taken())

    def finish(self) -> None:
        """Wait for a checkpoint that is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        problem, self._problem = self._problem, ""
        if problem:
            for observer in self._engine.job.observers:
                observer.noted(self._engine.now, problem)

    def keep_end(self) -> None:
        """The run has ended and writes nothing any more: bring its store up to that, or warn that it is not."""
        if self._store is not None:
            try:
                self._store.keep_end(self._recorder.directory)
            except TardigradError as error:
                warnings.warn(f"The run's end is only in {self._recorder.directory}: {error}", stacklevel=2)

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
        elif self._thread is None or not self._thread.is_alive():
            self.finish()
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
        if self._store is not None:
            try:
                self._store.keep(self._recorder.directory, version=version, growing=positions)
            except TardigradError as error:
                self._problem = f"not kept: {error}"

    def _write_or_tell(self, version: int, state: dict[str, Any], positions: dict[str, Any]) -> None:
        try:
            self._write(version, state, positions)
        except (TardigradError, OSError) as error:
            self._problem = f"no checkpoint: {error}"
