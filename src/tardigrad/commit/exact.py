"""The exact path: eager PyTorch, in torch.optim's own forms.

It walks over the flat buffers in blocks that fit the cache, so that on a CPU no temporary is ever of the model's size
where the rule is elementwise: each is a block, whose memory the allocator hands out again for the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.commit.base import CommitPath, Part
from tardigrad.commit.groups import ParameterGroup, Stretch
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.scopes import Scope

_BLOCK = 65536  # elements: four float32 streams of it stay in a core's second-level cache; less is more calls than work
_WIDTH = {"element": 0, "tensor": 1, "model": 2}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the flat buffers that is worked on at once; shaped where a rule wants a tensor's shape."""

    start: int
    stop: int
    stretch: Stretch
    shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()

    def of(self, flat: Tensor) -> Tensor:
        """This piece of a buffer, a view."""
        if self.shape is None:
            return flat[self.start : self.stop]
        return flat.as_strided(self.shape, self.stride, flat.storage_offset() + self.start)

    def told(self, facts: Facts, *, placed: bool = False) -> Facts:
        """The facts as they are for this piece; where it lies only if ``placed``, since a copy takes its time."""
        factor, gain = self.stretch.lr_factor, self.stretch.gain(facts)
        if factor != 1.0 or gain != 1.0:
            facts = replace(facts, lr=facts.lr * factor, gain=gain)
        return replace(facts, place=self.start) if placed and self.start else facts


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
        if block is None:
            block = layout.size if layout.device.type == "cuda" else _BLOCK
        self._placed = rule.compensation.reads_place
        if rule.compensation.window_plan is not None and rule.compensation.scope != "model":
            raise InvalidArgument(f"{rule.name}: a rule with a window_plan sees all weights at once: scope = 'model'.")
        first, second = rule.compensation.scope, rule.optimizer.scope
        if "element" in (first, second) or first == second:  # what is elementwise may be cut as the other wants it
            scope = max(first, second, key=_WIDTH.__getitem__)
            self._pieces = self._steps = _pieces(scope, layout, self.stretches, block)
            self._between: Tensor | None = None
        else:
            self._pieces, self._steps = (_pieces(scope, layout, self.stretches, block) for scope in (first, second))
            self._between = layout.zeros()  # no piece covers the gaps of a layout: they stay zero

    @torch.no_grad()
    def apply(
        self, weights: Tensor, parts: Sequence[Part], *, measure: bool = False, mirrors: Sequence[Tensor] = ()
    ) -> float | None:
        """Apply one commit in place; see the base class."""
        norms = [0.0, 0.0] if measure else None
        with threads(self.threads):
            parts = [self._measured(weights, self.remembered(part)) for part in parts]
            for piece in self._pieces:
                g = self._compensated(piece.of(weights), parts, piece, norms)
                if self._between is None:
                    self._step(weights, g, piece, parts[-1].facts, mirrors)
                else:
                    piece.of(self._between).copy_(g)
            if self._between is not None:
                for piece in self._steps:
                    self._step(weights, piece.of(self._between), piece, parts[-1].facts, mirrors)
        return None if norms is None else math.sqrt(norms[0] / norms[1]) if norms[1] > 0.0 else 0.0

    @torch.no_grad()
    def compensated(self, weights: Tensor, part: Part, *, advance: bool) -> Iterator[tuple[Piece, Tensor]]:
        """The compensated contribution, piece by piece, to be read to its end; the weights stay as they are.

        Args:
            weights: flat.
            part: of the window, where there is one, it is already; see `remembered`.
            advance: whether the rule's state becomes what it is after this contribution.
        """
        part = self._measured(weights, part)
        for piece in self._pieces:
            yield piece, self._repaired(piece.of(weights), part, piece, advance=advance)

    def remembered(self, part: Part) -> Part:
        """The contribution with the window of the last gradients, its own included, where the rule wants one."""
        window = self.state.window
        if window is None or part.facts.window is not None:
            return part
        window.add(part.gradient, live=part.facts.live)
        return replace(part, facts=replace(part.facts, window=window))

    def _measured(self, weights: Tensor, part: Part) -> Part:
        """The contribution with the numbers over the whole vector that the compensation asks for."""
        for number in range(self.rule.compensation.read_passes):
            part = replace(part, facts=replace(part.facts, read_pass=number))
            part = self.concluded(part, (self._sums(weights, part, piece) for piece in self._pieces))
        return part

    def _sums(self, weights: Tensor, part: Part, piece: Piece) -> Mapping[str, Tensor]:
        state = {name: piece.of(tensor) for name, tensor in self.state.of(part.worker).items()}
        g, w, backup = piece.of(part.gradient), piece.of(weights), piece.of(part.backup)
        return self.rule.compensation.measure(g, w, backup, state, piece.told(part.facts, placed=self._placed))

    def _compensated(self, w: Tensor, parts: Sequence[Part], piece: Piece, norms: list[float] | None) -> Tensor:
        """The weighted sum of the compensated contributions over one piece of the buffer."""
        total: Tensor | None = None
        for part in parts:
            repaired = self._repaired(w, part, piece, advance=True)
            if norms is not None:
                g = piece.of(part.gradient)
                for place, norm in enumerate(_norms(repaired - g, g)):
                    norms[place] += norm**2
            if part.weight != 1.0:
                repaired = repaired.mul(part.weight)
            total = repaired if total is None else total.add(repaired)
        assert total is not None
        return total

    def _repaired(self, w: Tensor, part: Part, piece: Piece, *, advance: bool) -> Tensor:
        """One compensated contribution over one piece of the buffer; ``advance``: its state is kept."""
        g, backup = piece.of(part.gradient), piece.of(part.backup)
        state = {name: piece.of(tensor) for name, tensor in self.state.of(part.worker).items()}
        facts = piece.told(part.facts, placed=self._placed)
        repaired, after = self.rule.compensation.compensate(g, w, backup, state, facts)
        for name, tensor in after.items() if advance else ():
            state[name].copy_(tensor)
        return repaired

    def _step(self, weights: Tensor, g: Tensor, piece: Piece, facts: Facts, mirrors: Sequence[Tensor]) -> None:
        w = piece.of(weights)
        state = {name: piece.of(tensor) for name, tensor in self.state.optimizer.items()}
        stepped, after = piece.stretch.optimizer.step(w, g, state, piece.told(facts))
        w.copy_(stepped)
        for name, tensor in after.items():
            state[name].copy_(tensor)
        for mirror in mirrors:
            piece.of(mirror).copy_(w)


def _pieces(scope: Scope | str, layout: FlatLayout, groups: Sequence[Stretch], block: int) -> list[Piece]:
    """The pieces of a flat buffer that a scope asks for; none reaches over the end of its group."""
    if scope == "tensor":
        return [
            Piece(layout.offsets[k], layout.offsets[k], group, layout.shapes[k], layout.strides[k])
            for group in groups
            for k in range(group.first, group.last)
        ]
    if scope == "model" and len(groups) > 1:
        raise InvalidArgument(
            "a rule or optimizer of scope 'model' sees all weights at once; it cannot be used with several groups."
        )
    step = layout.size if scope == "model" else block
    return [
        Piece(start, min(start + step, group.stop), group)
        for group in groups
        for start in range(group.start, group.stop, step)
    ]


def _norms(*tensors: Tensor) -> list[float]:
    """Their L2 norms, in one transfer."""
    norms: list[float] = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).tolist()
    return norms
