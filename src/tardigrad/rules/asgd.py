r"""ASGD: the gradient is applied as it comes, however old it is.

.. math::  w_{t+\tau+1} = w_{t+\tau} - \text{lr} \; g(w_t)

The zero-order term of the Taylor expansion that delay compensation continues (Zheng et al. 2017, Eq. 3 to 5).

References:
    Dean et al., Large scale distributed deep networks, NIPS 2012 (Downpour SGD).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.base import Compensation
from tardigrad.scopes import Scope


@dataclass(frozen=True, slots=True)
class ASGD(Compensation):
    """No compensation."""

    name: ClassVar[str] = "asgd"
    scope: ClassVar[Scope] = "element"
    reads_backup: ClassVar[bool] = False
    baseline: ClassVar[str] = "asgd"

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """The gradient itself."""
        return g, {}
