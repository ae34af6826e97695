"""`tardigrad list` and `tardigrad doctor`: what there is, here and on this machine."""

from __future__ import annotations


def names(words: list[str]) -> int:
    """``tardigrad list``; the exit status."""
    from tardigrad.listing import print_lists

    print_lists(words)
    return 0


def doctor(words: list[str]) -> int:
    """``tardigrad doctor``; the exit status."""
    from tardigrad.doctor import print_examination

    print_examination()
    return 0
