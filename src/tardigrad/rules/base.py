"""The contract of a compensation, and the rule made of a compensation and an optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tardigrad.errors import InvalidArgument
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.optimizers.base import Optimizer, State
from tardigrad.records import Facts
from tardigrad.rules import COMPENSATIONS
from tardigrad.scopes import Scope, Sharing
from tardigrad.specs import Spec, format_spec, keywords_of, options_of, parse_spec, unknown_keyword
from tardigrad.window import WindowPlan


class Compensation(ABC):
    """What a late gradient becomes before the optimizer applies it.

    A subclass is a frozen dataclass: its fields are the keywords it takes, checked in ``__post_init__``. It must
    not write into the tensors it is given.

    Class attributes:
        name: how it is asked for.
        scope: ``element``, ``tensor`` or ``model``; what `compensate` must see at once.
        reads_backup: whether `compensate` reads ``backup``; if not, none need be kept.
        baseline: name of the rule it equals bit for bit at staleness 0.
        strength: the keyword that says how strongly it acts, such as ``lambda0``: what is tuned beside the learning
            rate; None where there is none.
        reads_place: whether `compensate` reads ``facts.place``, so that it matters where in the buffer a weight lies.
        read_passes: how often `measure` must have seen the whole vector before `compensate`; each costs a pass more.
        window_plan: which of the last gradients of all workers are kept for it, in ``facts.window``; needs the scope
            ``model``. None: none.
        follows_probes: whether its strength is multiplied by ``facts.strength``, which probes choose.
        reads_preconditioner: whether `compensate` reads ``facts.preconditioner``; needs the scope ``model``.
    """

    name: ClassVar[str]
    scope: ClassVar[Scope] = "element"
    reads_backup: ClassVar[bool] = False
    baseline: ClassVar[str] = "asgd"
    strength: ClassVar[str | None] = None
    reads_place: ClassVar[bool] = False
    read_passes: ClassVar[int] = 0
    window_plan: ClassVar[WindowPlan | None] = None
    follows_probes: ClassVar[bool] = False
    reads_preconditioner: ClassVar[bool] = False

    @property
    def followed(self) -> Compensation:
        """Whose compensation ``facts.strength`` is fitted to: its own, unless that is spoilt. It has the same state."""
        return self

    def state_spec(self) -> Mapping[str, Sharing]:
        """Names of the state tensors (shaped as the weights, starting at zero), kept per worker or shared."""
        return {}

    @abstractmethod
    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """Return the compensated gradient and the new state.

        Args:
            g: gradient as pushed: the mean over the batch, at the weights ``backup``.
            w: the server's current weights.
            backup: the weights this worker last pulled; equal to ``w`` where ``reads_backup`` is False.
            state: the tensors of `state_spec` for the pushing worker.
            facts: staleness, learning rate and more.

        All tensors have one shape: a block of the flat buffer (scope ``element``), a parameter (``tensor``) or the
        whole flat buffer (``model``). At staleness 0 the result is ``g`` itself; the state advances all the same.
        """

    def measure(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> Mapping[str, Tensor]:
        """Sums over the piece given, float64 and of no dimension, for numbers over the whole vector.

        Called for every piece of the buffer, ``read_passes`` times, each time before anything is written;
        ``facts.read_pass`` counts them. The sums of all pieces go to `conclude`. Arguments as for `compensate`.
        """
        return {}

    def conclude(self, sums: Mapping[str, float], facts: Facts) -> Mapping[str, float]:
        """What one read pass makes known: numbers that `compensate`, and the passes after, find in ``facts.measured``.

        Args:
            sums: of `measure` over the whole vector.
            facts: as `measure` had them.
        """
        return sums


@dataclass(frozen=True, slots=True)
class Rule:
    """A compensation and an optimizer."""

    compensation: Compensation
    optimizer: Optimizer

    @property
    def name(self) -> str:
        """The compensation's name."""
        return self.compensation.name

    @property
    def spec(self) -> str:
        """The compensation as a spec with all its keywords, e.g. ``dc-asgd-c(lambda0=0.04, ...)``."""
        name = COMPENSATIONS.name_of(type(self.compensation), self.compensation.name)
        return format_spec(name, options_of(self.compensation))

    @property
    def optimizer_spec(self) -> str:
        """The optimizer as a spec with all its keywords."""
        name = OPTIMIZERS.name_of(type(self.optimizer), self.optimizer.name)
        return format_spec(name, options_of(self.optimizer))


def make_rule(name: str | Spec, *, optimizer: str | Spec = "sgd", **keywords: Any) -> Rule:
    """Build a rule from a spec and keywords.

    Args:
        name: a registered rule, ``"module:Class"``, or a spec such as ``"dc-asgd-a(lambda0=4)"``.
        optimizer: a registered optimizer or a spec such as ``"sgd(momentum=0.9)"``.
        **keywords: of the compensation or of the optimizer; a keyword neither has is refused.
    """
    first = parse_spec(name) if isinstance(name, str) else name
    second = parse_spec(optimizer) if isinstance(optimizer, str) else optimizer
    own, step = keywords_of(COMPENSATIONS.load(first.name)), keywords_of(OPTIMIZERS.load(second.name))
    for word in keywords:
        if word not in own and word not in step:
            raise InvalidArgument(unknown_keyword("rule", first.name, word, own + step))
    mine = {word: value for word, value in keywords.items() if word in own}
    theirs = {word: value for word, value in keywords.items() if word not in own}
    compensation = COMPENSATIONS.build(Spec(first.name, first.args, {**first.kwargs, **mine}))
    stepper = OPTIMIZERS.build(Spec(second.name, second.args, {**second.kwargs, **theirs}))
    if not isinstance(compensation, Compensation) or not isinstance(stepper, Optimizer):
        raise InvalidArgument(f"rule {first.name!r} must be a Compensation and {second.name!r} an Optimizer.")
    return Rule(compensation, stepper)
