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

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.rules.asgd import ASGD
from tardigrad.rules.base import Compensation, Rule, make_rule
from tardigrad.scopes import Scope, Sharing
from tardigrad.seeding import random_stream


@dataclass(frozen=True, slots=True)
class Control(Compensation):
    """What all controls share: the wrapped rule, its state and its needs.

    Args:
        of: spec of the wrapped rule, written in full once it is built. Not a control itself, not asgd, and with the
            baseline asgd; one of scope ``tensor`` can only be sign-flipped.
    """

    scope: ClassVar[Scope] = "model"  # norms and places in the whole vector
    baseline: ClassVar[str] = "asgd"

    of: str = "dc-asgd-a"
    inner: Compensation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Build the wrapped rule."""
        rule = _wrapped(self.name, self.of)
        object.__setattr__(self, "inner", rule.compensation)
        object.__setattr__(self, "of", rule.spec)
        if rule.compensation.scope == "tensor" and self.scope != "tensor":
            why = "it works tensor by tensor, and this control on all weights at once (sign-flipped would do)."
            raise InvalidArgument(_refused(self.name, self.of, why))

    @property
    def reads_backup(self) -> bool:  # type: ignore[override]  # the base declares it per class; here it is the inner's
        """As the wrapped rule."""
        return self.inner.reads_backup

    def state_spec(self) -> Mapping[str, Sharing]:
        """The wrapped rule's state."""
        return self.inner.state_spec()

    def measure(self, g: Tensor, w: Tensor, backup: Tensor) -> Mapping[str, float]:
        """What the wrapped rule measures."""
        return self.inner.measure(g, w, backup)

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

    @property
    def scope(self) -> Scope:  # type: ignore[override]  # it looks no further than the wrapped rule does
        """As the wrapped rule."""
        return self.inner.scope

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

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the seed; build the wrapped rule."""
        require_integer(self.name, "seed", self.seed, low=0)
        Control.__post_init__(self)  # super() does not know the class that slots=True makes

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """g + c or g - c, coordinate by coordinate."""
        kept = coin_flips(g, random_stream(self.seed, self.name, facts.version))
        return torch.where(kept, repaired, g.mul(2.0).sub_(repaired))


@dataclass(frozen=True, slots=True)
class ItsLength(Control):
    """Control: the plain gradient's direction at the length a rule gives it, g ||g'|| / ||g||."""

    name: ClassVar[str] = "its-length"

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """g, as long as g'; where g is zero it stays zero."""
        return at_length_of(g, repaired)


@dataclass(frozen=True, slots=True)
class ItsDirection(Control):
    """Control: a rule's direction at the plain gradient's length, g' ||g|| / ||g'||."""

    name: ClassVar[str] = "its-direction"

    def spoilt(self, g: Tensor, repaired: Tensor, facts: Facts) -> Tensor:
        """g', as long as g; where g' is zero it has no direction and stays zero."""
        return at_length_of(repaired, g)


def at_length_of(vector: Tensor, other: Tensor) -> Tensor:
    """``vector`` scaled to the L2 norm of ``other``; a zero vector stays zero. No value leaves the device."""
    # In float64: float32 sums of 25 million squares are off by a thousandth, and overflow long before the vector does.
    own, length = torch.linalg.vector_norm(vector.double()), torch.linalg.vector_norm(other.double())
    return vector.mul(torch.where(own > 0.0, length / own, torch.ones_like(own)))


def coin_flips(like: Tensor, stream: np.random.Generator) -> Tensor:
    """Independent fair booleans, shaped as ``like`` and on its device; eight to a random byte."""
    count = like.numel()
    drawn = torch.from_numpy(np.frombuffer(stream.bytes((count + 7) // 8), dtype=np.uint8).copy())
    packed = drawn.to(like.device, non_blocking=True)
    places = torch.arange(8, dtype=torch.uint8, device=like.device)
    flips = packed.unsqueeze(1).bitwise_right_shift(places).bitwise_and_(1)
    return flips.flatten()[:count].view(like.shape).bool()


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
