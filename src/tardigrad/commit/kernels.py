"""The functions that torch.compile makes one loop, or one kernel, of: a rule's own equations and where results go.

Each is traced once for every way through the rule's page: a fresh gradient or a late one, the first step of a momentum
or a later one. So what the rule may branch on comes as an int (`Facts` but for its learning rate), as a symbol that
stands for any value; learning rate, weight and the like come as elements of a tensor, which no trace can take for
constants, and which a rule cannot branch on. (They reach the loop in float32, for float64 weights too.) The rule's own
keywords are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
import torch._dynamo.config
from torch import Tensor
from torch.fx.experimental import _config as _symbols

from tardigrad.optimizers.base import Optimizer, State
from tardigrad.records import Facts
from tardigrad.rules.base import Compensation

_SHIFT = 2  # traces take the ints 0 and 1 for constants, and all others for symbols
_OPTIONS: Any = {"compile_threads": 1}  # no pool of processes is left behind
# A rule's own floats are constants; the learning rate, which is none, is read inside. One function may be compiled for
# several ways, thread counts and number formats. Both patches are made once: that takes as long as a small commit.
_TRACING: Any = torch._dynamo.config.patch(capture_scalar_outputs=True, specialize_float=True, cache_size_limit=64)
# Counts and lengths that happen to be equal are not taken for one symbol.
_COUNTING: Any = _symbols.patch(use_duck_shape=False)  # type: ignore[attr-defined]

Given = tuple[Tensor, tuple[int, ...], tuple[str, ...]]
"""What every function is given of a contribution's `Facts`, beside its tensors: numbers, counts, names.

numbers: learning rate, weight in the sum, strength, gain, then the measured ones: float64 of shape (4 + names,), on the
CPU.
counts: staleness, version, live, step, samples, read_pass and place, each plus 2.
names: of the measured numbers.
"""


def given(facts: Facts, weight: float, *, place: int) -> Given:
    """The facts of a contribution, as they are for one stretch of the buffer."""
    counts = (facts.staleness, facts.version, facts.live, facts.step, facts.samples, facts.read_pass, place)
    numbers = (facts.lr, weight, facts.strength, facts.gain, *facts.measured.values())
    told = torch.tensor(numbers, dtype=torch.float64)
    return told, tuple(count + _SHIFT for count in counts), tuple(facts.measured)


def _facts(numbers: Tensor, counts: tuple[int, ...], names: tuple[str, ...]) -> Facts:
    staleness, version, live, step, samples, read_pass, place = [count - _SHIFT for count in counts]
    measured = {name: numbers[4 + number].item() for number, name in enumerate(names)}
    lr, strength, gain = numbers[0].item(), numbers[2].item(), numbers[3].item()
    return Facts(staleness, lr, version, live, step, samples, measured, read_pass, place, gain, strength=strength)


class Kernels:
    """The compiled functions of a compensation and an optimizer. They write where their arguments say."""

    def __init__(self, compensation: Compensation, optimizer: Optimizer) -> None:
        def compensated(
            w: Tensor, g: Tensor, backup: Tensor | None, own: State, numbers: Tensor, facts: Facts
        ) -> tuple[Tensor, State]:
            repaired, after = compensation.compensate(g, w, w if backup is None else backup, own, facts)
            return repaired * numbers[1].item(), after

        def commit(
            w: Tensor,
            g: Tensor,
            backup: Tensor | None,
            mirror: Tensor | None,
            own: State,
            moments: State,
            numbers: Tensor,
            counts: tuple[int, ...],
            names: tuple[str, ...],
            exchange: bool,
        ) -> None:
            """A whole commit of one contribution; ``exchange``: the new weights go into ``backup`` too."""
            facts = _facts(numbers, counts, names)
            repaired, after = compensated(w, g, backup, own, numbers, facts)
            stepped, moved = optimizer.step(w, repaired, moments, facts)
            for name, tensor in after.items():
                own[name].copy_(tensor)
            for name, tensor in moved.items():
                moments[name].copy_(tensor)
            w.copy_(stepped)
            if exchange and backup is not None:
                backup.copy_(stepped)
            if mirror is not None:
                mirror.copy_(stepped)

        def gather(
            total: Tensor,
            w: Tensor,
            g: Tensor,
            backup: Tensor | None,
            own: State,
            numbers: Tensor,
            counts: tuple[int, ...],
            names: tuple[str, ...],
            first: bool,
        ) -> None:
            """One contribution of several into their sum."""
            repaired, after = compensated(w, g, backup, own, numbers, _facts(numbers, counts, names))
            for name, tensor in after.items():
                own[name].copy_(tensor)
            total.copy_(repaired if first else total + repaired)

        def step(
            w: Tensor, total: Tensor, moments: State, numbers: Tensor, counts: tuple[int, ...], names: tuple[str, ...]
        ) -> None:
            """The optimizer's step with the sum."""
            stepped, moved = optimizer.step(w, total, moments, _facts(numbers, counts, names))
            for name, tensor in moved.items():
                moments[name].copy_(tensor)
            w.copy_(stepped)

        def measure(
            w: Tensor,
            g: Tensor,
            backup: Tensor | None,
            own: State,
            numbers: Tensor,
            counts: tuple[int, ...],
            names: tuple[str, ...],
        ) -> Mapping[str, Tensor]:
            """The compensation's sums over the whole vector."""
            facts = _facts(numbers, counts, names)
            return compensation.measure(g, w, w if backup is None else backup, own, facts)

        def squares(
            w: Tensor,
            g: Tensor,
            backup: Tensor | None,
            own: State,
            numbers: Tensor,
            counts: tuple[int, ...],
            names: tuple[str, ...],
        ) -> tuple[Tensor, Tensor]:
            """||compensation||^2 and ||gradient||^2."""
            facts = _facts(numbers, counts, names)
            repaired, _ = compensation.compensate(g, w, w if backup is None else backup, own, facts)
            return (repaired - g).double().square().sum(), g.double().square().sum()

        self.commit = _compiled(commit)
        self.gather = _compiled(gather)
        self.step = _compiled(step)
        self.measure = _compiled(measure)
        self.squares = _compiled(squares)


def kernels_of(compensation: Compensation, optimizer: Optimizer) -> Kernels:
    """The functions of a rule, made once: parts that are equal compute the same."""
    try:
        return _kernels_of(compensation, optimizer)
    except TypeError:  # a keyword that cannot be hashed
        return Kernels(compensation, optimizer)


@lru_cache(maxsize=64)
def _kernels_of(compensation: Compensation, optimizer: Optimizer) -> Kernels:
    return Kernels(compensation, optimizer)


@contextmanager
def tracing() -> Iterator[None]:
    """The context in which the functions are called, since any call may be the first of its kind."""
    with _TRACING, _COUNTING:
        yield


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call. What was compiled is kept with the code: so each has its own code."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    compiled: Callable[..., Any] = torch.compile(own, fullgraph=True, dynamic=True, options=_OPTIONS)
    return compiled
