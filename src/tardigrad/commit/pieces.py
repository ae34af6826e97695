"""Pieces: how the exact path walks over the flat buffers, as the scopes of a compensation and an optimizer ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tardigrad.commit.groups import ABSENT, Stretch, present, strongest
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.scopes import Scope


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the flat buffers that is worked on at once; shaped where a rule wants a tensor's shape.

    Attributes:
        start, stop: elements; of a shaped one both are where it begins.
        stretch: the number of the stretch whose facts hold for it.
        shape, stride: of a tensor; None: flat.
        kept: of a piece that is all weights, what is written where some tensors are absent; None: all of it.
    """

    start: int
    stop: int
    stretch: int
    shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()
    kept: tuple[slice, ...] | None = None

    def of(self, flat: Tensor) -> Tensor:
        """This piece of a buffer, a view."""
        if self.shape is None:
            return flat[self.start : self.stop]
        return flat.as_strided(self.shape, self.stride, flat.storage_offset() + self.start)

    def write(self, flat: Tensor, result: Tensor) -> None:
        """Put a result into this piece of a buffer, but for what is absent."""
        if self.kept is None:
            self.of(flat).copy_(result)
            return
        for cut in self.kept:
            flat[cut].copy_(result[cut])

    def without_absent(self, result: Tensor) -> Tensor:
        """The result with zeros for what is absent."""
        if self.kept is None:
            return result
        out = torch.zeros_like(result)
        self.write(out, result)
        return out


@dataclass(frozen=True, slots=True)
class Walk:
    """One commit's way over the buffers.

    Attributes:
        pieces: what is compensated, one after the other.
        steps: what is stepped; the same list where each piece is stepped as soon as it is compensated.
        groups: all weights.
        stretches: what is stepped alike; the numbers of pieces count these.
        at_once: the compensation sees all weights at once.
    """

    pieces: list[Piece]
    steps: list[Piece]
    groups: Sequence[Stretch]
    stretches: Sequence[Stretch]
    at_once: bool

    @property
    def together(self) -> bool:
        """Whether each piece is stepped as soon as it is compensated."""
        return self.pieces is self.steps

    def compensating(self, facts: Facts) -> list[Facts]:
        """The facts that the compensation is told, for the numbers that its pieces have."""
        return [strongest(self.groups, facts)] if self.at_once else self.stepping(facts)

    def stepping(self, facts: Facts) -> list[Facts]:
        """The facts that the optimizer is told, for each stretch."""
        return [each.told(facts) for each in self.stretches]

    def preconditioner(self, moments: Mapping[str, Tensor], facts: Facts) -> Tensor | None:
        """The optimizers' of all weights, flat; 1 where one has none, None where no one has.

        Args:
            moments: the optimizers' state, flat.
            facts: of the commit.
        """
        whole: Tensor | None = None
        for each in self.stretches:
            cut = slice(each.start, each.stop)
            state = {name: tensor[cut] for name, tensor in moments.items()}
            found = each.optimizer.preconditioner(state, each.told(facts))
            if found is not None:
                whole = found.new_ones(self.groups[-1].stop) if whole is None else whole
                whole[cut].copy_(found)
        return whole


def walk_over(rule: Rule, layout: FlatLayout, groups: Sequence[Stretch], marks: Sequence[int], block: int) -> Walk:
    """The walk that a rule's scopes ask for.

    Args:
        rule: its compensation and optimizer may be of different scopes; what is elementwise is cut as the other wants.
        layout: of the buffers.
        groups: all weights; of an optimizer of scope ``model`` one.
        marks: commits that each tensor has missed, or `ABSENT`; nothing: none has or is.
        block: elements of a piece where both are elementwise.
    """
    first, second = rule.compensation.scope, rule.optimizer.scope
    stretches = present(layout, groups, marks) if marks else groups
    kept = tuple(slice(each.start, each.stop) for each in stretches) if ABSENT in marks else None
    whole = [Piece(0, layout.size, 0, kept=kept)]
    if second == "model":
        pieces = whole if first != "tensor" else [_tensor(layout, k, 0) for run in stretches for k in _tensors(run)]
        return Walk(pieces, whole, groups, groups, first == "model")
    steps = _pieces("tensor" if first == "tensor" else second, layout, stretches, block)
    return Walk(whole if first == "model" else steps, steps, groups, stretches, first == "model")


def _pieces(scope: Scope, layout: FlatLayout, stretches: Sequence[Stretch], block: int) -> list[Piece]:
    """Blocks or tensors; no piece reaches over the end of its stretch."""
    if scope == "tensor":
        return [_tensor(layout, k, number) for number, run in enumerate(stretches) for k in _tensors(run)]
    return [
        Piece(start, min(start + block, run.stop), number)
        for number, run in enumerate(stretches)
        for start in range(run.start, run.stop, block)
    ]


def _tensor(layout: FlatLayout, tensor: int, stretch: int) -> Piece:
    start = layout.offsets[tensor]
    return Piece(start, start, stretch, layout.shapes[tensor], layout.strides[tensor])


def _tensors(stretch: Stretch) -> range:
    return range(stretch.first, stretch.last)
