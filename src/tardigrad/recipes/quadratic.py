"""``quadratic``: a noisy quadratic with a known minimum; a second a run."""

from __future__ import annotations

from tardigrad.config import RunConfig


def quadratic() -> RunConfig:
    """8 workers, batch 16, 20 epochs, learning rate 0.1."""
    return RunConfig(
        task="quadratic",
        workers=8,
        batch_size=16,
        epochs=20,
        lr=0.1,
        delay="gamma(mean=1.0, machine_cv=0.1, task_cv=0.1)",
    )
