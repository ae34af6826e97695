"""What probes found in a run: how near each rule's compensated gradients come to the gradients of now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import NONE, counted, listing, rate
from tardigrad.metrics.runs import RunRecord
from tardigrad.metrics.variants import spec_options


@dataclass(frozen=True, slots=True)
class Judged:
    """One rule at every probe of a run; NaN where a number was not finite.

    Attributes:
        label: its name, with the keywords that tell it from others of that name.
        relative_error: ||g' - now|| / ||g - now||.
        cosine: of the compensated gradient with the gradient of now.
        compensation_cosine: of the compensation with what a perfect one would be.
        coefficient: the factor on the compensation that would have left the least error.
        strength: the factor on its strength that it followed; 1 where it follows nothing.
    """

    label: str
    relative_error: tuple[float, ...]
    cosine: tuple[float, ...]
    compensation_cosine: tuple[float, ...]
    coefficient: tuple[float, ...]
    strength: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Probes:
    """Every probe of a run, in order.

    Attributes:
        versions: that their commits made.
        epochs: the same in epochs of samples applied.
        staleness: of the gradients.
        raw_cosine: of the gradient as pushed with the gradient of now.
        rules: those judged, the run's own first.
    """

    versions: tuple[int, ...]
    epochs: tuple[float, ...]
    staleness: tuple[int, ...]
    raw_cosine: tuple[float, ...]
    rules: tuple[Judged, ...]


def read_probes(run: RunRecord) -> Probes | None:
    """The probes of a run from its log; None where it made none.

    Raises:
        RunDirectoryError: the log is missing or damaged.
    """
    events = list(run.events("probe"))
    if not events:
        return None
    versions = tuple(int(event[2]) for event in events)
    rules = []
    for number, label in enumerate(judged_labels(run)):
        columns = zip(*(event[5][number] for event in events), strict=True)
        rules.append(Judged(label, *(tuple(map(_number, column)) for column in columns)))
    return Probes(
        versions=versions,
        epochs=_epochs(run, versions),
        staleness=tuple(int(event[3]) for event in events),
        raw_cosine=tuple(_number(event[4]) for event in events),
        rules=tuple(rules),
    )


def judged_labels(run: RunRecord) -> list[str]:
    """The rules that a run's probes judge, the run's own first: names, with keywords where one name stands for two."""
    specs = [run.rule, *run.config.get("probe_rules", ())]
    options = [spec_options(spec) or (spec, {}) for spec in specs]
    labels = []
    for name, mine in options:
        others = [keywords for other, keywords in options if other == name]
        words = [f"{key}={value}" for key, value in mine.items() if any(other.get(key) != value for other in others)]
        labels.append(f"{name} ({', '.join(words)})" if words else name)
    return [label if label not in labels[:k] else f"{label} again" for k, label in enumerate(labels)]


def probed_run(comparison: Comparison) -> RunRecord | None:
    """The run to show: at the largest worker count, first seed at the chosen rate, the one that judged most rules."""
    series = comparison.algorithms(comparison.worker_counts[-1])
    runs = [s.chosen.scores[0].run for s in series if s.chosen is not None]
    able = [run for run in runs if run.config.get("probe_every") and (run.summary or {}).get("quality") != []]
    return max(able, key=lambda run: len(run.config.get("probe_rules", ())), default=None)


def quality_sentences(comparison: Comparison) -> list[str]:
    """What the probes of `probed_run` found together; empty where there are none."""
    run = probed_run(comparison)
    found: Sequence[Mapping[str, Any]] = (run.summary or {}).get("quality", []) if run is not None else []
    if run is None or not found:
        return []
    where = f"{run.label} with {counted(run.workers, 'worker')} at learning rate {rate(run.lr)}, seed {run.seed}"
    rules = [
        f"{label} {_short(one['relative_error'])} and {_short(one['cosine'])}"
        for label, one in zip(judged_labels(run), found, strict=True)
    ]
    first = (
        f"{counted(found[0]['probes'], 'probe')} of {where} held gradients against those of the weights of now. Mean "
        f"relative error (geometric; raw: 1) and cosine (raw: {_short(found[0]['raw_cosine'])}): {listing(rules)}."
    )
    factor = found[0]["coefficient"]
    if factor is None:
        return [first]
    return [first, f"With {_short(factor)} times its compensation {run.label} would have left the least error."]


def _epochs(run: RunRecord, versions: Sequence[int]) -> tuple[float, ...]:
    """Epochs of samples applied at these versions, between evaluations in a straight line."""
    known = sorted((int(each["version"]), float(each["epoch"])) for each in run.evaluations)
    if not known:
        return tuple(float(version) for version in versions)
    at, epochs = zip(*known, strict=True)
    return tuple(np.interp(np.asarray(versions), at, epochs).tolist())


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _short(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"
