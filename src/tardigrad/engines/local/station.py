"""Station: a worker that computes a task, and the slots between it and the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tardigrad.engines.base import Limits
from tardigrad.engines.local.keeper import Keeper
from tardigrad.engines.local.processes import Duty
from tardigrad.transports.slots import Order, ServerEnd, Slot, SlotLayout


class Station(Keeper):
    """One worker: its slots, which outlive its processes, and the process it lives in now.

    Args:
        duty: what the worker is told at its start.
        layout: of the slots.

    Attributes:
        facts: what the process said when it was ready; None before.
        is_closed: whether its slots were given back.
    """

    end: ServerEnd | None

    def __init__(self, duty: Duty, layout: SlotLayout) -> None:
        super().__init__(duty.worker)
        self.duty = duty
        self.down = Slot.make(layout, f"down-{duty.worker}")
        self.up = Slot.make(layout, f"up-{duty.worker}")
        self.is_closed = False
        self.facts: Mapping[str, Any] | None = None

    @property
    def is_free(self) -> bool:
        """Whether it may be given an order."""
        return self.facts is not None and self._state == "waiting"

    def start(self, incarnation: int, now: float, limits: Limits) -> None:
        """Begin a life: a new process on the same slots. The one before has ended."""
        self.facts = None
        self.begin(incarnation, now, limits)
        self.end = ServerEnd(self.lodging.work(self.duty, incarnation, self.down, self.up))

    def greeted(self, facts: Mapping[str, Any], now: float) -> None:
        """The process is ready for orders."""
        self.facts = facts
        self.waits(now)

    def order(self, order: Order, now: float, limits: Limits) -> None:
        """Have a gradient computed; a process that has ended is noticed where its answers are read."""
        self.computes(now, limits)
        assert self.end is not None
        try:
            self.end.send(order)
        except OSError:
            self._state = "ended"

    def close(self) -> None:
        """Give the slots back; whoever holds a view of their memory keeps it."""
        self.is_closed = True
        self.down.close()
        self.up.close()
