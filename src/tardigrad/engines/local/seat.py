"""Seat: a worker that runs a script, what it waits for, and the slots between it and the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tardigrad.engines.base import Evaluation, Limits
from tardigrad.engines.local.acting import Part, Role
from tardigrad.engines.local.company import Company
from tardigrad.engines.local.keeper import Keeper
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import Slot, SlotLayout

_ENDING = 30.0  # seconds that a script may take to end after its last word


class Seat(Keeper):
    """One worker that runs a script, over all its lives.

    Args:
        worker: its number.
        role: leads to the script's function.

    Attributes:
        down, up: its slots, which outlive its processes; None before it first prepared.
        wants: what it waits for: ``"welcome"``, ``"release"``, ``"lease"``, or nothing.
        epoch: the last of which it wants leases, while it waits for one.
        refused: why its last push was not applied; empty where it was.
        draft: an evaluation that it is making.
        finished: whether its script has come to its end.
    """

    end: Wire | None

    def __init__(self, worker: int, role: Role) -> None:
        super().__init__(worker)
        self._role = role
        self.down: Slot | None = None
        self.up: Slot | None = None
        self.wants = ""
        self.epoch = 0
        self.refused = ""
        self.draft: Evaluation | None = None
        self.finished = False

    def start(self, parts: Sequence[Part], now: float, limits: Limits) -> None:
        """Begin a life: new processes that run the script from its beginning, each with its part, the leader first."""
        self.wants, self.refused, self.draft, self.finished = "", "", None, False
        self.begin(parts[0].incarnation, now, limits)
        first, *others = self.lodging.act(self._role, parts)
        self.end = Company(first, others) if others else Wire(first)

    def furnish(self, layout: SlotLayout) -> tuple[Slot, Slot]:
        """Its slots, made now if there are none yet."""
        if self.down is None or self.up is None:
            self.down, self.up = Slot.make(layout, f"down-{self.worker}"), Slot.make(layout, f"up-{self.worker}")
        return self.down, self.up

    def answer(self, word: str, content: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()) -> None:
        """Answer what it asked; a process that has ended is noticed where its requests are read."""
        assert self.end is not None
        with suppress(OSError):
            self.end.send(word, content, descriptors)

    def ends_now(self, now: float) -> None:
        """Its script has come to its end; the process is to end too."""
        self.finished, self.wants = True, ""
        self.enter("ending", now, now + _ENDING)

    def close(self) -> None:
        """Give the slots back; whoever holds a view of their memory keeps it."""
        for slot in (self.down, self.up):
            if slot is not None:
                slot.close()
        self.down = self.up = None
