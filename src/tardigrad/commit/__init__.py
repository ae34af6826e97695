"""Commit paths: how a rule's equations are applied to the server's buffers.

Order inside a commit, always: gradient as pushed -> compensate, against the pushing worker's own backup -> weighted
sum over the contributions -> coupled weight decay, momentum, step (the optimizer's equations).

``exact`` is eager PyTorch in torch.optim's own forms; it carries every bitwise law. ``compiled`` is the same rule
through torch.compile: one pass over the memory, bitwise only against itself. Between the two lies at most
1e-6 (|w| + lr |g| + lr |compensation|). A run keeps to one of them from its first commit to its last.
"""

from __future__ import annotations

from tardigrad.specs import Registry

COMMIT_PATHS = Registry(
    "commit path",
    {"exact": "tardigrad.commit.exact:ExactPath", "compiled": "tardigrad.commit.compiled:CompiledPath"},
)
