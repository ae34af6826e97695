"""Station: what the server's process knows of one worker's process, and the slots between them."""

from __future__ import annotations

import os
import signal
import statistics
from collections import deque
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from typing import Any

from tardigrad.engines.base import Limits, WorkerView
from tardigrad.engines.local.nursery import CHILD, context, importable_main
from tardigrad.engines.local.processes import Duty, SlotParcel, work
from tardigrad.transports.slots import Order, ServerEnd, Slot, SlotLayout, ends

_REMEMBERED = 32  # steps and stalenesses that pace is told from
_SLOWER = 20.0  # times the median step after which a worker counts as hung
_GRACE = 5.0  # seconds for a process that was told to end


class Station:
    """One worker: its slots, which outlive its processes, and the process it lives in now.

    Args:
        duty: what the worker is told at its start.
        layout: of the slots.

    Attributes:
        incarnation: which life.
        facts: what the process said when it was ready; None before.
        hung: whether it was ended because it did not push in time.
        traceback: what it raised; empty where it raised nothing.
        pushes: over all lives.
        is_closed: whether its slots were given back.
    """

    def __init__(self, duty: Duty, layout: SlotLayout) -> None:
        self.duty = duty
        self.down = Slot.make(layout, f"down-{duty.worker}")
        self.up = Slot.make(layout, f"up-{duty.worker}")
        self.is_closed = False
        self.incarnation = 0
        self.facts: Mapping[str, Any] | None = None
        self.hung = False
        self.traceback = ""
        self.pushes = 0
        self.end: ServerEnd | None = None
        self._process: ForkServerProcess | None = None
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._stalenesses: deque[int] = deque(maxlen=_REMEMBERED)
        self._since = 0.0
        self._deadline = self._granted = 0.0
        self._state = "stopped"
        self._has_pushed = False

    @property
    def worker(self) -> int:
        """Its number."""
        return self.duty.worker

    @property
    def pid(self) -> int:
        """Of its process; 0 where there is none."""
        return (self._process.pid or 0) if self._process else 0

    @property
    def is_free(self) -> bool:
        """Whether it may be given an order."""
        return self.facts is not None and self._state == "waiting"

    @property
    def median_step(self) -> float | None:
        """Seconds of its last gradients; None before the first."""
        return statistics.median(self._steps) if self._steps else None

    def start(self, incarnation: int, now: float, limits: Limits) -> None:
        """Begin a life: a new process on the same slots. The one before has ended."""
        self.incarnation, self.facts, self.hung, self.traceback = incarnation, None, False, ""
        self._has_pushed = False
        self._enter("starting", now, now + limits.first_step)
        mine, theirs = ends()
        arguments = (theirs, SlotParcel(self.down), SlotParcel(self.up), self.duty)
        name = f"{CHILD}worker-{self.worker}"
        self._process = context().Process(target=work, args=arguments, name=name, daemon=True)
        with importable_main():
            self._process.start()
        theirs.close()
        self.end = ServerEnd(mine)

    def greeted(self, facts: Mapping[str, Any], now: float) -> None:
        """The process is ready for orders."""
        self.facts = facts
        self._enter("waiting", now, float("inf"))

    def order(self, order: Order, now: float, limits: Limits) -> None:
        """Have a gradient computed; a process that has ended is noticed where its answers are read."""
        self._enter("computing", now, now + (limits.hang_after if self._has_pushed else limits.first_step))
        assert self.end is not None
        try:
            self.end.send(order)
        except OSError:
            self._state = "ended"

    def pushed(self, seconds: float, now: float) -> None:
        """It answered an order; ``seconds`` as it measured them."""
        self.pushes += 1
        self._has_pushed = True
        self._steps.append(seconds)
        self._enter("waiting", now, float("inf"))

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
        if self._process is not None and self._process.is_alive():
            os.kill(self.pid, number)

    def stop(self, *, at_once: bool) -> int | None:
        """End the process and reap it; return its exit code, negative for a signal. None: there was none."""
        process, self._process = self._process, None
        self._state = "stopped"
        if process is None:
            return None
        if at_once:
            process.kill()
        if self.end is not None:
            self.end.close()
            self.end = None
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    def close(self) -> None:
        """Give the slots back; whoever holds a view of their memory keeps it."""
        self.is_closed = True
        self.down.close()
        self.up.close()

    def view(self, now: float) -> WorkerView:
        """What is known of it now."""
        return WorkerView(
            worker=self.worker,
            incarnation=self.incarnation,
            state=self._state,
            pid=self.pid,
            pushes=self.pushes,
            step_seconds=self.median_step,
            staleness=sum(self._stalenesses) / len(self._stalenesses) if self._stalenesses else None,
            since=now - self._since,
        )

    def _enter(self, state: str, now: float, deadline: float) -> None:
        self._state, self._since, self._deadline, self._granted = state, now, deadline, 0.0
