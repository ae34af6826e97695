"""A rule under watch: it does what the rule does, and every call is checked against the contract of its parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from tardigrad.optimizers.base import Optimizer, State
from tardigrad.records import Facts
from tardigrad.rules.base import Compensation, Rule
from tardigrad.scopes import Sharing
from tardigrad.testing.laws import require


def watched(rule: Rule) -> Rule:
    """The same rule; a call that breaks the contract raises AssertionError."""
    return Rule(_watched_compensation(rule.compensation), _watched_optimizer(rule.optimizer))


def _watched_compensation(inner: Compensation) -> Compensation:
    class Watched(Compensation):
        name = inner.name
        scope = inner.scope
        reads_backup = inner.reads_backup
        baseline = inner.baseline
        reads_place = inner.reads_place
        read_passes = inner.read_passes
        window_plan = inner.window_plan
        follows_probes = inner.follows_probes
        reads_preconditioner = inner.reads_preconditioner

        def state_spec(self) -> Mapping[str, Sharing]:
            return inner.state_spec()

        def compensate(
            self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
        ) -> tuple[Tensor, State]:
            given = _Given("compensate", g=g, w=w, backup=backup, **state)
            repaired, after = inner.compensate(g, w, backup, state, facts)
            given.require_untouched()
            given.require_alike("the gradient", repaired)
            given.require_state(after, inner.state_spec())
            return repaired, after

        def measure(
            self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
        ) -> Mapping[str, Tensor]:
            given = _Given("measure", g=g, w=w, backup=backup, **state)
            sums = inner.measure(g, w, backup, state, facts)
            given.require_untouched()
            for name, total in sums.items():
                alike = isinstance(total, Tensor) and total.dim() == 0 and total.dtype == torch.float64
                require(alike, f"measure gives {name!r} as {total!r}; give a float64 tensor of no dimension.")
            return sums

        def conclude(self, sums: Mapping[str, float], facts: Facts) -> Mapping[str, float]:
            numbers = inner.conclude(sums, facts)
            for name, number in numbers.items():
                require(isinstance(number, float), f"conclude gives {name!r} as {number!r}; give a float.")
            return numbers

    return Watched()


def _watched_optimizer(inner: Optimizer) -> Optimizer:
    class Watched(Optimizer):
        name = inner.name
        scope = inner.scope

        def state_spec(self) -> Sequence[str]:
            return inner.state_spec()

        def preconditioner(self, state: Mapping[str, Tensor], facts: Facts) -> Tensor | None:
            given = _Given("preconditioner", **state)
            found = inner.preconditioner(state, facts)
            given.require_untouched()
            return found

        def step(self, w: Tensor, g: Tensor, state: Mapping[str, Tensor], facts: Facts) -> tuple[Tensor, State]:
            given = _Given("step", w=w, g=g, **state)
            stepped, after = inner.step(w, g, state, facts)
            given.require_untouched()
            given.require_alike("the weights", stepped)
            given.require_state(after, inner.state_spec())
            return stepped, after

    return Watched()


class _Given:
    """The tensors a call was given, and copies of what they held before it."""

    def __init__(self, call: str, **tensors: Tensor) -> None:
        self._call = call
        self._tensors = tensors
        self._copies = {name: tensor.clone() for name, tensor in tensors.items()}

    def require_untouched(self) -> None:
        """No tensor was written into."""
        for name, tensor in self._tensors.items():
            same = torch.equal(tensor, self._copies[name])
            require(same, f"{self._call} writes into {name!r}, which it was given.")

    def require_alike(self, what: str, result: Tensor) -> None:
        """A result has the weights' dtype, shape and device, and is finite."""
        w = self._tensors["w"]
        kind = (result.dtype, tuple(result.shape), result.device)
        expected = (w.dtype, tuple(w.shape), w.device)
        require(kind == expected, f"{self._call} returns {what} as {kind}; the weights are {expected}.")
        finite = bool(torch.isfinite(result).all())
        require(finite, f"{self._call} returns {what} with numbers that are not finite.")

    def require_state(self, after: State, names: Collection[str]) -> None:
        """The new state is the one declared, each tensor alike."""
        require(
            set(after) == set(names),
            f"{self._call} returns the state {sorted(after)}, state_spec declares {sorted(names)}; "
            "return every tensor of it, at staleness 0 too.",
        )
        for name, tensor in after.items():
            self.require_alike(f"the state {name!r}", tensor)
