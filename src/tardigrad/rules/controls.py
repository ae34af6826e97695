r"""Controls: rules that wrap a compensation and spoil one thing about it, to tell what its gain comes from.

A compensated gradient g' = g + c is at once a repair of the gradient's direction and, most of the time, a smaller
step. Whether the first does anything is told by arms that keep the second. With g' what the wrapped rule makes of g:

.. math::

    \text{sign-flipped:} \quad & g - c = 2 g - g'

    \text{sign-random:} \quad & g + s \odot c, \quad s_i = \pm 1 \text{ at random, anew at each commit}

    \text{its-length:} \quad & g \, \lVert g' \rVert / \lVert g \rVert

    \text{its-direction:} \quad & g' \, \lVert g \rVert / \lVert g' \rVert

with L2 norms over the whole gradient, taken in float64. If the rule is no better than ``its-length``, a smaller
learning rate would have done; if ``sign-flipped`` is no worse, the compensation carries no information; if
``its-direction`` keeps the gain, the gain is the direction's. Each control keeps the wrapped rule's state as that
rule would, and is plain ASGD at staleness 0.

>>> import tardigrad
>>> tardigrad.rule("sign-flipped(of='dc-asgd-c(lambda0=1)')").spec
"sign-flipped(of='dc-asgd-c(lambda0=1.0, clip_compensation=None, damped=False)')"
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.asgd import ASGD
from tardigrad.rules.base import Compensation, Rule, make_rule
from tardigrad.scopes import Scope, Sharing
from tardigrad.window import WindowPlan


@dataclass(frozen=True, slots=True)
class Control(Compensation):
    """What all controls share: the wrapped rule, its state and its needs.

    Args:
        of: spec of the wrapped rule, written in full once it is built. Not a control itself, not asgd, and with the
            baseline asgd.
    """

    baseline: ClassVar[str] = "asgd"

    of: str = "dc-asgd-a"
    inner: Compensation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Build the wrapped rule."""
        rule = _wrapped(self.name, self.of)
        object.__setattr__(self, "inner", rule.compensation)
        object.__setattr__(self, "of", rule.spec)

    @property
    def scope(self) -> Scope:  # type: ignore[override]  # the base declares it per class; here it is the inner's
        """As the wrapped rule."""
        return self.inner.scope

    @property
    def reads_backup(self) -> bool:  # type: ignore[override]  # as above
        """As the wrapped rule."""
        return self.inner.reads_backup

    @property
    def read_passes(self) -> int:  # type: ignore[override]  # as above
        """As the wrapped rule."""
        return self.inner.read_passes

    @property
    def window_plan(self) -> WindowPlan | None:  # type: ignore[override]  # as above
        """As the wrapped rule."""
        return self.inner.window_plan

    @property
    def follows_probes(self) -> bool:  # type: ignore[override]  # as above
        """As the wrapped rule."""
        return self.inner.follows_probes

    @property
    def reads_preconditioner(self) -> bool:  # type: ignore[override]  # as above
        """As the wrapped rule."""
        return self.inner.reads_preconditioner

    @property
    def followed(self) -> Compensation:
        """The wrapped rule: a control is as strong as what it spoils."""
        return self.inner

    def state_spec(self) -> Mapping[str, Sharing]:
        """The wrapped rule's state."""
        return self.inner.state_spec()

    def measure(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> Mapping[str, Tensor]:
        """What the wrapped rule measures."""
        return self.inner.measure(g, w, backup, state, facts)

    def conclude(self, sums: Mapping[str, float], facts: Facts) -> Mapping[str, float]:
        """What the wrapped rule makes of it."""
        return self.inner.conclude(sums, facts)

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """The wrapped rule's gradient, spoilt; its state as it is."""
        repaired, after = self.inner.compensate(g, w, backup, state, facts)
        if facts.staleness == 0:
            return g, after
        return self.spoilt(g, repaired, facts), after

    @abstractmethod
    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """What the control makes of a gradient and of the wrapped rule's version of it."""


@dataclass(frozen=True, slots=True)
class SignFlipped(Control):
    """Control: a rule's compensation with its sign flipped, g - c."""

    name: ClassVar[str] = "sign-flipped"

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """2 g - g', which is g - c with one rounding."""
        return g.mul(2.0).sub_(repaired)


@dataclass(frozen=True, slots=True)
class SignRandom(Control):
    """Control: a rule's compensation with a random sign in each coordinate, drawn anew at each commit.

    Args:
        of: see `Control`.
        seed: of the signs, >= 0. They are a function of it, of the version and of the place in the flat buffer, the
            same on every device and in every run; contributions to one commit share them.
    """

    name: ClassVar[str] = "sign-random"
    reads_place: ClassVar[bool] = True

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the seed; build the wrapped rule."""
        require_integer(self.name, "seed", self.seed, low=0)
        Control.__post_init__(self)  # super() does not know the class that slots=True makes

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """g + c or g - c, coordinate by coordinate."""
        kept = coin_flips(g, self.seed, facts.version, facts.place)
        return torch.where(kept, repaired, g.mul(2.0).sub_(repaired))


@dataclass(frozen=True, slots=True)
class Rescaled(Control):
    """What the two controls of length share: the lengths of g and of g', over the whole gradient."""

    @property
    def read_passes(self) -> int:  # type: ignore[override]  # as in the base
        """One more than the wrapped rule."""
        return self.inner.read_passes + 1

    def measure(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> Mapping[str, Tensor]:
        """What the wrapped rule measures; then ||g||^2 and ||g'||^2."""
        if facts.read_pass < self.inner.read_passes:
            return self.inner.measure(g, w, backup, state, facts)
        if facts.staleness == 0:
            return {}
        repaired, _ = self.inner.compensate(g, w, backup, state, facts)
        # In float64: float32 sums of 25 million squares are off by a thousandth, and overflow before the vector does.
        return {"plain": g.double().square().sum(), "repaired": repaired.double().square().sum()}

    def conclude(self, sums: Mapping[str, float], facts: Facts) -> Mapping[str, float]:
        """What the wrapped rule makes of it; then the factor that gives one vector the other's length."""
        if facts.read_pass < self.inner.read_passes:
            return self.inner.conclude(sums, facts)
        if facts.staleness == 0:
            return {}
        return {"factor": self.factor(math.sqrt(sums["plain"]), math.sqrt(sums["repaired"]))}

    @abstractmethod
    def factor(self, plain: float, repaired: float) -> float:
        """By what a vector is multiplied, from ||g|| and ||g'||."""


@dataclass(frozen=True, slots=True)
class ItsLength(Rescaled):
    """Control: the plain gradient's direction at the length a rule gives it, g ||g'|| / ||g||."""

    name: ClassVar[str] = "its-length"

    def factor(self, plain: float, repaired: float) -> float:
        """||g'|| / ||g||; where g is zero it stays zero."""
        return repaired / plain if plain > 0.0 else 1.0

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """g, as long as g'."""
        return g.mul(facts.measured["factor"])


@dataclass(frozen=True, slots=True)
class ItsDirection(Rescaled):
    """Control: a rule's direction at the plain gradient's length, g' ||g|| / ||g'||."""

    name: ClassVar[str] = "its-direction"

    def factor(self, plain: float, repaired: float) -> float:
        """||g|| / ||g'||; where g' is zero it has no direction and stays zero."""
        return plain / repaired if repaired > 0.0 else 1.0

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """g', as long as g."""
        return repaired.mul(facts.measured["factor"])


def coin_flips(like: Tensor, seed: int, version: int, place: int) -> Tensor:
    """Independent fair booleans, shaped as ``like``; a function of seed, version and place in the buffer alone.

    A hash of a counter: the same on every device, whatever the pieces, and nothing is kept. The mixing function is
    Chris Wellons' (hash-prospector, 2018): two rounds of xor-shift and multiply with the least bias found.
    """
    key = mixed(_integer(version, like) + mixed(_integer(seed, like)))
    places = torch.arange(like.numel(), dtype=torch.int32, device=like.device) + place % 2**31
    return mixed(places * 0x1E3779B1 + key).bitwise_and(1).view(like.shape).bool()


def mixed(x: Tensor) -> Tensor:
    """For each int32 another one, every bit of which depends on all bits of the first; products wrap around."""
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x21F0AAAD  # the shift is arithmetic: the mask takes away what it brings in
    x = (x ^ (x >> 15 & 0x1FFFF)) * 0x735A2D97
    return x ^ (x >> 15 & 0x1FFFF)


def _integer(value: int, like: Tensor) -> Tensor:
    return torch.full((), value % 2**31, dtype=torch.int32, device=like.device)


def _wrapped(owner: str, spec: object) -> Rule:
    """The rule that a control wraps."""
    if not isinstance(spec, str):
        raise InvalidArgument(_refused(owner, spec, "it is not a rule's name or spec."))
    rule = make_rule(spec)
    if isinstance(rule.compensation, Control):
        raise InvalidArgument(_refused(owner, spec, "it is a control itself."))
    if isinstance(rule.compensation, ASGD):
        raise InvalidArgument(_refused(owner, spec, "it adds nothing to a gradient."))
    if rule.compensation.baseline != "asgd":
        raise InvalidArgument(_refused(owner, spec, "it changes gradients that are not late."))
    return rule


def _refused(owner: str, spec: object, why: str) -> str:
    return (
        f"{owner}: of={spec!r} is not to be wrapped: {why} "
        f"Name a rule with a compensation, as in {owner}(of='dc-asgd-a(lambda0=4)')."
    )
