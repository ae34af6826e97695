"""Recruiting: who brings workers to a run that others may join. Without anybody, people do."""

from __future__ import annotations

from typing import Protocol


class Recruiter(Protocol):
    """Starts agents on other machines; what it raises ends the run.

    Attributes:
        words: what there is to say; whoever says it takes it out.
    """

    words: list[str]

    def begin(self, address: str, secret: str, workers: int) -> None:
        """The run waits for so many workers there; agents prove themselves with this secret."""

    def tick(self, wanted: int) -> None:
        """Called about once a second: so many workers are wanted now."""

    def close(self) -> None:
        """The run has ended, or was stopped."""
