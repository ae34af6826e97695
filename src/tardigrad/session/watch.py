"""Watch: has a backward pass written gradients since one looked last, and are those seen then still there?

Asked of the gradients themselves: which tensor it is, and how often it was written in place, as autograd counts. A hook
on every parameter would know the same and cost a call of Python for each in every backward pass; and gradients that a
script computes by hand, with torch.autograd.grad, fire no hook.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tardigrad.records import Lease
from tardigrad.session.book import LeaseBook

_Known = tuple["weakref.ref[Tensor]", int] | None  # which tensor, and how often it was written


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has found.

    Attributes:
        present: there is a gradient.
        written: one is there that was not there at the look before, or that was written since.
        gone: there were some at the look before, and none of those is there any more.
    """

    present: bool
    written: bool
    gone: bool


class GradientWatch:
    """Watches ``.grad`` of parameters. It keeps no gradient alive."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = tuple(parameters)
        self._known: list[_Known] = [None] * len(self._parameters)

    def look(self) -> Seen:
        """What has happened since the look before."""
        before, self._known = self._known, [_known(parameter.grad) for parameter in self._parameters]
        written, lasting = False, False
        for old, new in zip(before, self._known, strict=True):
            same = old is not None and new is not None and old[0] is new[0]  # one tensor has one reference to it
            lasting = lasting or same
            written = written or (new is not None and not (same and old is not None and old[1] == new[1]))
        present = any(new is not None for new in self._known)
        return Seen(present, written, not lasting and any(old is not None for old in before))


def _known(gradient: Tensor | None) -> _Known:
    return None if gradient is None else (weakref.ref(gradient), gradient._version)


class WatchedBook(LeaseBook):
    """A book that learns of backward passes, and of gradients thrown away, from the gradients themselves.

    It looks whenever a batch is yielded, so that a backward pass counts for the batches before it and not for the next.

    Args:
        parameters: whose gradients are watched.
        fed: whether batches come from a prepared loader. If not, all that is computed for one push is one sample.
    """

    def __init__(self, parameters: Sequence[Tensor], *, fed: bool = True) -> None:
        super().__init__()
        self._watch, self._fed = GradientWatch(parameters), fed
        self._doubtful = 0  # batches whose gradient was thrown away, and that may be computed a second time
        self._thrown: list[Lease] = []

    def look(self) -> Seen:
        """Book what has happened to the gradients since one looked last."""
        seen = self._watch.look()
        if seen.gone and self.unstepped:  # a zero_grad() of the model's, of which the optimizer is not told
            self._throw_away()
        if seen.written:
            if not self._fed and not self.held:
                super().counted(1)
            self._doubtful = 0
            self.backward()
        return seen

    def forget(self) -> None:
        """What has happened to the gradients since one looked last was no backward pass."""
        self._watch.look()

    def yielded(self) -> Lease:
        """As of any book."""
        self.settle()
        return super().yielded()

    def counted(self, samples: int) -> None:
        """As of any book."""
        self.settle()
        super().counted(samples)

    def zeroed(self) -> None:
        """The script is about to throw its gradients away."""
        self.look()
        if self.unstepped:
            self._throw_away()

    def settle(self) -> None:
        """Look; and what was thrown away is not computed a second time, since the script goes on to other batches."""
        self.look()
        if self._doubtful:
            self._thrown.extend(self._part(self._doubtful).leases)
            self._doubtful = 0

    def dropped(self) -> tuple[Lease, ...]:
        """The leases that came free since one asked last, because their gradient was thrown away."""
        thrown, self._thrown = tuple(self._thrown), []
        return thrown

    def _throw_away(self) -> None:
        """Give up the batches behind the last backward pass; where none came after them, they are in doubt."""
        if self._behind < len(self._yielded):
            self._thrown.extend(self.thrown_away())
        else:
            self._doubtful, self._behind = self._behind, 0
