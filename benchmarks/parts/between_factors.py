r"""A rule of Kronecker factors: of each parameter's second moments, damped in their joint eigenbasis.

In the manner of Shampoo (Gupta, Koren and Singer, Shampoo: preconditioned stochastic tensor optimization, ICML 2018,
arXiv 1802.09568) for the factors, and of K-FAC (Martens and Grosse, Optimizing neural networks with Kronecker-factored
approximate curvature, ICML 2015, arXiv 1503.05671) for taking their product for curvature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tardigrad
from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.optimizers.base import State
from tardigrad.records import Facts
from tardigrad.scopes import SHARED, Scope, Sharing

_MODES = 3


@dataclass(frozen=True, slots=True)
class Kronecker(tardigrad.Compensation):
    r"""The mean outer product of a parameter's gradients as a Kronecker product, damped.

    A weight of shape (out, in, ...) is taken as a tensor of up to three modes, out, in and all that follows together.
    With :math:`F_k` the exponential average of :math:`G_{(k)} G_{(k)}^T`, G unfolded along mode k, and T their common
    trace, the average of :math:`\lVert G \rVert^2`,

    .. math::  E = b \, \frac{F_1 \otimes F_2 \otimes F_3}{T^2}, \qquad F_k = Q_k \Lambda_k Q_k^T,
        \qquad c = Q \, \frac{e}{1 + s e} \, Q^T d, \quad e = b \, \frac{\lambda_1 \lambda_2 \lambda_3}{T^2}

    with :math:`Q = Q_1 \otimes Q_2 \otimes Q_3`; of two modes the divisor is T, of one there is none. E has the trace
    of b mean outer products, and b = B, the samples behind a gradient: the mean gradient of B examples has an outer
    product of about F / B, F the Fisher information of one. Three modes, and not two sides, let each factor of a
    convolution be kept in a tensor of the weight's own size, which is all that a rule's state may be. A mode whose
    factor is larger than that (the inputs of a last layer, any vector) keeps its diagonal.

    The eigenvectors are computed anew every ``refresh_every`` commits, and at each of so many first ones; the
    eigenvalues in that basis, :math:`\mathrm{diag}(Q_k^T F_k Q_k)`, at every commit.

    Args:
        scale: > 0, multiplies b.
        decay: of the averages, in [0, 1).
        refresh_every: commits between two eigen-decompositions, >= 1.
    """

    name: ClassVar[str] = "kronecker"
    scope: ClassVar[Scope] = "tensor"
    reads_backup: ClassVar[bool] = True
    strength: ClassVar[str | None] = "scale"

    scale: float = 1.0
    decay: float = 0.99
    refresh_every: int = 20

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_number(self.name, "scale", self.scale, low=0.0, high=math.inf, include_low=False, include_high=False)
        require_number(self.name, "decay", self.decay, low=0.0, high=1.0, include_high=False)
        require_integer(self.name, "refresh_every", self.refresh_every, low=1)

    def state_spec(self) -> Mapping[str, Sharing]:
        """A factor and its eigenvectors for each mode, in the first places of a tensor shaped as the weight."""
        return {f"{what}{mode}": SHARED for what in ("factor", "basis") for mode in range(_MODES)}

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, State]:
        """g + E (I + s E)^-1 (w - backup) in the eigenbasis."""
        modes = modes_of(g.shape)
        unfolded = g.reshape(modes)
        factors = [
            held.mul(self.decay).add(_moment(unfolded, mode, held.dim() == 2), alpha=1.0 - self.decay)
            for mode, held in enumerate(_read(state, "factor", modes, g.numel()))
        ]
        bases = _read(state, "basis", modes, g.numel())
        if facts.version < self.refresh_every or facts.version % self.refresh_every == 0:
            bases = [eigenvectors(factor) if factor.dim() == 2 else factor for factor in factors]
        after = dict(state) | _written("factor", factors, g) | _written("basis", bases, g)
        if facts.staleness == 0:
            return g, after
        weight = self.scale * facts.samples / (1.0 - self.decay ** (facts.version + 1))  # averages begin at 0
        curvature = weight * eigenvalues(factors, bases)
        d = rotated((w - backup).reshape(modes), bases)
        c = rotated(d * curvature / (1.0 + facts.lr * facts.gain * curvature), bases, back=True)
        return g + c.reshape(g.shape), after


def modes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The modes of a parameter: at most three, at least one.

    >>> modes_of((64, 32, 3, 3)), modes_of((10, 64)), modes_of((7,)), modes_of(())
    ((64, 32, 9), (10, 64), (7,), (1,))
    """
    return (*shape[:2], math.prod(shape[2:])) if len(shape) > 2 else tuple(shape) or (1,)


def eigenvectors(factor: Tensor) -> Tensor:
    """Of a symmetric matrix, as columns."""
    vectors: Tensor = torch.linalg.eigh(factor.double())[1]
    return vectors.to(factor.dtype)


def eigenvalues(factors: Sequence[Tensor], bases: Sequence[Tensor]) -> Tensor:
    """Of the Kronecker product of all factors over T to the number of modes less one, in the shape of the modes."""
    known = [
        ((factor @ basis) * basis).sum(0).clamp(min=0.0) if factor.dim() == 2 else factor
        for factor, basis in zip(factors, bases, strict=True)
    ]
    trace = known[0].sum()
    product = known[0]
    for values in known[1:]:
        share = torch.where(trace > 0.0, values / trace, torch.zeros_like(values))
        product = product[..., None] * share
    return product


def rotated(x: Tensor, bases: Sequence[Tensor], *, back: bool = False) -> Tensor:
    """A tensor in the eigenbasis of every mode that has one, or back from it."""
    for basis in bases:  # each turn takes the first mode and puts it last
        x = torch.tensordot(x, basis, dims=([0], [1 if back else 0])) if basis.dim() == 2 else x.movedim(0, -1)
    return x


def _moment(g: Tensor, mode: int, full: bool) -> Tensor:
    """G_(k) G_(k)^T, or its diagonal."""
    unfolded = g.movedim(mode, 0).reshape(g.shape[mode], -1)
    return unfolded @ unfolded.t() if full else unfolded.square().sum(1)


def _read(state: Mapping[str, Tensor], what: str, modes: Sequence[int], room: int) -> list[Tensor]:
    """What is kept of every mode: a matrix where one has room, else a diagonal."""
    found = []
    for mode, size in enumerate(modes):
        flat = state[f"{what}{mode}"].reshape(-1)
        found.append(flat[: size * size].view(size, size) if size * size <= room else flat[:size])
    return found


def _written(what: str, kept: Sequence[Tensor], like: Tensor) -> State:
    """The inverse of `_read`."""
    after = {}
    for mode, tensor in enumerate(kept):
        flat = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
        flat[: tensor.numel()] = tensor.reshape(-1)
        after[f"{what}{mode}"] = flat.view(like.shape)
    return after


tardigrad.register_rule("kronecker", Kronecker)
