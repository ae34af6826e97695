"""How much of the weights a part of a rule must see at once."""

from __future__ import annotations

from typing import Literal

Scope = Literal["element", "tensor", "model"]
"""``element``: pure and elementwise on flat buffers, so it may be split, sharded and fused.
``tensor``: needs each parameter as a shaped tensor.
``model``: needs the whole vector at once, or numbers over it."""

Sharing = Literal["per_worker", "shared"]
"""Whether a compensation keeps a state tensor for each worker, or one for all."""

PER_WORKER: Sharing = "per_worker"
SHARED: Sharing = "shared"
