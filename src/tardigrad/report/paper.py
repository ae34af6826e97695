"""The paper's own curves, where a comparison is of the paper's CIFAR-10 setting: drawn behind ours, and in a table.

Read from the vector figures of Zheng et al., *Asynchronous Stochastic Gradient Descent with Delay Compensation*,
arXiv:1609.08326v6: figure 2 (4 and 8 workers) and figure 5, whose axes are taller (8 workers). One run each; x is what
the paper calls effective passes; what lies above the axes of a figure is not known, so curves begin near epoch 81.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import NONE, number, rate, spread
from tardigrad.metrics.scores import LAST
from tardigrad.metrics.variants import spec_options
from tardigrad.report.choices import counted_epochs
from tardigrad.report.differences import PageTable
from tardigrad.report.table import Column

RECIPE = "cifar10-resnet20"
_SGD = "F2 test M8 | SGD"  # that of figure 5 has stray points of its first stage
_CURVES: Mapping[int, Mapping[str, str]] = {
    1: {"sequential": _SGD},
    4: {
        "sequential": _SGD,
        "asgd": "F2 test M4 | ASGD",
        "ssgd": "F2 test M4 | SSGD",
        "dc-asgd-c": "F2 test M4 | DC-ASGD-c",
        "dc-asgd-a": "F2 test M4 | DC-ASGD-a",
    },
    8: {
        "sequential": _SGD,
        "asgd": "F5 test | ASGD",
        "ssgd": "F2 test M8 | SSGD",
        "dc-asgd-c": "F2 test M8 | DC-ASGD-c",
        "dc-asgd-a": "F2 test M8 | DC-ASGD-a",
    },
}
_LR = 0.5
_IMAGES, _KEPT = 50_000, 5_000  # official training images; those the task keeps for validation by default
# What the paper says of the runs behind these curves, by field of a run's configuration.
_SETTING: Mapping[str, Any] = {
    "epochs": 160,
    "batch_size": 128,
    "schedule": "step(at=(80, 120), gamma=0.1)",
    "optimizer": "sgd(momentum=0.0, weight_decay=0.0)",
}


@dataclass(frozen=True, slots=True)
class PaperCurve:
    """One curve: ``epochs`` as read from the figure, ``error`` in percent on test data."""

    label: str
    epochs: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def best(self) -> float:
        """Its minimum: what the paper's Table 1 reports."""
        return min(self.error)

    @property
    def last_ten(self) -> float:
        """Mean of its last ten epochs."""
        return statistics.fmean(self.error[-LAST:])


def paper_curves(c: Comparison, workers: int) -> dict[str, PaperCurve]:
    """The paper's curves at a worker count, by the label of the same algorithm here; none for any other setting."""
    if not _is_papers(c) or c.split != "test":
        return {}
    shown = {series.label for series in (*c.algorithms(workers), *([c.sequential] if c.sequential else ()))}
    return {label: _curve(label, name) for label, name in _CURVES.get(workers, {}).items() if label in shown}


def paper_table(c: Comparison) -> PageTable | None:
    """The paper's best epoch and mean of the last ten beside ours; None for any other setting."""
    rows = [(workers, label, curve) for workers, label, curve in _rows(c)]
    if not rows:
        return None
    metric = c.metric
    ours = [next(s for s in c.series if s.label == label and s.workers in (workers, 1)) for workers, label, _ in rows]
    points = [(series.chosen, c.at_recipe(series)) for series in ours]
    recipe = [cell if cell is not None else best for best, cell in points]
    columns = (
        Column("algorithm", tuple(label for _, label, _ in rows), words=True),
        Column("workers", tuple(str(1 if label == "sequential" else workers) for workers, label, _ in rows)),
        Column("paper: best epoch", tuple(number(curve.best, metric) for *_, curve in rows)),
        Column("paper: mean of last ten", tuple(number(curve.last_ten, metric) for *_, curve in rows)),
        Column(
            "ours at the recipe: best epoch",
            tuple(NONE if cell is None else spread(cell.best("test"), metric, unit=False) for cell in recipe),
        ),
        Column(
            "ours at the recipe: mean of last ten",
            tuple(NONE if cell is None else spread(cell.last_ten("test"), metric, unit=False) for cell in recipe),
        ),
        Column(
            "ours, best point: mean of last ten",
            tuple(NONE if cell is None else spread(cell.last_ten("test"), metric, unit=False) for cell, _ in points),
        ),
    )
    return PageTable("paper-table", "The paper's numbers", columns, _note(c))


def _rows(c: Comparison) -> list[tuple[int, str, PaperCurve]]:
    """Every algorithm of the paper that ran here too, ``sequential`` once."""
    found: dict[tuple[int, str], tuple[int, str, PaperCurve]] = {}
    for workers in c.worker_counts:
        for label, curve in paper_curves(c, workers).items():
            found.setdefault((1 if label == "sequential" else workers, label), (workers, label, curve))
    return list(found.values())


def _note(c: Comparison) -> str:
    differing = "; ".join(_departures(c))
    ours = f" Ours differs: {differing}." if differing else ""
    return (
        f"Test error in %. The paper ran each algorithm once, at learning rate {_LR}; its Table 1 reports the best "
        f"epoch. Source: {_stored()['source']}.{ours}"
    )


def _departures(c: Comparison) -> list[str]:
    """In what the runs here depart from what the paper says of its own."""
    config = c.runs[0].config
    found = [
        f"{name.replace('_', ' ')} {config.get(name)}, in the paper {told}"
        for name, told in _SETTING.items()
        if config.get(name) != told
    ]
    if c.recipe_lr is not None and c.recipe_lr != _LR:
        found.append(f"the recipe's learning rate is {rate(c.recipe_lr)}, in the paper {_LR}")
    if config.get("warmup"):
        found.append(f"warm-up over {counted_epochs(config['warmup'])}, of which the paper says nothing")
    _, options = spec_options(config["task"]) or ("", {})
    kept = int(options.get("validation", _KEPT))
    used = options.get("train") or _IMAGES - kept
    if used != _IMAGES:
        found.append(f"{used:,} images are trained on, in the paper {_IMAGES:,}")
    if options.get("augment", True):
        found.append("training images are cropped and flipped, in the paper's text they are not")
    return found


def _is_papers(c: Comparison) -> bool:
    return bool(c.runs) and all(_is_run_of_papers(run.config) for run in c.runs)


def _is_run_of_papers(config: Mapping[str, Any]) -> bool:
    name, options = spec_options(config.get("task")) or ("", {})
    model = options.get("model", "resnet20")
    return config.get("recipe") == RECIPE and name == "cifar10" and model == "resnet20"


def _curve(label: str, name: str) -> PaperCurve:
    points: Sequence[tuple[float, float]] = _stored()["curves"][name]
    return PaperCurve(label, tuple(x for x, _ in points), tuple(100.0 * y for _, y in points))


@functools.cache
def _stored() -> Mapping[str, Any]:
    file = resources.files("tardigrad.report").joinpath("data/paper-curves.json")
    stored: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return stored
