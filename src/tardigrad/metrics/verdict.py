"""The verdict in words: what beat what and by how much, or that nothing can be said."""

from __future__ import annotations

import textwrap
from functools import partial

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.grid_verdict import grid_verdict
from tardigrad.metrics.sections import Verdict
from tardigrad.metrics.tuned_verdict import tuned_verdict


def verdict(comparison: Comparison) -> Verdict:
    """Put a comparison into words."""
    return grid_verdict(comparison) if comparison.tuning is None else tuned_verdict(comparison)


def as_text(verdict: Verdict, *, width: int = 100) -> str:
    """The verdict for a terminal: the headline, then each section's sentences as a list; no line is longer."""
    wrap = partial(textwrap.wrap, width=width, break_on_hyphens=False, break_long_words=False)
    lines = wrap(verdict.headline)
    for section in verdict.sections:
        lines += ["", section.title]
        for sentence in section.sentences:
            lines += wrap(sentence, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)
