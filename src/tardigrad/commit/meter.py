r"""The quality meter: how near compensated gradients come to the gradient of now, and what strength follows from it.

A worker's gradient g is of the weights that it read. Where the same samples' gradient is computed a second time, at
the weights of now (`Push.again`), the truth that a compensation aims at is known: with c = g' - g the compensation and
y = now - g, a perfect one would have c = y. From a few inner products follow the relative error and the cosine before
and after, and the factor on c that leaves the least error, :math:`\langle y, c \rangle / \langle c, c \rangle`.

Measured is on the commit's own weights, facts and state, before any of them changes, so a probe changes no bit of
training. Rules that are judged beside the run's own each have a state of their own, which advances at every commit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.commit.base import CommitPath, Part
from tardigrad.commit.exact import ExactPath
from tardigrad.commit.groups import ParameterGroup
from tardigrad.commit.state import RuleState
from tardigrad.layout import FlatLayout
from tardigrad.optimizers.base import State
from tardigrad.records import Quality
from tardigrad.rules.base import Rule, make_rule

FORGETTING = 0.9  # weight of a probe beside the next one's: ten or so count
PRIOR = 2.0  # probes that the registered strength is worth before the first one
WIDEST = 16.0  # the factor stays within 1 / WIDEST and WIDEST
_BLOCK = 1 << 20  # elements that are multiplied in float64 at once


class Following:
    r"""The factor f on a rule's strength, `Facts.strength`, that fits its probes best.

    .. math::  f = \arg\min_f \sum_i \gamma^{t-i} \, \frac{\lVert y_i - f c_i / f_i \rVert^2}{\lVert y_i \rVert^2}
        + n_0 \gamma^t a \, (f - 1)^2

    with c_i the compensation at probe i, made with the factor :math:`f_i`, and a the mean of
    :math:`\lVert c_i / f_i \rVert^2 / \lVert y_i \rVert^2`: the registered strength counts like :math:`n_0` probes made
    before the first, and is forgotten like them. A compensation that is damped is not linear in f, but where f stays,
    it is the best there is.

    Attributes:
        factor: f, in [1/16, 16]; 1 before the first probe.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._fit = self._square = self._weight = 0.0
        self._prior = PRIOR

    def learn(self, fit: float, square: float) -> None:
        """Take in a probe.

        Args:
            fit: <y, c / f> / ||y||^2, f the factor now.
            square: ||c / f||^2 / ||y||^2. A probe in which this is zero or not finite says nothing.
        """
        if not (math.isfinite(fit) and math.isfinite(square) and square > 0.0):
            return
        self._fit = FORGETTING * self._fit + fit
        self._square = FORGETTING * self._square + square
        self._weight = FORGETTING * self._weight + 1.0
        self._prior *= FORGETTING
        known = self._prior * self._square / self._weight
        self.factor = min(WIDEST, max(1.0 / WIDEST, (known + self._fit) / (known + self._square)))

    def state_dict(self) -> dict[str, float]:
        """All of it, as plain data."""
        return {
            "factor": self.factor,
            "fit": self._fit,
            "square": self._square,
            "weight": self._weight,
            "prior": self._prior,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` gave."""
        self.factor, self._prior = state["factor"], state["prior"]
        self._fit, self._square, self._weight = state["fit"], state["square"], state["weight"]


@dataclass(frozen=True, slots=True)
class Products:
    """Inner products over all weights, float64: of y = now - g, c = g' - g, what is left g' - now, g, now and g'."""

    y_y: float
    y_c: float
    c_c: float
    left_left: float
    g_g: float
    g_now: float
    now_now: float
    repaired_now: float
    repaired_repaired: float

    def quality(self, name: str, staleness: int, strength: float) -> Quality:
        """What they say."""
        return Quality(
            name=name,
            staleness=staleness,
            relative_error=math.sqrt(_ratio(self.left_left, self.y_y)),
            cosine=_ratio(self.repaired_now, math.sqrt(self.repaired_repaired * self.now_now)),
            raw_cosine=_ratio(self.g_now, math.sqrt(self.g_g * self.now_now)),
            compensation_cosine=_ratio(self.y_c, math.sqrt(self.y_y * self.c_c)),
            coefficient=_ratio(self.y_c, self.c_c),
            strength=strength,
        )


class Candidate:
    """A rule that is judged: a path that never steps.

    Args:
        name: of the rule in what is recorded.
        rule: its optimizer is the run's, which a damped rule reckons with.
        layout, threads, groups: of the run.
    """

    def __init__(
        self, name: str, rule: Rule, layout: FlatLayout, *, threads: int, groups: Sequence[ParameterGroup]
    ) -> None:
        self.name = name
        self._path = _unstepped(rule, layout, threads=threads, groups=groups)
        self.following: Following | None = None
        self._followed = self._path
        if rule.compensation.follows_probes:
            self.following = Following()
            if rule.compensation.followed is not rule.compensation:
                inner = Rule(rule.compensation.followed, rule.optimizer)
                self._followed = _unstepped(inner, layout, threads=threads, groups=groups)
                self._followed.state = self._path.state

    @property
    def reads_backup(self) -> bool:
        """Whether it needs what the pushing worker has read."""
        return self._path.rule.compensation.reads_backup

    @property
    def state(self) -> RuleState:
        """Of the rule."""
        return self._path.state

    def share(self, state: RuleState) -> None:
        """Judge with the state of another path, which advances it."""
        self._path.state = self._followed.state = state

    def lend(self, moments: State) -> None:
        """Judge beside a path whose optimizer has this state."""
        self._path.lend(moments)
        self._followed.lend(moments)

    def told(self, part: Part) -> Part:
        """The contribution with the strength that this rule has now."""
        if self.following is None or self.following.factor == 1.0:
            return part
        return replace(part, facts=replace(part.facts, strength=self.following.factor))

    def remembered(self, part: Part) -> Part:
        """The contribution with this rule's window, where it has one."""
        return self._path.remembered(part)

    def judged(self, weights: Tensor, part: Part, *, absent: Sequence[int] = ()) -> Quality:
        """How near it comes, with its state as it is before this contribution; what it follows has learnt from it.

        Args:
            weights: of now, flat.
            part: with ``again``, as `told` and `remembered` give it.
            absent: tensors that the commit passes over; see `CommitPath.apply`.
        """
        found = _products(self._path, weights, part, absent)
        if self.following is not None:
            factor = self.following.factor
            fitted = found if self._followed is self._path else _products(self._followed, weights, part, absent)
            self.following.learn(_ratio(fitted.y_c / factor, fitted.y_y), _ratio(fitted.c_c / factor**2, fitted.y_y))
        return found.quality(self.name, part.facts.staleness, part.facts.strength)

    def advance(self, weights: Tensor, part: Part, *, absent: Sequence[int] = ()) -> None:
        """Make its state what it is after this contribution, given as `told` and `remembered` give it."""
        if self._path.rule.compensation.state_spec():
            for _ in self._path.compensated(weights, part, advance=True, absent=absent):
                pass

    def state_dict(self) -> dict[str, Any]:
        """What it follows."""
        return {} if self.following is None else {"following": self.following.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        if self.following is not None:
            self.following.load_state_dict(state["following"])


class Meter:
    """Judges a run's rule, and others beside it, where a push brings the gradient of now.

    Args:
        rule: the run's.
        layout, threads, groups: of the run's commit path.
        every: commits between probes, >= 1.
        beside: specs of the other rules.

    Raises:
        InvalidArgument: for a spec that names no rule.
    """

    def __init__(
        self,
        rule: Rule,
        layout: FlatLayout,
        *,
        threads: int,
        groups: Sequence[ParameterGroup],
        every: int,
        beside: Sequence[str] = (),
    ) -> None:
        self._threads, self._every, self._next = threads, every, every
        self._own = Candidate(rule.name, rule, layout, threads=threads, groups=groups)
        others = [Rule(make_rule(spec).compensation, rule.optimizer) for spec in beside]
        self._beside = [Candidate(each.spec, each, layout, threads=threads, groups=groups) for each in others]

    @property
    def reads_backup(self) -> bool:
        """Whether any rule that is judged needs backups."""
        return any(each.reads_backup for each in (self._own, *self._beside))

    def is_due(self, version: int, *, staleness: int) -> bool:
        """Whether a push that is so stale is judged when it is applied to the weights of this version.

        The first late one from each multiple of ``every`` on is: where one worker is much faster than the others, the
        push at the multiple itself is seldom late.
        """
        return staleness > 0 and version >= self._next

    @torch.no_grad()
    def watch(
        self, path: CommitPath, weights: Tensor, parts: Sequence[Part], *, absent: Sequence[int] = ()
    ) -> tuple[list[Part], tuple[Quality, ...] | None]:
        """See a commit before it is applied.

        Args:
            path: that will apply it.
            weights: before it, flat.
            parts: its contributions.
            absent: tensors that it passes over.

        Returns:
            The contributions as ``path`` is to apply them, and what was found if a probe is due and brought.
        """
        self._own.share(path.state)
        for candidate in self._beside:
            candidate.lend(path.state.optimizer)
        told = [self._own.told(part) for part in parts]
        facts, judged = parts[0].facts, None
        with threads(self._threads):
            if len(parts) == 1 and parts[0].again is not None and self.is_due(facts.version, staleness=facts.staleness):
                self._next = (facts.version // self._every + 1) * self._every
                told = [path.remembered(told[0])]
                judged = [self._own.judged(weights, told[0], absent=absent)]
            for candidate in self._beside:
                self._show(candidate, weights, parts, judged, absent)
        return told, None if judged is None else tuple(judged)

    def _show(
        self,
        candidate: Candidate,
        weights: Tensor,
        parts: Sequence[Part],
        judged: list[Quality] | None,
        absent: Sequence[int],
    ) -> None:
        """Let a rule beside see every contribution; where one is judged, what is found is added."""
        for part in parts:
            seen = candidate.remembered(candidate.told(part))
            if judged is not None:
                judged.append(candidate.judged(weights, seen, absent=absent))
            candidate.advance(weights, seen, absent=absent)

    def state_bytes(self) -> int:
        """Bytes of state of the rules beside."""
        return sum(candidate.state.bytes_held() for candidate in self._beside)

    def state_dict(self) -> dict[str, Any]:
        """The state of every rule beside, copied, what is followed, and when the next probe is due."""
        return {
            "next": self._next,
            "own": self._own.state_dict(),
            "beside": [candidate.state_dict() | {"state": candidate.state.state_dict()} for candidate in self._beside],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._next = state["next"]
        self._own.load_state_dict(state["own"])
        for candidate, own in zip(self._beside, state["beside"], strict=True):
            candidate.load_state_dict(own)
            candidate.state.load_state_dict(own["state"])


def _unstepped(rule: Rule, layout: FlatLayout, *, threads: int, groups: Sequence[ParameterGroup]) -> ExactPath:
    """A path that compensates and makes no step, so that it needs no state of an optimizer."""
    path = ExactPath(rule, layout, threads=threads, groups=groups)
    path.state.optimizer.clear()
    return path


def _products(path: ExactPath, weights: Tensor, part: Part, absent: Sequence[int]) -> Products:
    """The inner products of one contribution, compensated by a path whose state stays as it is."""
    assert part.again is not None
    total = torch.zeros(9, dtype=torch.float64, device=weights.device)
    for piece, repaired in path.compensated(weights, part, advance=False, absent=absent):
        whole = (piece.of(part.gradient), piece.of(part.again), repaired)
        for blocks in zip(*(torch.split(tensor.reshape(-1), _BLOCK) for tensor in whole), strict=True):
            total += _block_products(*(block.double() for block in blocks))
    return Products(*total.tolist())


def _block_products(g: Tensor, now: Tensor, repaired: Tensor) -> Tensor:
    """Their products in the order of `Products`, of flat float64 tensors."""
    y, c, left = now - g, repaired - g, repaired - now
    pairs = (y, y), (y, c), (c, c), (left, left), (g, g), (g, now), (now, now), (repaired, now), (repaired, repaired)
    return torch.stack([torch.dot(first, second) for first, second in pairs])


def _ratio(number: float, by: float) -> float:
    return number / by if by != 0.0 else math.nan
