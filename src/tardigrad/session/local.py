"""The link of a worker on the server's own machine: slots of shared memory, and a pair of sockets for words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from time import perf_counter, sleep
from typing import Any

from torch import Tensor

from tardigrad.errors import SessionError
from tardigrad.faults import PlannedFault
from tardigrad.records import Lease
from tardigrad.session.encoding import (
    prepared_content,
    prepared_slot,
    released_of,
    tree_bytes,
    tree_of,
)
from tardigrad.session.generators import GeneratorStates
from tardigrad.session.link import Link, Prepared, Released, Welcome
from tardigrad.transports.requests import Wire, content_of, memory_with
from tardigrad.transports.slots import Slot, SlotLayout


class LocalLink(Link):
    """Asks over a wire, and waits.

    Args:
        wire: to the server.
        worker, workers, incarnation, seed: see `Link`.

    Raises:
        SystemExit: in every method: the server wants no more.
    """

    def __init__(self, wire: Wire, *, worker: int, workers: int, incarnation: int, seed: int) -> None:
        self.worker, self.workers, self.incarnation, self.seed = worker, workers, incarnation, seed
        self._wire = wire
        self._up: Tensor | None = None
        self._fault = ""
        self._later: list[Mapping[str, Any]] = []
        self._since = perf_counter()
        self._owner = os.getpid()

    def prepare(self, prepared: Prepared) -> Welcome:
        """See `Link`."""
        slot = prepared_slot(prepared)
        content, descriptors = self._asked("prepare", prepared_content(prepared), [slot.descriptor])
        slot.close()
        layout = SlotLayout.of(prepared.layout, prepared.buffers)
        down, up = (Slot(layout, descriptor) for descriptor in descriptors[:2])
        self._up = up.flat
        return Welcome(
            weights=down.flat,
            buffers=down.buffers,
            gradient=up.flat,
            returned=up.buffers,
            epoch=content["epoch"],
            state=tree_of(content_of(descriptors[2])) if len(descriptors) > 2 else {},
            released=self._released(content["released"]),
        )

    def epochs(self, number: int) -> None:
        """See `Link`."""
        self._asked("epochs", {"number": number})

    def take(self, epoch: int, *, wait: bool) -> Lease | None:
        """See `Link`."""
        content, _ = self._asked("take", {"epoch": epoch, "wait": wait})
        if content.get("released") is not None:
            released = self._released(content["released"])
            if self.renewed is not None:
                self.renewed(released)
        return None if content["lease"] is None else Lease(*content["lease"])

    def order(self, epoch: int, states: GeneratorStates) -> GeneratorStates:
        """See `Link`."""
        content, _ = self._asked("order", {"epoch": epoch, "states": states.as_plain()})
        return GeneratorStates.from_plain(content["states"])

    def give_back(self, leases: Sequence[Lease], *, skipped: bool = False) -> None:
        """See `Link`. They go with the next question: a loader may be freed anywhere, in the middle of another one too.

        A script that raises asks nothing any more; what it held comes back when the server hears of its end.
        """
        if leases:
            self._later.append({"leases": _plain(leases), "skipped": skipped})

    def push(
        self,
        *,
        leases: Sequence[Lease],
        samples: int,
        norm: float,
        loss: float | None = None,
        absent: Sequence[int] = (),
    ) -> Released:
        """See `Link`."""
        seconds = perf_counter() - self._since
        norm = self._go_wrong(norm)
        said = {"leases": _plain(leases), "samples": samples, "norm": norm, "loss": loss, "absent": list(absent)}
        content, _ = self._asked("push", {**said, "seconds": seconds})
        return self._released(content)

    def refresh(self, *, evaluation: bool = False) -> Released:
        """See `Link`."""
        return self._released(self._asked("refresh", {"evaluation": evaluation})[0])

    def evaluated(self, scores: Mapping[str, Mapping[str, float]], *, seconds: float) -> None:
        """See `Link`."""
        plain = {split: dict(values) for split, values in scores.items()}
        self._asked("scores", {"scores": plain, "seconds": seconds})

    def log(self, values: Mapping[str, float]) -> None:
        """See `Link`."""
        self._asked("log", {"values": dict(values)})

    def save(self, state: Mapping[str, Any]) -> None:
        """See `Link`."""
        lying = memory_with(tree_bytes(state))
        try:
            self._asked("save", {}, [lying])
        finally:
            os.close(lying)

    def finish(self) -> None:
        """See `Link`."""
        self._asked("finish", {})

    def _go_wrong(self, norm: float) -> float:
        """Bring about what the run's chaos wants; return the norm to be told."""
        if self._fault == "raise":
            raise PlannedFault("the chaos of this run says that this gradient raises")
        while self._fault == "hang":
            sleep(3600.0)
        if self._fault == "corrupt" and self._up is not None:
            self._up[0] = norm = float("nan")
        return norm

    def _released(self, content: Mapping[str, Any]) -> Released:
        self._since = perf_counter()
        released = released_of(content)
        self._fault = released.fault
        return released

    def _asked(
        self, word: str, content: Mapping[str, Any], descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        """Ask, and wait for the answer; what is to go back goes before."""
        if os.getpid() != self._owner:
            raise SessionError(
                f"a process that was forked from worker {self.worker} uses its session. Only the worker's own process "
                "may: keep the session out of data sets and of what runs in a DataLoader's workers."
            )
        while self._later:
            self._exchanged("back", self._later.pop(0), ())
        return self._exchanged(word, content, descriptors)

    def _exchanged(
        self, word: str, content: Mapping[str, Any], descriptors: Sequence[int]
    ) -> tuple[dict[str, Any], list[int]]:
        """One question and its answer."""
        try:
            self._wire.send(word, content, descriptors)
            answer, found, returned = self._wire.receive()
        except (EOFError, OSError):
            raise SystemExit(0) from None  # the server wants no more, or is there no more
        if answer == "refused":
            raise SessionError(found["message"])
        return found, returned


def _plain(leases: Sequence[Lease]) -> list[list[int]]:
    return [[lease.epoch, lease.start, lease.stop] for lease in leases]
