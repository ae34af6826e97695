"""ServedOptimizer: what stands in a script for its optimizer, and steps on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from tardigrad.records import Lease
from tardigrad.session import mistakes
from tardigrad.session.book import Batches
from tardigrad.session.link import Link, Released
from tardigrad.session.mirrored import Closure, GroupMirrors, MirroredOptimizer, loss_of
from tardigrad.session.travelling import Travelling
from tardigrad.session.watch import WatchedBook


class ServedOptimizer(MirroredOptimizer):
    """A torch.optim.Optimizer whose arithmetic runs on the server.

    ``step()`` hands in the gradients as they lie in ``.grad``, so clipped and unscaled by whatever came before it,
    and returns when the parameters hold the weights to go on with. What the server makes of a gradient comes in this
    order: compensation, weight decay, momentum or moments, the step.

    ``param_groups`` are the user's own dicts. The numbers in them are the server's: the learning rate is written
    there after every push, and what the script changes is refused at the next step. ``state`` is empty.

    A parameter without a gradient is passed over, as in torch.optim. A ``zero_grad()`` after a backward pass without
    a step, as after an overflow that a GradScaler skips, hands the samples back, to be computed again by someone.

    Args:
        original: the user's optimizer.
        travelling: its parameters, attached.
        link: to the server.
        book: of the batches.
        served: which of the groups the server steps, in its order.
        accumulate: so many steps make one push, >= 1: the mean of their gradients. What is clipped in the loop is
            then each batch's gradient.
        released: told of every answer to a push.
    """

    def __init__(
        self,
        original: Optimizer,
        *,
        travelling: Travelling,
        link: Link,
        book: WatchedBook,
        served: tuple[int, ...],
        accumulate: int,
        released: Callable[[Released], None],
    ) -> None:
        super().__init__(original)
        self._travelling, self._link, self._book = travelling, link, book
        self._mirrors = GroupMirrors(self, served)
        self._accumulate, self._released = accumulate, released
        self._begun: list[Batches] = []  # stepped, not yet pushed
        self._absent: frozenset[int] = frozenset()

    @property
    def under_way(self) -> bool:
        """Whether a gradient is begun that is still to be pushed."""
        self._book.look()
        return bool(self._begun) or (self._book.unstepped and self._travelling.has_finite_gradient())

    def show(self, released: Released) -> None:
        """The server's answer: *down* holds new weights."""
        self._travelling.received()
        self._mirrors.show(released.rates)

    def step(self, closure: Closure | None = None) -> Any:
        """Hand in the gradient and wait for new weights; with ``accumulate`` above 1, at every so many calls.

        Args:
            closure: computes the loss anew, with its backward pass, and returns it.

        Returns:
            The closure's loss.

        Raises:
            SessionError: a mistake in the script; the sentence says which.
        """
        loss = loss_of(closure)
        self._mirrors.require_unchanged()
        self._travelling.require_untouched()
        batches = self._batches()
        absent = self._travelling.gather(add=bool(self._begun))
        self._absent = self._absent & absent if self._begun else absent
        self._begun.append(batches)
        if len(self._begun) == self._accumulate:
            self._push(None if loss is None else float(torch.as_tensor(loss).detach()))
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch.optim. The samples of a gradient that was not stepped go back, when another batch is begun."""
        self._book.zeroed()
        self._give_back(self._book.dropped())
        super().zero_grad(set_to_none)
        self._book.forget()

    def drained(self) -> None:
        """The loader has no further batch for now: push what was accumulated, divided by its own number.

        The samples of a gradient that has overflowed go back: no step will be made with it.
        """
        self._book.settle()
        overflowed = self._book.unstepped and not self._travelling.has_finite_gradient()
        self._give_back(self._book.dropped() + (self._book.thrown_away() if overflowed else ()))
        if self._begun:
            self._push(None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: the server has laid out the parameters it was given.

        Raises:
            SessionError: always.
        """
        if self._complete:
            raise mistakes.group_added()
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Without effect where there is no state in it, as in what `state_dict` gives here.

        Raises:
            SessionError: there is one.
        """
        if state_dict["state"]:
            raise mistakes.load_state()

    def _batches(self) -> Batches:
        """Those behind the gradient that lies there.

        Raises:
            SessionError: there is none, or it was pushed already, or nobody knows its samples.
        """
        seen = self._book.look()
        self._give_back(self._book.dropped())
        if self._book.unstepped:
            return self._book.for_push()
        if not seen.present or self._book.held:
            raise mistakes.no_backward()
        raise mistakes.no_batch() if seen.written else mistakes.stepped_twice()

    def _push(self, loss: float | None) -> None:
        begun, self._begun = self._begun, []
        released = self._link.push(
            leases=tuple(lease for batches in begun for lease in batches.leases),
            samples=sum(batches.samples for batches in begun),
            norm=self._travelling.hand_up(divided_by=len(begun)),
            loss=loss,
            absent=tuple(sorted(self._absent)),
        )
        self.show(released)
        self._released(released)

    def _give_back(self, leases: tuple[Lease, ...]) -> None:
        if leases:
            self._link.give_back(leases, skipped=True)
