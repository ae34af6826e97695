"""A rule of your own, outside the package: the further the weights have moved, the smaller the gradient's step.

    python examples/own_rule.py
    tardigrad compare quadratic --algorithms asgd gap-aware --imports examples/own_rule.py

After Barkai et al., Gap-aware mitigation of gradient staleness, ICLR 2020 (arXiv 1909.10802).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

import tardigrad
from tardigrad.records import Facts
from tardigrad.scopes import SHARED
from tardigrad.testing import check_rule


@dataclass(frozen=True, slots=True)
class GapAware(tardigrad.Compensation):
    """g / (1 + |w - backup| / C), with C = lr * running mean of |g|: the distance moved, counted in plain steps."""

    name = "gap-aware"
    scope = "element"
    reads_backup = True
    baseline = "asgd"

    decay: float = 0.99

    def state_spec(self):
        """One running mean for all workers, shaped as the weights."""
        return {"mean_size": SHARED}

    def compensate(self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts):
        """Return what the gradient becomes, and the new state; write into nothing that was given."""
        mean_size = state["mean_size"].mul(self.decay).add(g.abs(), alpha=1.0 - self.decay)
        if facts.staleness == 0:
            return g, {"mean_size": mean_size}
        seen = 1.0 - self.decay ** (facts.version + 1)  # the mean starts at 0
        step = mean_size.mul(facts.lr / seen).add(1e-12)  # C; never 0
        return g * step / (step + (w - backup).abs()), {"mean_size": mean_size}


tardigrad.register_rule("gap-aware", GapAware)

if __name__ == "__main__":
    check_rule("gap-aware")
    print("gap-aware keeps every law")
    for rule in ("asgd", "gap-aware", "gap-aware(decay=0.9)"):
        run = tardigrad.train("quadratic", rule=rule, workers=16, lr=0.2, epochs=5)
        excess = [evaluation.scores["test"]["excess loss"] for evaluation in run.evaluations]
        print(f"{rule:<20} excess loss:", *(f"{value:.3g}" for value in excess))
