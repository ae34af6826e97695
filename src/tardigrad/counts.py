"""What happened in a run, counted for its summary: nothing here grows with commits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tardigrad.records import Commit, Failure, Lease, Push, Quality, Rejected

_NAMED = ("rejected", "failures", "leaves")
_JUDGED = ("log_error", "fit", "square", "cosine", "raw_cosine", "compensation_cosine", "strength")


class Counts:
    """Counts of a run so far.

    Attributes:
        version: of the last commit; 0 before the first.
        commits: how many.
        samples: behind them.
        time: of the last, on the engine's clock.
    """

    def __init__(self) -> None:
        self.version = 0
        self.commits = 0
        self.samples = 0
        self.time = 0.0
        self._staleness: dict[int, dict[int, int]] = {}
        self._ratios = _Mean()
        self._quality: dict[str, tuple[_Mean, ...]] = {}
        self._named = {name: Counter[str]() for name in _NAMED}
        self._lost = self._joins = self._restarts = 0
        self._failed: set[int] = set()  # workers that left because they failed

    def committed(self, time: float, commit: Commit) -> None:
        """Count a commit and its contributions."""
        self.version, self.time = commit.version, time
        self.commits += 1
        for part in commit.contributions:
            self.samples += part.samples
            staleness = commit.version - 1 - part.read_version
            own = self._staleness.get(part.worker)
            if own is None:
                own = self._staleness[part.worker] = {}
            own[staleness] = own.get(staleness, 0) + 1
        if commit.compensation_ratio is not None:
            self._ratios.add(commit.compensation_ratio)
        for number, found in enumerate(commit.quality or ()):
            self._judged(f"{number} {found.name}", found)

    def rejected(self, push: Push, result: Rejected) -> None:
        """Count a rejection, and the samples it gave up."""
        self._named["rejected"][result.reason] += 1
        if result.lost and isinstance(push.lease, Lease):
            self._lost += push.lease.samples

    def returned(self, lost: Sequence[Lease], reason: str) -> None:
        """Count what a script threw away, and the samples given up with it."""
        if reason == "skipped":
            self._named["rejected"][reason] += 1
        self._lost += sum(lease.samples for lease in lost)

    def joined(self, worker: int) -> None:
        """Count a worker that joined: a restart if it had failed."""
        if worker in self._failed:
            self._failed.remove(worker)
            self._restarts += 1
        else:
            self._joins += 1

    def left(self, worker: int, reason: str) -> None:
        """Count a worker that left."""
        self._named["leaves"][reason] += 1
        if reason == "failed":
            self._failed.add(worker)

    def failed(self, failure: Failure) -> None:
        """Count a failure."""
        self._named["failures"][failure.kind] += 1

    def summary(self) -> dict[str, Any]:
        """The entries of ``summary.json`` that are counts."""
        return {
            "commits": self.commits,
            "rejected": dict(self._named["rejected"]),
            "lost_samples": self._lost,
            "staleness": self._staleness_summary(),
            "compensation_ratio": {"mean": self._ratios.mean, "max": self._ratios.max},
            "quality": self._quality_summary(),
            "failures": dict(self._named["failures"]),
            "restarts": self._restarts,
            "joins": self._joins,
            "leaves": dict(self._named["leaves"]),
        }

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            "version": self.version,
            "commits": self.commits,
            "samples": self.samples,
            "time": self.time,
            "lost": self._lost,
            "joins": self._joins,
            "restarts": self._restarts,
            "failed": sorted(self._failed),
            "ratios": self._ratios.state(),
            "quality": {name: [mean.state() for mean in means] for name, means in self._quality.items()},
            "named": {name: dict(counts) for name, counts in self._named.items()},
            "staleness": {worker: dict(counts) for worker, counts in self._staleness.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, read back from JSON."""
        self.version, self.commits, self._lost = state["version"], state["commits"], state["lost"]
        self.samples, self.time = state.get("samples", 0), state.get("time", 0.0)
        self._joins, self._restarts, self._failed = state["joins"], state["restarts"], set(state["failed"])
        self._ratios = _Mean(*state["ratios"])
        self._quality = {name: tuple(_Mean(*one) for one in means) for name, means in state.get("quality", {}).items()}
        self._named = {name: Counter(state["named"][name]) for name in _NAMED}
        self._staleness = {
            int(worker): {int(staleness): number for staleness, number in counts.items()}
            for worker, counts in state["staleness"].items()
        }

    def _judged(self, key: str, found: Quality) -> None:
        """Add one rule's part of a probe; numbers that are not finite, as of no compensation, are left out."""
        means = self._quality.setdefault(key, tuple(_Mean() for _ in _JUDGED))
        for mean, value in zip(means, _judged(found), strict=True):
            if math.isfinite(value):
                mean.add(value)

    def _quality_summary(self) -> list[dict[str, Any]]:
        """For each rule that was judged, the run's own first, what all probes say together.

        relative_error is a geometric mean, coefficient the factor that leaves the least sum of squared relative errors.
        """
        told = []
        for key, means in self._quality.items():
            known = {name: mean.mean for name, mean in zip(_JUDGED, means, strict=True)}
            error, fit, square = known.pop("log_error"), known.pop("fit"), known.pop("square")
            told.append({
                "rule": key.partition(" ")[2],
                "probes": means[-1].number,
                "relative_error": None if error is None else math.exp(error),
                "coefficient": fit / square if fit is not None and square else None,
                **known,
            })  # fmt: skip
        return told

    def _staleness_summary(self) -> dict[str, Any]:
        every = Counter[int]()
        for counts in self._staleness.values():
            every.update(counts)
        pushes = sum(every.values())
        return {
            "mean": sum(k * n for k, n in every.items()) / pushes if pushes else 0.0,
            "max": max(every, default=0),
            "histogram": {
                str(worker): {str(k): counts[k] for k in sorted(counts)}
                for worker, counts in sorted(self._staleness.items())
            },
        }


def _judged(found: Quality) -> tuple[float, ...]:
    """The numbers whose means are kept, in the order of `_JUDGED`; fit and square as <y, c> and <c, c> over <y, y>."""
    error, cosine = found.relative_error, found.compensation_cosine
    size = cosine / found.coefficient if found.coefficient else math.nan  # ||c|| / ||y||
    return (
        math.log(error) if error > 0.0 else math.nan,
        cosine * size,
        size**2,
        found.cosine,
        found.raw_cosine,
        cosine,
        found.strength,
    )


class _Mean:
    """Mean and largest of numbers of which none is kept; not finite where one of them was not."""

    def __init__(self, number: int = 0, total: float = 0.0, largest: float = -math.inf) -> None:
        self._number, self._total, self._largest = number, total, largest

    def add(self, value: float) -> None:
        """One more."""
        self._number += 1
        self._total += value
        self._largest = value if value > self._largest or math.isnan(value) else self._largest

    @property
    def number(self) -> int:
        """How many."""
        return self._number

    @property
    def mean(self) -> float | None:
        """None without any."""
        return self._total / self._number if self._number else None

    @property
    def max(self) -> float | None:
        """None without any."""
        return self._largest if self._number else None

    def state(self) -> list[float]:
        """The arguments that make it again."""
        return [self._number, self._total, self._largest]
