"""Parameter groups: neighbours in the flat buffer that share a learning rate and an optimizer's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.base import Optimizer
from tardigrad.records import Facts

ABSENT = -1


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """So many tensors, one after the other in the layout.

    Args:
        tensors: how many, >= 1.
        lr_factor: by which the commit's learning rate is multiplied, >= 0.
        optimizer: that steps them; None: the rule's.
    """

    tensors: int
    lr_factor: float = 1.0
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_integer("parameter group", "tensors", self.tensors, low=1)
        require_number("parameter group", "lr_factor", self.lr_factor, low=0.0, high=math.inf, include_high=False)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbours in the flat buffer that are stepped alike: elements ``[start, stop)``, tensors ``[first, last)``.

    Attributes:
        number: of the group that they belong to, from 0.
        lr_factor, optimizer: of the group.
        missed: commits from which these tensors were absent, >= 0.
    """

    start: int
    stop: int
    first: int
    last: int
    number: int
    lr_factor: float
    optimizer: Optimizer
    missed: int = 0

    def told(self, facts: Facts) -> Facts:
        """The facts as they are here: the learning rate, the steps these tensors have made, and the gain."""
        lr = facts.rates[self.number] if facts.rates else facts.lr * self.lr_factor
        longest = max(
            facts.staleness, facts.live
        )  # the delay to be reckoned with: every other worker's commit, or this
        gain = self.optimizer.gain(longest)
        if facts.rates or lr != facts.lr or gain != 1.0 or self.missed:  # a copy takes its time
            return replace(facts, lr=lr, step=facts.step - self.missed, gain=gain, rates=())
        return facts


def stretches(layout: FlatLayout, optimizer: Optimizer, groups: Sequence[ParameterGroup]) -> list[Stretch]:
    """Where the groups lie; together they cover the whole buffer, gaps included.

    Raises:
        InvalidArgument: the groups do not name every tensor once.
    """
    count = len(layout.shapes)
    given = list(groups) or [ParameterGroup(count)]
    if sum(group.tensors for group in given) != count:
        raise InvalidArgument(
            f"groups name {sum(group.tensors for group in given)} tensors, there are {count}; every tensor is in one "
            "group, in the order of the weights."
        )
    found, first = [], 0
    for number, group in enumerate(given):
        last = first + group.tensors
        ends = layout.offsets[first], _end(layout, last)
        found.append(Stretch(*ends, first, last, number, group.lr_factor, group.optimizer or optimizer))
        first = last
    return found


def present(layout: FlatLayout, whole: Sequence[Stretch], marks: Sequence[int]) -> list[Stretch]:
    """The stretches without the tensors that are absent, cut where neighbours have missed other numbers of commits.

    Args:
        layout: of the flat buffer.
        whole: its groups, as `stretches` gives them.
        marks: for each tensor how many commits it has missed, or `ABSENT`.
    """
    found = []
    for group in whole:
        first = group.first
        for mark, run in groupby(marks[group.first : group.last]):
            last = first + len(list(run))
            if mark != ABSENT:
                ends = layout.offsets[first], _end(layout, last)
                found.append(replace(group, start=ends[0], stop=ends[1], first=first, last=last, missed=mark))
            first = last
    return found


def strongest(groups: Sequence[Stretch], facts: Facts) -> Facts:
    """The facts for what sees several groups at once: of the one that damping must reckon with most, lr times gain."""
    told = max((group.told(facts) for group in groups), key=lambda each: each.lr * each.gain)
    return replace(told, step=facts.step)


def span(layout: FlatLayout, tensor: int) -> slice:
    """Where a tensor lies, with the gap behind it."""
    return slice(layout.offsets[tensor], _end(layout, tensor + 1))


def _end(layout: FlatLayout, tensor: int) -> int:
    """Where the tensor of this number begins, or the buffer ends."""
    return layout.offsets[tensor] if tensor < len(layout.offsets) else layout.size
