"""Casting: the processes that run a script, started before anything is known of what they train.

The model, the optimizer and the data stand in the user's script. So the server is built from what the first worker
hands over when it prepares; the others are compared with that.
"""

from __future__ import annotations

import multiprocessing
import selectors
from collections.abc import Mapping
from time import perf_counter
from typing import Literal

from tardigrad.engines.base import Limits
from tardigrad.engines.local.acting import Part, Role
from tardigrad.engines.local.places import device_of
from tardigrad.engines.local.seat import Seat
from tardigrad.errors import ProtocolError, WorkerFailed
from tardigrad.records import Failure
from tardigrad.session.encoding import prepared_of
from tardigrad.session.link import Prepared


class Cast:
    """The workers of a script.

    Args:
        role: leads to the script's function.
        lives: worker -> which life of it begins.
        workers: how many there are at the run's beginning.
        seed, threads: of the run.
        device: ``cpu``, ``cuda:N``, or ``cuda``: the GPUs in turn.
        limits: when a worker counts as failed.
        group: processes that are a worker, >= 1.
        judged_beside: whether one more process, which is no worker, evaluates.
        wire: what gradients are handed in as; see `tardigrad.arithmetic.Arithmetic`.

    Attributes:
        judge: that process's seat; None without.
        seats: by worker.
        workers: how many there were at the run's beginning.
    """

    def __init__(
        self,
        role: Role,
        lives: Mapping[int, int],
        *,
        workers: int,
        seed: int,
        threads: int,
        device: str,
        limits: Limits,
        group: int = 1,
        judged_beside: bool = False,
        wire: str = "float32",
    ) -> None:
        self._wire = wire
        self._group, self.judged_beside = group, judged_beside
        self.judge: Seat | None = None
        self.workers = workers
        self.seats: dict[int, Seat] = {}
        self._role, self._seed, self._threads, self._device, self._limits = role, seed, threads, device, limits
        self._since = perf_counter()
        for worker, incarnation in lives.items():
            self.start(worker, incarnation, now=0.0)

    def start_judge(self, now: float) -> Seat:
        """Begin the process that evaluates; it has the number after the workers'."""
        self.judge = Seat(self.workers, self._role)
        self.judge.start([self._part(self.workers, 0, 0)], now, self._limits)
        return self.judge

    def start(self, worker: int, incarnation: int, *, now: float) -> Seat:
        """Begin this life of a worker."""
        seat = self.seats.get(worker)
        if seat is None:
            seat = self.seats[worker] = Seat(worker, self._role)
        self._lodge(seat)
        seat.start([self._part(worker, incarnation, rank) for rank in range(self._group)], now, self._limits)
        return seat

    def _lodge(self, seat: Seat) -> None:
        """A life of this worker is about to begin: say where."""

    def _part(self, worker: int, incarnation: int, rank: int) -> Part:
        device, method = device_of(worker * self._group + rank, self._device), multiprocessing.get_start_method()
        return Part(
            worker, self.workers, incarnation, self._seed, self._threads, device, method, rank=rank, group=self._group,
            wire=self._wire,
        )  # fmt: skip

    def first(self) -> tuple[Prepared, Seat]:
        """Wait until a worker has prepared; return what, and whose seat that is.

        Raises:
            WorkerFailed: one ended before.
        """
        with selectors.DefaultSelector() as selector:
            for seat in self.seats.values():
                assert seat.end is not None
                selector.register(seat.end, selectors.EVENT_READ, seat)
            while True:
                for key, _ in selector.select(self._patience()):
                    prepared = self._asked(key.data)
                    if prepared is not None:
                        return prepared, key.data
                self._require_in_time()

    def _asked(self, seat: Seat) -> Prepared | None:
        """What this worker has prepared; None if it asked for something else."""
        assert seat.end is not None
        try:
            word, content, descriptors = seat.end.receive()
        except (EOFError, OSError):
            raise self._failed(seat, "died") from None
        except ProtocolError as error:  # what no worker says
            raise self._failed(seat, "died") from error
        if word == "raised":
            seat.traceback = content["traceback"]
            raise self._failed(seat, "raised")
        if word == "prepare":
            return prepared_of(content, descriptors[0])
        seat.answer("refused", {"message": f"{word}: before session.prepare() there is nothing to do that with."})
        return None

    def _failed(self, seat: Seat, kind: Literal["died", "raised", "hung"]) -> WorkerFailed:
        code = seat.stop(at_once=kind == "hung")
        return WorkerFailed(Failure(seat.worker, seat.incarnation, kind, 0, code, seat.traceback))

    def _patience(self) -> float:
        return max(0.0, self._limits.first_step - (perf_counter() - self._since))

    def _require_in_time(self) -> None:
        if self._patience() == 0.0:
            raise self._failed(next(iter(self.seats.values())), "hung")

    def dismiss(self) -> None:
        """End every process and give back all memory."""
        for seat in [*self.seats.values(), *([self.judge] if self.judge is not None else [])]:
            seat.stop(at_once=True)
            seat.close()
