"""``digits``: handwritten digits of 8 x 8 and a small CNN; seconds a run, no download."""

from __future__ import annotations

from torch.nn import functional

from tardigrad.data.digits import load_digits
from tardigrad.models.small_cnn import small_cnn
from tardigrad.tasks.base import ERROR, Split, Task


def digits() -> Task:
    """Handwritten digits of 8 x 8 (bundled with scikit-learn) and a small CNN."""
    splits = {name: Split(*pair) for name, pair in load_digits().items()}
    return Task(
        name="digits",
        model=small_cnn,
        loss=functional.cross_entropy,
        metric=ERROR,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )
