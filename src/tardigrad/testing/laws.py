"""Laws: how one is stated, a condition and the sentence that is said where it does not hold, and how they are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from tardigrad.errors import UnknownName


def require(holds: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless it holds. (An assert statement would vanish under python -O.)"""
    if not holds:
        raise AssertionError(sentence)


def keep(who: str, laws: Mapping[str, Callable[..., None]], chosen: Collection[str] | None, *given: Any) -> None:
    """Raise AssertionError, with a sentence, at the first law that is broken.

    Args:
        who: it is about, as the sentence begins.
        laws: by name; each raises AssertionError unless it holds.
        chosen: the names of those to check; None: all.
        *given: to each law.

    Raises:
        AssertionError: a law is broken.
        UnknownName: there is no such law.
    """
    for name in laws if chosen is None else chosen:
        if name not in laws:
            raise UnknownName("law", name, laws)
        try:
            laws[name](*given)
        except AssertionError as error:
            raise AssertionError(f"{who} breaks the law {name!r}: {error}") from error
