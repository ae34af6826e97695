"""Commit paths: how a rule's equations are applied to the server's buffers.

Order inside a commit, always: gradient as pushed -> compensate, against the pushing worker's own backup -> weighted
sum over the contributions -> coupled weight decay, momentum, step (the optimizer's equations).

``exact`` is eager PyTorch in torch.optim's own forms; it carries every bitwise law. It walks over the flat buffers
in blocks that fit the cache, so on a CPU no temporary is ever of the model's size where the rule is elementwise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tardigrad.layout import FlatLayout
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.scopes import SHARED, Scope
from tardigrad.specs import Registry

_BLOCK = 65536  # elements: seven float32 streams of it stay in a core's second-level cache
_View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """One contribution as the commit sees it: flat buffers, its facts, and its weight in the sum."""

    worker: int
    gradient: Tensor
    backup: Tensor
    facts: Facts
    weight: float = 1.0


class CommitPath(ABC):
    """Holds a rule's state and applies commits to the weights."""

    name: ClassVar[str]

    @abstractmethod
    def apply(
        self, weights: Tensor, parts: Sequence[Part], *, measure: bool = False, mirrors: Sequence[Tensor] = ()
    ) -> float | None:
        """Apply one commit in place; return ||compensation|| / ||gradient|| where ``measure``, else None.

        The new weights are also written into each of ``mirrors``, in the same pass; a part's backup may be one of them.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All state tensors, copied."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""

    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes of state held now."""


class ExactPath(CommitPath):
    """The eager path.

    Args:
        rule: compensation and optimizer.
        layout: of the flat buffers.
        block: elements walked over at once where the rule is elementwise; None: what fits a core's cache, and on CUDA,
            where a piece more is a few kernels more, all.
    """

    name: ClassVar[str] = "exact"

    def __init__(self, rule: Rule, layout: FlatLayout, *, block: int | None = None) -> None:
        self._rule = rule
        self._layout = layout
        self._sharing = dict(rule.compensation.state_spec())
        self._shared: State = {name: layout.zeros() for name, how in self._sharing.items() if how == SHARED}
        self._own: dict[int, State] = {}
        self._velocity: State = {name: layout.zeros() for name in rule.optimizer.state_spec()}
        if block is None:
            block = layout.size if layout.device.type == "cuda" else _BLOCK
        self._views = {scope: _views(scope, layout, block) for scope in ("element", "tensor", "model")}

    @torch.no_grad()
    def apply(
        self, weights: Tensor, parts: Sequence[Part], *, measure: bool = False, mirrors: Sequence[Tensor] = ()
    ) -> float | None:
        """Apply one commit in place; see the base class."""
        first, second = self._rule.compensation.scope, self._rule.optimizer.scope
        if first == "model":
            parts = [self._measured(weights, part) for part in parts]
        norms = [0.0, 0.0] if measure else None
        facts = parts[-1].facts
        if first == second:
            for view in self._views[first]:
                w = view(weights)
                self._step(w, self._compensated(w, parts, view, norms), view, facts)
                for mirror in mirrors:
                    view(mirror).copy_(w)
        else:
            gradient = torch.zeros_like(weights)  # no piece covers the gaps of a layout: they stay zero
            for view in self._views[first]:
                view(gradient).copy_(self._compensated(view(weights), parts, view, norms))
            for view in self._views[second]:
                self._step(view(weights), view(gradient), view, facts)
                for mirror in mirrors:
                    view(mirror).copy_(view(weights))
        return None if norms is None else math.sqrt(norms[0] / norms[1]) if norms[1] > 0.0 else 0.0

    def _measured(self, weights: Tensor, part: Part) -> Part:
        numbers = self._rule.compensation.measure(part.gradient, weights, part.backup)
        return replace(part, facts=replace(part.facts, measured=dict(numbers)))

    def _compensated(self, w: Tensor, parts: Sequence[Part], view: _View, norms: list[float] | None) -> Tensor:
        """The weighted sum of the compensated contributions over one piece of the buffer."""
        total: Tensor | None = None
        for part in parts:
            g, held = view(part.gradient), self._state_of(part.worker)
            state = {name: view(tensor) for name, tensor in held.items()}
            repaired, after = self._rule.compensation.compensate(g, w, view(part.backup), state, part.facts)
            for name, tensor in after.items():
                state[name].copy_(tensor)
            if norms is not None:
                for place, norm in enumerate(_norms(repaired - g, g)):
                    norms[place] += norm**2
            if part.weight != 1.0:
                repaired = repaired.mul(part.weight)
            total = repaired if total is None else total.add(repaired)
        assert total is not None
        return total

    def _step(self, w: Tensor, g: Tensor, view: _View, facts: Facts) -> None:
        state = {name: view(tensor) for name, tensor in self._velocity.items()}
        stepped, after = self._rule.optimizer.step(w, g, state, facts)
        w.copy_(stepped)
        for name, tensor in after.items():
            state[name].copy_(tensor)

    def _state_of(self, worker: int) -> State:
        """The compensation's state for one worker: its own tensors (made at first use) and the shared ones."""
        own = self._own.get(worker)
        if own is None:
            own = {name: self._layout.zeros() for name, how in self._sharing.items() if how != SHARED}
            own.update(self._shared)
            self._own[worker] = own
        return own

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state, shared compensation state, and each worker's own."""
        return {
            "optimizer": {name: tensor.clone() for name, tensor in self._velocity.items()},
            "shared": {name: tensor.clone() for name, tensor in self._shared.items()},
            "workers": {
                worker: {name: tensor.clone() for name, tensor in held.items() if name not in self._shared}
                for worker, held in self._own.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, tensor in self._velocity.items():
            tensor.copy_(state["optimizer"][name])
        for name, tensor in self._shared.items():
            tensor.copy_(state["shared"][name])
        self._own.clear()
        for worker, held in state["workers"].items():
            own = self._state_of(int(worker))
            for name, tensor in held.items():
                own[name].copy_(tensor)

    def state_bytes(self) -> int:
        """Bytes of state held now."""
        tensors = [*self._velocity.values(), *self._shared.values()]
        tensors += [t for held in self._own.values() for name, t in held.items() if name not in self._shared]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _views(scope: Scope | str, layout: FlatLayout, block: int) -> list[_View]:
    """Functions that cut a flat buffer into the pieces a scope asks for."""
    if scope == "model" or (scope == "element" and layout.size <= block):
        return [lambda flat: flat]
    if scope == "element":
        starts = range(0, layout.size, block)
        return [lambda flat, a=start: flat[a : a + block] for start in starts]  # type: ignore[misc]
    places = zip(layout.shapes, layout.strides, layout.offsets, strict=True)
    return [
        lambda flat, shape=shape, stride=stride, offset=offset: flat.as_strided(  # type: ignore[misc]
            shape, stride, flat.storage_offset() + offset
        )
        for shape, stride, offset in places
    ]


def _norms(*tensors: Tensor) -> list[float]:
    """Their L2 norms, in one transfer."""
    norms: list[float] = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).tolist()
    return norms


COMMIT_PATHS = Registry("commit path", {"exact": "tardigrad.commit:ExactPath"})
