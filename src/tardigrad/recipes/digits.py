"""``digits``: the small CNN on scikit-learn's handwritten digits."""

from __future__ import annotations

from tardigrad.config import RunConfig


def digits() -> RunConfig:
    """16 workers, batch 16, 20 epochs, learning rate 0.1, a tenth of it from epoch 12."""
    return RunConfig(
        task="digits",
        workers=16,
        batch_size=16,
        epochs=20,
        lr=0.1,
        schedule="step(at=(12,), gamma=0.1)",
        delay="gamma(mean=1.0, machine_cv=0.1, task_cv=0.1)",
    )
