"""Randomness: the generators that a training script draws from without naming one."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch (all devices), random and numpy; seed in [0, 2**63)."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
