"""Sketched inner products, and how far what dc-lowrank makes of them is from what it makes of whole rows.

A sketch folds a vector into few numbers: entry j, with a random sign that never changes, is added to bucket j mod k.
Inner products of sketches are right in the mean, and wrong by about sqrt(2 / k) times the lengths of both vectors.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tardigrad.assembling import assemble, blueprint_of, configure
from tardigrad.engines import ENGINES
from tardigrad.layout import FlatLayout
from tardigrad.recipes.digits import digits
from tardigrad.records import Facts
from tardigrad.rules.base import Rule, make_rule
from tardigrad.rules.dc_lowrank import DCLowRank
from tardigrad.window import Window, WindowPlan

BUCKETS = 4096


class Sketch:
    """Folds flat vectors of one size.

    Args:
        size: elements of a vector.
        buckets: k.
        device: of the vectors.
    """

    def __init__(self, size: int, buckets: int = BUCKETS, device: str = "cpu") -> None:
        self.size, self.buckets = size, buckets
        generator = torch.Generator().manual_seed(5)
        signs = torch.randint(0, 2, (size,), dtype=torch.int8, generator=generator).mul_(2).sub_(1)
        self.signs = signs.to(device)
        self._signed = torch.zeros(-(-size // buckets) * buckets, device=device)  # what is beyond the size stays zero

    def __call__(self, vector: Tensor) -> Tensor:
        """Its sketch, shape (buckets,)."""
        torch.mul(vector, self.signs, out=self._signed[: self.size])
        return self._signed.view(-1, self.buckets).sum(0)


class Judge:
    """Windows beside the rule's own, of sketches and of bfloat16 rows, and how wrong each one's compensation is."""

    def __init__(self, plan: WindowPlan, size: int, buckets: int) -> None:
        self.sketch = Sketch(size, buckets)
        self.sketches = Window(plan, FlatLayout.of([torch.empty(buckets)]))
        self.halves = Window(WindowPlan(plan.rows, kept="bfloat16"), FlatLayout.of([torch.empty(size)]))
        self.errors: dict[str, list[float]] = {"sketched inner products": [], "bfloat16 rows": []}

    def remember(self, gradient: Tensor, live: int) -> None:
        """The rows stand where those of the rule's own window do."""
        self.sketches.add(self.sketch(gradient), live=live)
        self.halves.add(gradient, live=live)

    def compare(self, rule: DCLowRank, moved: Tensor, facts: Facts) -> None:
        """Relative errors of the compensations against that of whole float32 rows; ``moved``: w - backup."""
        whole = facts.window
        truth = compensation(rule, Products(whole, whole, moved), facts)
        judged = {
            "sketched inner products": Products(self.sketches, whole, self.sketch(moved)),
            "bfloat16 rows": Products(self.halves, self.halves, moved),
        }
        for name, products in judged.items():
            self.errors[name].append(float((compensation(rule, products, facts) - truth).norm() / truth.norm()))


@dataclass(frozen=True)
class Products:
    """A window whose inner products are one's and whose rows are another's; the one knows w - backup as ``moved``."""

    inner: Window
    rows: Window
    moved: Tensor

    @property
    def size(self) -> int:
        """How many gradients count."""
        return self.inner.size

    @property
    def gram(self) -> Tensor:
        """S S^T of the one."""
        return self.inner.gram

    def against(self, vector: Tensor) -> Tensor:
        """S (w - backup) of the one."""
        return self.inner.against(self.moved)

    def combined(self, factors: Tensor) -> Tensor:
        """S^T y of the other."""
        return self.rows.combined(factors)


def compensation(rule: DCLowRank, window: Products, facts: Facts) -> Tensor:
    """c of the rule itself, with other products than its window's."""
    zero = torch.zeros(())
    repaired, _ = DCLowRank.compensate(rule, zero, zero, zero, {}, replace(facts, window=window))
    return repaired


@dataclass(frozen=True)
class Judged(DCLowRank):
    """dc-lowrank, judged at every late gradient."""

    buckets: int = BUCKETS
    judges: list[Judge] = field(default_factory=list, compare=False, repr=False)

    def compensate(
        self, g: Tensor, w: Tensor, backup: Tensor, state: Mapping[str, Tensor], facts: Facts
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As the rule does."""
        if not self.judges:
            self.judges.append(Judge(self.window_plan, g.numel(), self.buckets))
        self.judges[0].remember(g, facts.live)
        if facts.staleness > 0:
            self.judges[0].compare(self, w - backup, facts)
        return DCLowRank.compensate(self, g, w, backup, state, facts)


def errors_on_digits(rows: int, *, epochs: int, lr: float, buckets: int = BUCKETS) -> list[dict]:
    """Over all late gradients of a run of the recipe digits, of 16 simulated workers, as rows of the benchmark.

    Args:
        rows: gradients in the window.
        epochs: of training.
        lr: learning rate.
        buckets: numbers in a sketch.
    """
    config = configure(digits().replace(epochs=epochs, lr=lr, rule="dc-lowrank", threads=1))
    judged = Judged(window=rows, buckets=buckets)
    rule = Rule(judged, make_rule("dc-lowrank", optimizer=config.optimizer).optimizer)
    job = assemble(config, blueprint_of(config).build_task(), rule)
    ENGINES.load("simulated")(job).run()
    return [
        {
            "what": name,
            "window": rows,
            "lr": lr,
            "parameters": job.server.layout.size,
            "buckets": buckets,
            "late gradients": len(found),
            "relative error of c, median": float(f"{statistics.median(found):.3g}"),
            "relative error of c, 90 %": float(f"{statistics.quantiles(found, n=10)[-1]:.3g}"),
        }
        for name, found in judged.judges[0].errors.items()
    ]
