"""The law of the compiled commit path: what it computes is, but for rounding, what the exact path computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tardigrad.commit.base import Part, not_elementwise
from tardigrad.commit.exact import ExactPath
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.testing.laws import require
from tardigrad.testing.walks import gradient, initial_weights, random_events

TOLERANCE = 1e-6  # of |w| + lr |g| + lr |compensation|, for one commit in float32
_COMMITS = 200
_STATE_TOLERANCE = 1e-5  # of a state tensor's largest number, after all commits


def compiled_equals_exact(rule: Rule, lr: float) -> None:
    """Over 200 commits of three workers both paths make of the same numbers the same weights and state.

    Both begin each commit with the weights of the exact path; each keeps its own state all along. A rule that is not
    elementwise is not compiled, and without a C++ compiler none is: then there is nothing to compare.
    """
    if not_elementwise(rule):
        return
    from tardigrad.commit.compiled import CompiledPath, compiler  # what torch compiles with takes seconds to import

    if compiler() is None:
        return
    layout = FlatLayout.of(initial_weights(torch.float32))
    exact, compiled = ExactPath(rule, layout), CompiledPath(rule, layout)
    for commit in _commits(rule, layout, lr):
        ours, theirs = commit.weights.clone(), commit.weights.clone()
        first, second = exact.apply(ours, [commit.part]), compiled.apply(theirs, [commit.part])
        require(first is None and second is None, "a commit that is not measured returns a ratio.")
        bound = TOLERANCE * commit.scale(ours)
        off = float(((ours - theirs).abs() - bound).max())
        said = f"at commit {commit.part.facts.version + 1} the compiled path is off by {off:.3g} more than rounding."
        require(off <= 0.0, said)
        commit.weights.copy_(ours)
    for name, one, other in _pairs(exact.state_dict(), compiled.state_dict()):
        off = float((one - other).abs().max()) / max(float(one.abs().max()), 1e-30)
        require(off <= _STATE_TOLERANCE, f"after {_COMMITS} commits the state {name} differs by {off:.3g} of its size.")


@dataclass(frozen=True, slots=True)
class _Commit:
    """The weights before a commit, which may be overwritten after it, and its only contribution."""

    weights: Tensor
    part: Part

    def scale(self, after: Tensor) -> Tensor:
        """|w| + lr |g| + lr |compensation|; how far the weights went stands for the last, and for a momentum's part."""
        return self.weights.abs() + self.part.facts.lr * self.part.gradient.abs() + (after - self.weights).abs()


def _commits(rule: Rule, layout: FlatLayout, lr: float) -> Iterator[_Commit]:
    """What the two paths are given, made of the events of a scripted walk."""
    weights = layout.pack(initial_weights(layout.dtype))
    held = {worker: (0, weights.clone()) for worker in range(3)}
    version = 0
    for event in random_events(4 * _COMMITS):
        if event.action == "pull":
            held[event.worker] = (version, weights.clone())
            continue
        read, backup = held[event.worker]
        pushed = layout.pack(gradient(layout.views(backup), version))
        facts = Facts(version - read, lr / (1.0 + version / 100.0), version, 3, version, 16)
        yield _Commit(weights, Part(event.worker, pushed, backup, facts))
        version += 1
        if version == _COMMITS:
            return


def _pairs(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Tensor, Tensor]]:
    """The tensors of two nested dictionaries of one shape, with their names."""
    if isinstance(one, Tensor):
        yield name, one, other
        return
    require(set(one) == set(other), f"the paths keep other states: {sorted(map(str, one))}, {sorted(map(str, other))}.")
    for key in one:
        yield from _pairs(one[key], other[key], f"{name} {key}".strip())
