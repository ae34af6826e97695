"""Seeds: every random draw belongs to a named stream of its own, derived from the run's seed.

A draw depends on what it is for (stream, worker, epoch, position), never on who asked first: so the same seed
gives the same samples, delays and dropout masks in every engine, and a replay can draw them again.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, stream: str, *position: int) -> int:
    """A 63-bit seed for one stream at one position.

    >>> derive_seed(0, "dropout", 3, 128) == derive_seed(0, "dropout", 3, 128)
    True
    """
    text = f"{seed}/{stream}/{'/'.join(map(str, position))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def random_stream(seed: int, stream: str, *position: int) -> np.random.Generator:
    """A numpy generator for one stream at one position."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, stream, *position)))
