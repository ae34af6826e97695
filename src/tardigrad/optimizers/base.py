"""The contract of an optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from tardigrad.records import Facts
from tardigrad.scopes import Scope

State = dict[str, Tensor]


class Optimizer(ABC):
    """The step a gradient makes.

    A subclass is a frozen dataclass: its fields are the keywords it takes. It must not write into the tensors it
    is given; the commit path decides where results go.
    """

    name: ClassVar[str]
    scope: ClassVar[Scope] = "element"

    def gain(self, delay: int) -> float:
        """The step size that a damped curvature estimate must reckon with, in multiples of lr, > 0.

        Args:
            delay: the longest in commits, >= 0.
        """
        return 1.0

    def preconditioner(self, state: Mapping[str, Tensor], facts: Facts) -> Tensor | None:
        """By what it multiplies lr in each coordinate, as it stood before this gradient; None: by 1.

        Args:
            state: the tensors of `state_spec`.
            facts: how many steps these weights have made.
        """
        return None

    @abstractmethod
    def state_spec(self) -> Sequence[str]:
        """Names of the state tensors, each shaped as the weights and starting at zero."""

    @abstractmethod
    def step(self, w: Tensor, g: Tensor, state: Mapping[str, Tensor], facts: Facts) -> tuple[Tensor, State]:
        """Return new weights and new state.

        Args:
            w: current weights; ``g``: (compensated) gradient, same shape and dtype.
            state: the tensors of `state_spec`, same shape.
            facts: learning rate and step count among them.
        """
