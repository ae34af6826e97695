"""Checks of hyper-parameters: a value outside its range is refused with a sentence."""

from __future__ import annotations

import math
from numbers import Integral, Real

from tardigrad.errors import InvalidArgument

STRENGTH_AUTO = "auto"
"""In place of a rule's strength: its registered default, times a factor that probes choose."""


def require_number(
    owner: str,
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    include_low: bool = True,
    include_high: bool = True,
) -> float:
    """Return ``value`` as a float, or raise `InvalidArgument` naming the accepted range.

    Infinity is accepted only where ``high`` is infinite and included; NaN never is.
    """
    left, right = "[" if include_low else "(", "]" if include_high else ")"
    accepted = f"a number in {left}{low:g}, {high:g}{right}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidArgument(f"{owner}: {name}={value!r} is not {accepted}.")
    number = float(value)
    above = number >= low if include_low else number > low
    below = number <= high if include_high else number < high
    if not (above and below):
        raise InvalidArgument(f"{owner}: {name}={value!r} is not {accepted}.")
    return number


def require_strength(owner: str, name: str, value: object) -> float | str:
    """Return ``value`` if it is `STRENGTH_AUTO` or a number in [0, inf), or raise `InvalidArgument`."""
    if value == STRENGTH_AUTO and isinstance(value, str):
        return value
    try:
        return require_number(owner, name, value, low=0.0, include_high=False)
    except InvalidArgument as error:
        raise InvalidArgument(f"{str(error).removesuffix('.')}, nor {STRENGTH_AUTO!r}, which follows probes.") from None


def require_integer(owner: str, name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int in [low, high], or raise `InvalidArgument`."""
    accepted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidArgument(f"{owner}: {name}={value!r} is not {accepted}.")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise InvalidArgument(f"{owner}: {name}={value!r} is not {accepted}.")
    return number


def require_flag(owner: str, name: str, value: object) -> bool:
    """Return ``value`` if it is True or False, or raise `InvalidArgument`."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{owner}: {name}={value!r} is not True or False.")
    return value


def require_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``, or raise `InvalidArgument`."""
    if value not in choices:
        raise InvalidArgument(f"{owner}: {name}={value!r} is not one of {', '.join(map(repr, choices))}.")
    return str(value)
