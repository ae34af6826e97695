"""GeneratorStates: what the generators of random numbers would draw next, kept and put back.

Something that draws random numbers can so be done without a trace: the order of samples is evaluated ahead of its
time, and items of a data set are looked at, while the script's own draws stay what they would have been.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@dataclass(frozen=True, slots=True)
class GeneratorStates:
    """States of the global generators of torch (the CPU's), random and numpy."""

    torch_state: torch.Tensor
    python_state: tuple[Any, ...]
    numpy_state: dict[str, Any]

    @classmethod
    def now(cls) -> GeneratorStates:
        """Of this process at this moment."""
        numpy_state = np.random.get_state(legacy=False)
        assert isinstance(numpy_state, dict)  # what legacy=False gives
        return cls(torch.default_generator.get_state(), random.getstate(), numpy_state)

    def put_back(self) -> None:
        """Make the generators draw from here on what they would have drawn then."""
        torch.default_generator.set_state(self.torch_state)
        random.setstate(self.python_state)
        np.random.set_state(self.numpy_state)

    def as_plain(self) -> dict[str, Any]:
        """As what JSON holds, exactly."""
        version, words, gauss = self.python_state
        return {
            "torch": self.torch_state.numpy().tobytes().hex(),
            "python": [version, list(words), gauss],
            "numpy": _without_arrays(self.numpy_state),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> GeneratorStates:
        """The inverse."""
        version, words, gauss = plain["python"]
        torch_state = torch.frombuffer(bytearray.fromhex(plain["torch"]), dtype=torch.uint8)
        return cls(torch_state, (version, tuple(words), gauss), dict(plain["numpy"]))


@contextmanager
def generators_kept(*own: Any) -> Iterator[None]:
    """Whatever is drawn inside leaves the global generators as they were, and those of ``own``."""
    before = GeneratorStates.now()
    states = [_state_of(generator) for generator in own]
    try:
        yield
    finally:
        before.put_back()
        for generator, state in zip(own, states, strict=True):
            _put_state(generator, state)


def seed_cpu_generators(seed: int) -> None:
    """Seed the global generators of torch (the CPU's only), random and numpy; seed in [0, 2**63)."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def generators_within(thing: Any, *, most: int = 10_000) -> list[Any]:
    """The generators that an object holds, in its attributes, lists, tuples and dicts, at any depth.

    Args:
        thing: where to look.
        most: objects to look at, >= 1: a data set may hold its samples in a list.
    """
    found, seen, waiting = [], {id(thing)}, [thing]
    while waiting and len(seen) <= most:
        item = waiting.pop()
        if isinstance(item, GENERATORS):
            found.append(item)
            continue
        for part in _parts(item, most):
            if id(part) not in seen and not isinstance(part, str | int | float | bytes | None):
                seen.add(id(part))
                waiting.append(part)
    return found


def _without_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _without_arrays(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _parts(item: Any, most: int) -> list[Any]:
    if isinstance(item, torch.Tensor | np.ndarray | type | ModuleType | FunctionType):
        return []
    if isinstance(item, dict):
        parts = list(item.values())
    elif isinstance(item, list | tuple | set | frozenset):
        parts = list(item)
    else:
        parts = list(getattr(item, "__dict__", {}).values())
    return parts[:most]


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def _put_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.setstate(state)
