r"""When delayed, compensated descent is stable: on a quadratic, with momentum, at every delay or up to one.

On :math:`\tfrac12 w^T H w` with a gradient that is tau commits old and the curvature estimate F,

.. math::

    w_{t+1} = w_t - s \left( H w_{t-\tau} + F (w_t - w_{t-\tau}) \right)

F is an estimate E as it is, or damped by a step size d: :math:`F = E (I + d E)^{-1}`. With B = s F and C = s (H - F) a
mode :math:`w_t = z^t v`, \|v\| = 1, obeys

.. math::

    (z - 1)(1 - \mu / z) / D(z) + b + c \, z^{-\tau} = 0, \qquad b = v^* B v, \quad c = v^* C v

and b, c are real, since B and C are symmetric: no matrix needs to commute with another. The page "Why damping" of the
documentation proves what is computed here.

>>> damping_step(0.1)
0.1
>>> damping_step(0.1, momentum=0.9)
19.0
>>> damping_step(0.1, momentum=0.9, delay=8)
1.0
>>> hessian, estimate = np.diag([1.0, 4.0]), np.diag([20.0, 20.0])
>>> growth(hessian, estimate, lr=0.1, delay=16), growth(hessian, estimate, lr=0.1, delay=16, step=0.1)
(1.147, 0.991)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.optimizers.momentum import Momentum

Matrix = NDArray[np.float64]

ROUNDING = 1e-12
"""Relative to the largest entry: what counts as zero in a difference of matrices."""


def damping_step(
    lr: float,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    delay: int | None = None,
) -> float:
    r"""The step size d by which an estimate must be damped, F = E (I + d E)^-1, so that none can be too large.

    It is lr without momentum. With heavy ball it is :math:`\text{lr} (1 - \text{dampening}) (1 + \mu) / (1 - \mu)^2`,
    with Nesterov :math:`\text{lr} (1 - \mu + 2 \mu^2) / (1 - \mu)^2`: more than the lr / (1 - mu) one would guess. With
    it 0 < H < 2 F is enough at every delay; no smaller step will do for all delays.

    Args:
        lr: learning rate, > 0. The first moment of Adam is heavy ball with dampening = momentum.
        momentum: in [0, 1).
        dampening: in [0, 1]; without effect where momentum is 0.
        nesterov: needs momentum > 0 and dampening 0.
        delay: the longest delay in commits, >= 0, or None for every delay. A bound allows a smaller step: with it
            0 < H <= F is enough up to that delay (heavy ball: `stable_up_to`).

    Returns:
        A number >= 0, in units of lr.
    """
    require_number("damping_step", "lr", lr, low=0.0, include_low=False, include_high=False)
    if delay is not None:
        require_integer("damping_step", "delay", delay, low=0)
    return lr * Momentum(momentum, dampening, nesterov).damping_gain(delay)


def plain_limit(delay: int, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    r"""The curvature, times lr (1 - dampening), below which uncompensated delayed descent is stable.

    Without momentum it is :math:`2 \sin \frac{\pi}{2 (2 \tau + 1)}` (Levin and May 1976).

    Args:
        delay: tau in commits, >= 0.
        momentum: in [0, 1).
        nesterov: needs momentum > 0.
    """
    loop = Momentum(momentum, nesterov=nesterov)
    turns = 2 * require_integer("plain_limit", "delay", delay, low=0) + 1
    return loop.modulus(loop.crossing(turns, math.pi))


def damped(estimate: ArrayLike, step: float, *, preconditioner: ArrayLike | None = None) -> Matrix:
    r"""F = E (I + d P E)^-1: symmetric, and P^1/2 F P^1/2 < I / d however large E is.

    Args:
        estimate: E, symmetric, shape (n, n), no eigenvalue below 0.
        step: d >= 0; 0 gives E.
        preconditioner: the diagonal of P, shape (n,), > 0; None for the identity.

    Returns:
        Shape (n, n).
    """
    require_number("damped", "step", step, low=0.0, include_high=False)
    matrix = _symmetric("estimate", estimate)
    diagonal = np.ones(len(matrix)) if preconditioner is None else np.asarray(preconditioner, dtype=float)
    if diagonal.shape != (len(matrix),) or not (np.isfinite(diagonal) & (diagonal > 0)).all():
        raise InvalidArgument(f"preconditioner must be {len(matrix)} numbers > 0: the diagonal of P.")
    root = np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(root[:, None] * matrix * root)
    if values[0] < -1e-9 * max(values[-1], 1e-300):
        raise InvalidArgument(f"estimate has the eigenvalue {values[0]:.3g}: it must have none below 0.")
    values = values.clip(0.0)
    return np.asarray((vectors * (values / (1.0 + step * values))) @ vectors.T / (root[:, None] * root))


def growth(
    hessian: ArrayLike,
    estimate: ArrayLike,
    *,
    lr: float,
    delay: int,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    step: float | None = None,
) -> float:
    """Growth of the weights per commit in the long run: the spectral radius of the recursion; below 1 it is stable.

    Where H and E commute each common eigenvector is a recursion of its own. Otherwise it costs the eigenvalues of a
    matrix with n (delay + 2) rows: a second for 1000.

    Args:
        hessian: H, symmetric, shape (n, n).
        estimate: E, symmetric, shape (n, n).
        lr: learning rate, > 0.
        delay: tau in commits, >= 0, the same for every gradient.
        momentum: in [0, 1), as ``dampening`` and ``nesterov`` in torch.optim.SGD.
        dampening: in [0, 1].
        nesterov: needs momentum > 0 and dampening 0.
        step: what the estimate is damped by (`damping_step`), or None to use it as it is.
    """
    require_integer("growth", "delay", delay, low=0)
    loop = Momentum(momentum, dampening, nesterov)
    b, c = _split(hessian, estimate, lr * loop.gain, step)
    return max(_radius(_lags(*block, delay, loop)) for block in _blocks(b, c))


def stable_at_every_delay(
    hessian: ArrayLike,
    estimate: ArrayLike,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    step: float | None = None,
) -> bool:
    """Whether a proof says that the recursion is stable at every delay.

    Where H and E commute, False means that it grows at some delay, boundary cases aside. Otherwise the condition is
    sufficient, not necessary: without momentum 0 < H < 2 F, s H < 2 and s (2 F - H) < 2, in the order of symmetric
    matrices; with momentum -g B < C < g B, with g the tolerance at the largest eigenvalue of B.

    Args:
        hessian: H, symmetric, shape (n, n).
        estimate: E, symmetric, shape (n, n).
        lr: learning rate, > 0.
        momentum: in [0, 1), as ``dampening`` and ``nesterov`` in torch.optim.SGD.
        dampening: in [0, 1].
        nesterov: needs momentum > 0 and dampening 0.
        step: what the estimate is damped by (`damping_step`), or None to use it as it is.
    """
    loop = Momentum(momentum, dampening, nesterov)
    b, c = _split(hessian, estimate, lr * loop.gain, step)
    return all(_certain(*block, loop) for block in _blocks(b, c))


def stable_up_to(
    hessian: ArrayLike,
    estimate: ArrayLike,
    *,
    lr: float,
    delay: int,
    momentum: float = 0.0,
    dampening: float = 0.0,
    step: float | None = None,
) -> bool:
    r"""Whether a proof says that the recursion is stable at every constant delay from 0 to ``delay``.

    Heavy ball or none: H > 0, F at most 1 / `damping_step` and :math:`s H < s F + q`, with q the `plain_limit`; without
    momentum :math:`s H < (1 + m) s F + q` with the slope m of the docs page, or a bit more than 0 < H < 2 F. Unlike
    `stable_at_every_delay` it can hold where E is singular: a low-rank estimate, with a small H outside its span.

    Args:
        hessian: H, symmetric, shape (n, n).
        estimate: E, symmetric, shape (n, n), no eigenvalue below 0.
        lr: learning rate, > 0.
        delay: the longest delay in commits, >= 0.
        momentum: in [0, 1).
        dampening: in [0, 1]; without effect where momentum is 0.
        step: what the estimate is damped by (`damping_step`), or None to use it as it is.
    """
    loop = Momentum(momentum, dampening)
    b, c = _split(hessian, estimate, lr * loop.gain, step)
    largest = lr * loop.gain / damping_step(lr, momentum=momentum, dampening=dampening, delay=delay)
    one = np.eye(len(b))
    q = plain_limit(delay, momentum=momentum)
    if delay == 0:
        return _positive(b + c) and _positive(q * one - b - c)
    if not (_positive(b + c) and _least(b) >= -ROUNDING and _positive(largest * (1.0 + 1e-9) * one - b)):
        return False
    if momentum:
        return _positive(q * one - c)
    slope = max(0.0, (2.0 - (delay + 1) * q * q) / ((2 * delay + 1) * q))
    cosine = math.cos(math.pi / (delay + 1))
    return _positive(q * one + slope * b - c) or _positive((1.0 - cosine) * one + cosine * b - c)


def _split(hessian: ArrayLike, estimate: ArrayLike, s: float, step: float | None) -> tuple[Matrix, Matrix]:
    """B = s F and C = s (H - F)."""
    require_number("stability", "lr", s, low=0.0, include_high=False)
    h, e = _symmetric("hessian", hessian), _symmetric("estimate", estimate)
    if h.shape != e.shape:
        raise InvalidArgument(f"hessian has shape {h.shape}, estimate {e.shape}: they must have the same.")
    f = e if step is None else damped(e, step)
    return s * f, s * (h - f)


def _symmetric(name: str, value: ArrayLike) -> Matrix:
    matrix = np.asarray(value, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size or not np.isfinite(matrix).all():
        raise InvalidArgument(f"{name} must be a square matrix of finite numbers; its shape is {matrix.shape}.")
    if not np.allclose(matrix, matrix.T, rtol=0.0, atol=1e-9 * float(np.abs(matrix).max())):
        raise InvalidArgument(f"{name} must be symmetric.")
    return np.asarray(0.5 * (matrix + matrix.T))


def _blocks(b: Matrix, c: Matrix) -> Iterator[tuple[Matrix, Matrix]]:
    """The pair as it is, or as 1 x 1 pairs, one for each common eigenvector, where the two commute."""
    _, vectors = np.linalg.eigh(b + math.sqrt(0.5) * c)
    turned = [vectors.T @ matrix @ vectors for matrix in (b, c)]
    beside = [np.abs(matrix - np.diag(np.diag(matrix))).max() for matrix in turned]
    if any(rest > 1e-11 * np.abs(matrix).max() for rest, matrix in zip(beside, turned, strict=True)):
        yield b, c
        return
    for i in range(len(b)):
        yield turned[0][i : i + 1, i : i + 1], turned[1][i : i + 1, i : i + 1]


def _lags(b: Matrix, c: Matrix, delay: int, loop: Momentum) -> Matrix:
    """What w_{t+1} takes of w_t, w_{t-1}, ...: shape (lags, n, n)."""
    lags = np.zeros((delay + 2, *b.shape))
    one, inverse = loop.numerator
    lags[0] += (1.0 + loop.momentum) * np.eye(len(b)) - one * b
    lags[1] -= loop.momentum * np.eye(len(b)) + inverse * b
    lags[delay] -= one * c
    lags[delay + 1] -= inverse * c
    used = np.flatnonzero(np.abs(lags).max(axis=(1, 2)))
    return lags[: max(used, default=0) + 1]


def _radius(lags: Matrix) -> float:
    """The spectral radius of the block companion matrix."""
    count, n, _ = lags.shape
    companion: Any = np.eye(count * n, k=-n)
    companion[:n] = lags.transpose(1, 0, 2).reshape(n, count * n)
    return float(np.abs(np.linalg.eigvals(companion)).max())


def _certain(b: Matrix, c: Matrix, loop: Momentum) -> bool:
    """The condition of `stable_at_every_delay` for one block."""
    if not loop.momentum:
        two = 2.0 * np.eye(len(b))
        return all(_positive(matrix) for matrix in (b + c, b - c, two - b - c, two - b + c))
    largest = float(np.linalg.eigvalsh(b)[-1])
    if loop.nesterov and len(b) > 1 and largest * loop.excess() > 1.0 + 1e-9:
        return False  # below its largest eigenvalue the tolerance need not be larger
    bound = loop.tolerance(largest) * b
    return _positive(bound - c) and _positive(bound + c)


def _least(matrix: Matrix) -> float:
    return float(np.linalg.eigvalsh(matrix)[0])


def _positive(matrix: Matrix) -> bool:
    """Whether every eigenvalue is above 0 by more than rounding."""
    return _least(matrix) > ROUNDING * float(np.abs(matrix).max())
