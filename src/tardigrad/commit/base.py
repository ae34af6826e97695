"""The contract of a commit path, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tardigrad.commit.groups import ABSENT, ParameterGroup, Stretch, span, stretches
from tardigrad.commit.state import RuleState
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule


@dataclass(frozen=True, slots=True)
class Part:
    """One contribution as the commit sees it: flat buffers, its facts, and its weight in the sum; see `Push.again`."""

    worker: int
    gradient: Tensor
    backup: Tensor
    facts: Facts
    weight: float = 1.0
    again: Tensor | None = None


class CommitPath(ABC):
    """Holds a rule's state and applies commits to the weights.

    Args:
        rule: compensation and optimizer.
        layout: of the flat buffers.
        threads: that one commit may use, >= 1.
        groups: of parameters, in the layout's order; none: all parameters are one.
    """

    name: ClassVar[str]

    def __init__(
        self, rule: Rule, layout: FlatLayout, *, threads: int = 1, groups: Sequence[ParameterGroup] = ()
    ) -> None:
        self.rule = rule
        self.layout = layout
        self.threads = threads
        self.stretches: list[Stretch] = stretches(layout, rule.optimizer, groups)
        self.state = RuleState(rule.compensation, [each.optimizer for each in self.stretches], layout)

    @property
    def made_by(self) -> str:
        """What beside torch the last bits depend on; nothing where torch is all."""
        return ""

    def prepare(self, *, mirrored: bool = False, several: bool = False, measure: bool = False) -> None:  # noqa: B027
        """Make ready whatever takes time, before the first commit.

        Args:
            mirrored: commits will write the new weights into the pushing worker's backup.
            several: commits will have several contributions.
            measure: some commits will be measured.

        Raises:
            CompileError: when this path does not work here, or not for this rule.
        """

    @torch.no_grad()
    def apply(
        self,
        weights: Tensor,
        parts: Sequence[Part],
        *,
        measure: bool = False,
        mirrors: Sequence[Tensor] = (),
        absent: Sequence[int] = (),
    ) -> float | None:
        """Apply one commit in place.

        Args:
            weights: flat.
            parts: the contributions, at least one.
            measure: whether to measure.
            mirrors: flat buffers that the new weights are also written into; a part's backup may be one of them.
            absent: numbers of the tensors that have no gradient in any part, where it must be zero. As torch.optim
                passes over a parameter without one, their weights and state stay as they are, to the bit, and their
                steps are not counted; what is written into mirrors is all weights.

        Returns:
            ||compensation|| / ||gradient|| where ``measure``, else None.
        """
        ratio = self._applied(weights, parts, self._marks(absent), measure=measure, mirrors=mirrors)
        for tensor in set(absent):
            self.state.missed[tensor] += 1
            cut = span(self.layout, tensor)
            for mirror in mirrors:
                mirror[cut].copy_(weights[cut])
        return ratio

    @abstractmethod
    def _applied(
        self,
        weights: Tensor,
        parts: Sequence[Part],
        marks: tuple[int, ...],
        *,
        measure: bool,
        mirrors: Sequence[Tensor],
    ) -> float | None:
        """`apply` but for what is absent: it is left out, of mirrors too; ``marks`` as `_marks` gives them."""

    def _marks(self, absent: Sequence[int]) -> tuple[int, ...]:
        """For each tensor how many commits it has missed, or `ABSENT`; nothing where none has or is."""
        missed = self.state.missed
        if not absent and not any(missed):
            return ()
        out = [number for number in absent if not 0 <= number < len(missed)]
        if out:
            raise InvalidArgument(f"absent={tuple(absent)}: {out[0]} is no tensor's number; there are {len(missed)}.")
        gone = set(absent)
        return tuple(ABSENT if number in gone else count for number, count in enumerate(missed))

    def remembered(self, part: Part) -> Part:
        """The contribution with what the path remembers of earlier ones; a part that has it already stays as it is."""
        return part

    def concluded(self, part: Part, sums: Iterable[Mapping[str, Tensor]]) -> Part:
        """The contribution with what a read pass made known, from the sums over the pieces."""
        totals: dict[str, Tensor] = {}
        for piece in sums:  # none is kept: a small tensor in each block's place would keep malloc from using it again
            totals = {name: totals[name] + total if name in totals else total for name, total in piece.items()}
        plain = {name: total.item() for name, total in totals.items()}
        known = self.rule.compensation.conclude(plain, part.facts)
        return replace(part, facts=replace(part.facts, measured={**part.facts.measured, **known}))

    def state_dict(self) -> dict[str, Any]:
        """All state tensors, copied."""
        return self.state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.state.load_state_dict(state)

    def state_bytes(self) -> int:
        """Bytes of state held now."""
        return self.state.bytes_held()


def not_elementwise(rule: Rule) -> str:
    """Why this path cannot take a rule, or nothing."""
    for part, owner in ((rule.compensation, "rule"), (rule.optimizer, "optimizer")):
        if part.scope != "element":
            return f"the {owner} {part.name!r} has scope {part.scope!r}: only elementwise ones are compiled."
    return ""
