"""Keeper: what the server's process knows of one worker's process: its life, its pace, its deadline."""

from __future__ import annotations

import signal
import statistics
from collections import deque
from typing import Protocol

from tardigrad.engines.base import Limits, WorkerView
from tardigrad.engines.local.lodging import Lodging, Processes

_REMEMBERED = 32  # steps and stalenesses that pace is told from
_SLOWER = 20.0  # times the median step after which a worker counts as hung


class End(Protocol):
    """The server's end of what connects it with a worker."""

    def fileno(self) -> int:
        """To be waited for by a selector."""

    def close(self) -> None:
        """Close it: the worker ends."""


class Keeper:
    """One worker, over all its lives.

    Args:
        worker: its number.

    Attributes:
        incarnation: which life.
        hung: whether it was ended because it did not push in time.
        traceback: what it raised; empty where it raised nothing.
        mistaken: whether that was a mistake in the user's script, which it would repeat.
        pushes: over all lives.
        end: what connects it with this process; None where it does not live.
        lodging: where its processes live; another one may be given between two lives.
    """

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.incarnation = 0
        self.hung = False
        self.traceback = ""
        self.mistaken = False
        self.pushes = 0
        self.end: End | None = None
        self.lodging: Lodging = Processes(worker)
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._stalenesses: deque[int] = deque(maxlen=_REMEMBERED)
        self._since = 0.0
        self._deadline = self._granted = 0.0
        self._state = "stopped"
        self._has_pushed = False

    @property
    def pid(self) -> int:
        """Of its process; 0 where there is none."""
        return self.lodging.pid

    @property
    def median_step(self) -> float | None:
        """Seconds of its last gradients; None before the first."""
        return statistics.median(self._steps) if self._steps else None

    def begin(self, incarnation: int, now: float, limits: Limits) -> None:
        """A life begins, in new processes; those of the one before have ended."""
        self.incarnation, self.hung, self.traceback, self.mistaken = incarnation, False, "", False
        self._has_pushed = False
        self.enter("starting", now, now + limits.first_step)

    def computes(self, now: float, limits: Limits) -> None:
        """It computes from now on, and is to push in time."""
        self.enter("computing", now, now + (limits.hang_after if self._has_pushed else limits.first_step))

    def waits(self, now: float) -> None:
        """It waits for this process from now on."""
        self.enter("waiting", now, float("inf"))

    def pushed(self, seconds: float, now: float) -> None:
        """It answered an order; ``seconds`` as it measured them."""
        self.pushes += 1
        self._has_pushed = True
        self._steps.append(seconds)
        self.waits(now)

    def committed(self, staleness: int) -> None:
        """A push of it was committed."""
        self._stalenesses.append(staleness)

    def is_overdue(self, now: float) -> bool:
        """Whether it should have answered by now."""
        if now <= self._deadline:
            return False
        usual = (self.median_step or 0.0) if self._has_pushed else 0.0  # asked for here, not at every order
        return now > self._since + self._granted + _SLOWER * usual

    def postpone(self, seconds: float) -> None:
        """Give it more time: this whole machine stood still."""
        self._deadline += seconds
        self._granted += seconds

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal, if there is one."""
        self.lodging.signal(number)

    def stop(self, *, at_once: bool) -> int | None:
        """End its processes and reap them; return their exit code. See `Lodging.reap`."""
        self._state = "stopped"
        if at_once:
            self.lodging.kill()
        if self.end is not None:
            self.end.close()
            self.end = None
        return self.lodging.reap()

    def view(self, now: float) -> WorkerView:
        """What is known of it now."""
        return WorkerView(
            worker=self.worker,
            incarnation=self.incarnation,
            state="cut off" if self.lodging.is_cut_off else self._state,
            pid=self.pid,
            pushes=self.pushes,
            step_seconds=self.median_step,
            staleness=sum(self._stalenesses) / len(self._stalenesses) if self._stalenesses else None,
            since=now - self._since,
            host=self.lodging.host,
        )

    def enter(self, state: str, now: float, deadline: float) -> None:
        """Be in this state from now on, until then at the latest."""
        self._state, self._since, self._deadline, self._granted = state, now, deadline, 0.0
