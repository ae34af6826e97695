"""The exact path: eager PyTorch, in torch.optim's own forms.

It walks over the flat buffers in blocks that fit the cache, so that on a CPU no temporary is ever of the model's size
where the rule is elementwise: each is a block, whose memory the allocator hands out again for the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.commit.base import CommitPath, Part
from tardigrad.commit.groups import ParameterGroup
from tardigrad.commit.pieces import Piece, Walk, walk_over
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.base import Optimizer, State
from tardigrad.records import Facts
from tardigrad.rules.base import Rule

_BLOCK = 65536  # elements: four float32 streams of it stay in a core's second-level cache; less is more calls than work


@dataclass(frozen=True, slots=True)
class Seen:
    """A contribution, and its facts as they are for each stretch."""

    part: Part
    facts: list[Facts]


class ExactPath(CommitPath):
    """The eager path.

    Args:
        rule, layout, threads, groups: see the base class.
        block: elements walked over at once where the rule is elementwise; None: what fits a core's cache, and on CUDA,
            where a piece more is a few kernels more, all.
    """

    name: ClassVar[str] = "exact"

    def __init__(
        self,
        rule: Rule,
        layout: FlatLayout,
        *,
        threads: int = 1,
        groups: Sequence[ParameterGroup] = (),
        block: int | None = None,
    ) -> None:
        super().__init__(rule, layout, threads=threads, groups=groups)
        _require_fitting_scopes(rule, several_groups=len(self.stretches) > 1)
        self._block = block or (layout.size if layout.device.type == "cuda" else _BLOCK)
        self._placed = rule.compensation.reads_place
        self._lent: State | None = None
        self._whole = self._last = walk_over(rule, layout, self.stretches, (), self._block)
        self._marked: tuple[int, ...] = ()
        gathers = rule.compensation.scope == "tensor" and not self._whole.together
        self._between = layout.zeros() if gathers else None  # no piece covers the gaps of a layout: they stay zero

    def _applied(
        self,
        weights: Tensor,
        parts: Sequence[Part],
        marks: tuple[int, ...],
        *,
        measure: bool,
        mirrors: Sequence[Tensor],
    ) -> float | None:
        """See the base class."""
        norms, walk = [0.0, 0.0] if measure else None, self._walk(marks)
        with threads(self.threads):
            seen = [self._seen(weights, self.remembered(part), walk) for part in parts]
            told = walk.stepping(seen[-1].part.facts) if walk.at_once else seen[-1].facts
            between = None if walk.together else self._gathered(weights, seen, walk, norms)
            for piece in walk.steps:
                g = self._compensated(weights, seen, piece, norms) if between is None else piece.of(between)
                self._step(weights, g, piece, walk.stretches[piece.stretch].optimizer, told[piece.stretch], mirrors)
        return None if norms is None else math.sqrt(norms[0] / norms[1]) if norms[1] > 0.0 else 0.0

    @torch.no_grad()
    def compensated(
        self, weights: Tensor, part: Part, *, advance: bool, absent: Sequence[int] = ()
    ) -> Iterator[tuple[Piece, Tensor]]:
        """The compensated contribution, piece by piece, to be read to its end; the weights stay as they are.

        Args:
            weights: flat.
            part: of the window, where there is one, it is already; see `remembered`.
            advance: whether the rule's state becomes what it is after this contribution.
            absent: see `apply`.
        """
        walk = self._walk(self._marks(absent))
        seen = self._seen(weights, part, walk)
        for piece in walk.pieces:
            yield piece, self._repaired(weights, seen, piece, advance=advance)

    def lend(self, moments: State) -> None:
        """Let a path that never steps see the optimizer's state of the one that does."""
        self._lent = moments

    def remembered(self, part: Part) -> Part:
        """The contribution with the window of the last gradients, its own included, where the rule wants one."""
        window = self.state.window
        if window is None or part.facts.window is not None:
            return part
        window.add(part.gradient, live=part.facts.live)
        return replace(part, facts=replace(part.facts, window=window))

    def _walk(self, marks: tuple[int, ...]) -> Walk:
        """The way of a commit with these marks; that of the last one is kept."""
        if not marks:
            return self._whole
        if marks != self._marked:
            self._last = walk_over(self.rule, self.layout, self.stretches, marks, self._block)
            self._marked = marks
        return self._last

    def _seen(self, weights: Tensor, part: Part, walk: Walk) -> Seen:
        """The contribution with the numbers over the whole vector that the compensation asks for."""
        if self.rule.compensation.reads_preconditioner and part.facts.staleness:
            found = walk.preconditioner(self.state.optimizer if self._lent is None else self._lent, part.facts)
            part = replace(part, facts=replace(part.facts, preconditioner=found))
        for number in range(self.rule.compensation.read_passes):
            part = replace(part, facts=replace(part.facts, read_pass=number))
            seen = Seen(part, walk.compensating(part.facts))
            part = self.concluded(part, map(partial(self._sums, weights, seen), walk.pieces))
        return Seen(part, walk.compensating(part.facts))

    def _sums(self, weights: Tensor, seen: Seen, piece: Piece) -> Mapping[str, Tensor]:
        state = {name: piece.of(tensor) for name, tensor in self.state.of(seen.part.worker).items()}
        g, w, backup = piece.of(seen.part.gradient), piece.of(weights), piece.of(seen.part.backup)
        return self.rule.compensation.measure(g, w, backup, state, self._facts(seen, piece))

    def _facts(self, seen: Seen, piece: Piece) -> Facts:
        """The facts as they are for a piece; where it lies only if that is read, since a copy takes its time."""
        facts = seen.facts[piece.stretch]
        return replace(facts, place=piece.start) if self._placed and piece.start else facts

    def _gathered(self, weights: Tensor, seen: Sequence[Seen], walk: Walk, norms: list[float] | None) -> Tensor:
        """The sum of the compensated contributions, flat."""
        if self._between is None:
            return self._compensated(weights, seen, walk.pieces[0], norms).contiguous()
        if walk is not self._whole:
            self._between.zero_()  # what is absent now was there before
        for piece in walk.pieces:
            piece.of(self._between).copy_(self._compensated(weights, seen, piece, norms))
        return self._between

    def _compensated(self, weights: Tensor, seen: Sequence[Seen], piece: Piece, norms: list[float] | None) -> Tensor:
        """The weighted sum of the compensated contributions over one piece of the buffer."""
        total: Tensor | None = None
        for each in seen:
            repaired = self._repaired(weights, each, piece, advance=True)
            if norms is not None:
                g = piece.of(each.part.gradient)
                for place, norm in enumerate(_norms(repaired - g, g)):
                    norms[place] += norm**2
            if each.part.weight != 1.0:
                repaired = repaired.mul(each.part.weight)
            total = repaired if total is None else total.add(repaired)
        assert total is not None
        return total

    def _repaired(self, weights: Tensor, seen: Seen, piece: Piece, *, advance: bool) -> Tensor:
        """One compensated contribution over one piece of the buffer; ``advance``: its state is kept."""
        part, held = seen.part, self.state.of(seen.part.worker)
        g, w, backup = piece.of(part.gradient), piece.of(weights), piece.of(part.backup)
        state = {name: piece.of(tensor) for name, tensor in held.items()}
        repaired, after = self.rule.compensation.compensate(g, w, backup, state, self._facts(seen, piece))
        for name, tensor in after.items() if advance else ():
            piece.write(held[name], tensor)
        return piece.without_absent(repaired)

    def _step(
        self, weights: Tensor, g: Tensor, piece: Piece, optimizer: Optimizer, facts: Facts, mirrors: Sequence[Tensor]
    ) -> None:
        held = self.state.optimizer
        state = {name: piece.of(tensor) for name, tensor in held.items()}
        stepped, after = optimizer.step(piece.of(weights), g, state, facts)
        piece.write(weights, stepped)
        for name, tensor in after.items():
            piece.write(held[name], tensor)
        for mirror in mirrors:
            piece.write(mirror, piece.of(weights))


def _require_fitting_scopes(rule: Rule, *, several_groups: bool) -> None:
    needs = {
        "with a window_plan": rule.compensation.window_plan is not None,
        "that reads_preconditioner": rule.compensation.reads_preconditioner,
    }
    for need, is_there in needs.items():
        if is_there and rule.compensation.scope != "model":
            raise InvalidArgument(f"{rule.name}: a rule {need} sees all weights at once: scope = 'model'.")
    if rule.optimizer.scope == "model" and several_groups:
        raise InvalidArgument(
            "an optimizer of scope 'model' sees all weights at once; it cannot be used with several groups."
        )


def _norms(*tensors: Tensor) -> list[float]:
    """Their L2 norms, in one transfer."""
    norms: list[float] = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).tolist()
    return norms
