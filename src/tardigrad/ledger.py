"""Ledger: the leases of workers that run a script, which takes them when it likes and pushes several at once.

A script's loader takes leases ahead of the gradients they are for, a step may stand for several batches, and a gradient
may be thrown away. So the leases are not bound to pulls: a worker holds what it took until it was committed or came
back. The law stays: every sample of a finished epoch is applied exactly once, or listed as lost with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tardigrad.errors import ProtocolError
from tardigrad.leases import Leases
from tardigrad.records import Bundle, Lease


class Ledger:
    """Which worker holds which leases.

    Args:
        leases: to be handed out.
    """

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self._held: dict[int, list[Lease]] = {}
        self._begun: dict[int, Mapping[str, Any]] = {}

    def holds(self, worker: int) -> int:
        """How many leases this worker has taken and neither pushed nor given back."""
        return len(self._held.get(worker, ()))

    def take(self, worker: int, epoch: int) -> Lease | None:
        """The next lease for this worker, of this epoch or one before; None where there is none now."""
        lease = self.leases.take(worker, upto=epoch)
        if lease is not None:
            self._held.setdefault(worker, []).append(lease)
        return lease

    def begun(self, epoch: int) -> Mapping[str, Any] | None:
        """From which states of generators this epoch's order is evaluated, as plain data; None: nobody has said."""
        return self._begun.get(epoch)

    def begin(self, epoch: int, states: Mapping[str, Any]) -> None:
        """Keep from which states this epoch's order is evaluated, as long as the epoch is not finished."""
        self._begun = self._unfinished() | {epoch: states}

    def pushed(self, worker: int, leases: Sequence[Lease]) -> Bundle:
        """The worker hands in a gradient on these; it holds them no longer, they wait for their commit.

        Raises:
            ProtocolError: it does not hold them.
        """
        self._let_go(worker, leases)
        return Bundle(tuple(leases))

    def committed(self, bundle: Bundle) -> None:
        """A gradient on these was applied."""
        for lease in bundle.leases:
            self.leases.finish(lease)

    def refused(self, bundle: Bundle, *, usable: bool) -> list[Lease]:
        """A gradient on these was not applied; return those that are given up for lost.

        Args:
            bundle: of the push.
            usable: whether nothing was wrong with the gradient but its age: then they come back as often as it takes.
        """
        return self._back(bundle.leases, "" if usable else "non-finite")

    def give_back(self, worker: int, leases: Sequence[Lease], *, skipped: bool = False) -> list[Lease]:
        """The worker hands leases back, unused or ``skipped``; return those given up for lost: skipped three times.

        Raises:
            ProtocolError: it does not hold them.
        """
        self._let_go(worker, leases)
        return self._back(leases, "skipped" if skipped else "")

    def join(self, worker: int) -> None:
        """A worker takes part from now on."""
        self.leases.join(worker)

    def leave(self, worker: int) -> list[Lease]:
        """A worker takes part no longer; what it held comes back, and is returned."""
        held = self._held.pop(worker, [])
        self._back(held, "")
        self.leases.leave(worker)
        return held

    def state_dict(self) -> dict[str, Any]:
        """The leases', those taken counted as outstanding, and who holds which."""
        held = {worker: [[one.epoch, one.start, one.stop] for one in taken] for worker, taken in self._held.items()}
        leases = self.leases.state_dict(under_way=True)
        return {"leases": leases, "held": held, "epochs": self.leases.epochs, "begun": self._unfinished()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.leases.epochs = state["epochs"]
        self.leases.load_state_dict(state["leases"])
        self._held = {int(worker): [Lease(*one) for one in taken] for worker, taken in state["held"].items()}
        self._begun = {int(epoch): states for epoch, states in state["begun"].items()}

    def _unfinished(self) -> dict[int, Mapping[str, Any]]:
        finished = self.leases.finished_epochs
        return {epoch: states for epoch, states in self._begun.items() if epoch >= finished}

    def _let_go(self, worker: int, leases: Sequence[Lease]) -> None:
        held = self._held.get(worker, [])
        for lease in leases:
            if lease not in held:
                raise ProtocolError(f"worker {worker} hands in {lease}, which it has not taken.")
        self._held[worker] = [lease for lease in held if lease not in leases]

    def _back(self, leases: Sequence[Lease], reason: str) -> list[Lease]:
        """Hand leases back; those rejected for the third time are given up, and returned."""
        if not reason:
            for lease in leases:
                self.leases.give_back(lease)
            return []
        return [lease for lease in leases if self.leases.reject(lease, reason)]
