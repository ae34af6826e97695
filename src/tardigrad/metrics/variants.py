"""Tell apart runs of one label but several configurations, so that no mean is taken over apples and pears."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.runs import RunRecord
from tardigrad.specs import parse_spec

# What a comparison varies, and what changes no result that a comparison is about.
_FREE = frozenset(
    {
        *("format", "recipe", "label", "lr", "seed", "workers", "threads", "measure_every", "probe_rules"),
        *("imports", "data_dir", "checkpoint_every"),
    }
)


def variant_labels(runs: Sequence[RunRecord]) -> dict[Path, str]:
    """A label per run: its own, and in brackets the options in which runs of that label differ."""
    groups: dict[tuple[str, int], list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[run.label, run.workers].append(run)
    labels: dict[Path, str] = {}
    for (label, _), group in groups.items():
        fields = _differing(group)
        for run in group:
            words = ", ".join(word for name in fields for word in _words(name, run, group))
            labels[run.path] = f"{label} ({words})" if words else label
    return labels


def setting(run: RunRecord, *, but: frozenset[str] = frozenset()) -> frozenset[tuple[str, str]]:
    """A run's configuration as far as it may change its result, without what a comparison varies and ``but``."""
    return frozenset((name, repr(value)) for name, value in run.config.items() if name not in _FREE | but)


def _differing(group: Sequence[RunRecord]) -> list[str]:
    names = dict.fromkeys(name for run in group for name in run.config if name not in _FREE)
    return [name for name in names if len({repr(run.config.get(name)) for run in group}) > 1]


def _words(name: str, run: RunRecord, group: Sequence[RunRecord]) -> list[str]:
    """``lambda0=4.0`` where specs differ in a keyword, ``schedule=constant`` where they differ altogether."""
    mine = spec_options(run.config.get(name))
    others = [spec_options(other.config.get(name)) for other in group]
    if mine is None or any(other is None or other[0] != mine[0] for other in others):
        return [f"{name}={run.config.get(name)}"]
    keys = dict.fromkeys(key for other in others if other for key in other[1])
    differing = [key for key in keys if len({repr(other[1].get(key)) for other in others if other}) > 1]
    return [f"{key}={mine[1].get(key)}" for key in differing]


def spec_options(value: Any) -> tuple[str, dict[str, Any]] | None:
    """Name and options of a spec, those without a keyword under ``"0"``, ``"1"``, ...; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        spec = parse_spec(value)
    except InvalidArgument:
        return None
    return spec.name, {**{str(i): arg for i, arg in enumerate(spec.args)}, **spec.kwargs}
