"""What a verdict is made of: a headline, and sections of sentences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One question and its answer, sentence by sentence."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole verdict.

    Attributes:
        headline: one to three sentences that stand alone.
        sections: the answers; empty ones are left out.
    """

    headline: str
    sections: tuple[Section, ...]

    @property
    def sentences(self) -> list[str]:
        """All sentences in order, the headline first."""
        return [self.headline, *(s for section in self.sections for s in section.sentences)]
