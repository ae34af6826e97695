"""How a law is stated: a condition, and the sentence that is said where it does not hold."""

from __future__ import annotations


def require(holds: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless it holds. (An assert statement would vanish under python -O.)"""
    if not holds:
        raise AssertionError(sentence)
