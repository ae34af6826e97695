"""Parameter groups: neighbours in the flat buffer that share a learning rate and an optimizer's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.base import Optimizer
from tardigrad.records import Facts


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
    """A group in the flat buffer: elements ``[start, stop)``, tensors ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int
    lr_factor: float
    optimizer: Optimizer

    def gain(self, facts: Facts) -> float:
        """`Optimizer.gain` at the longest delay to be reckoned with: a commit of every other worker, or this one's."""
        return self.optimizer.gain(max(facts.staleness, facts.live))


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
    for group in given:
        last = first + group.tensors
        stop = layout.offsets[last] if last < count else layout.size
        made = group.optimizer or optimizer
        found.append(Stretch(layout.offsets[first], stop, first, last, group.lr_factor, made))
        first = last
    return found
