"""Metrics of a run at Ray's own Prometheus endpoint, where Ray's are: http://NODE:METRICS_EXPORT_PORT/metrics.

    ray_tardigrad_samples_total          samples applied
    ray_tardigrad_version                commits so far
    ray_tardigrad_staleness              histogram: commits between a push's read and its own commit
    ray_tardigrad_live_workers           that take part now
    ray_tardigrad_rejected_total         pushes that were not applied
    ray_tardigrad_failures_total         workers that died, raised or hung
    ray_tardigrad_samples_per_second     over the last seconds

Each has the label ``run``: the name of the run's directory.
"""

from __future__ import annotations

from collections.abc import Callable

from ray.util.metrics import Counter, Gauge, Histogram

from tardigrad.engines.base import Observer
from tardigrad.records import Commit, Failure, Push, Rejected

_STALENESS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)  # upper bounds; the first holds staleness 0
_EVERY = 1.0  # seconds between two tellings


class RayMetrics(Observer):
    """Counts while the run goes on, and tells Ray once a second: a commit costs no more for it.

    Args:
        run: what the label says.
        live: how many workers take part now.
    """

    def __init__(self, run: str, live: Callable[[], int]) -> None:
        self._live, self._tags = live, {"run": run}
        keys = ("run",)
        self._counters = {
            name: Counter(f"tardigrad_{name}", description, keys)
            for name, description in (
                ("samples", "samples applied"),
                ("rejected", "pushes that were not applied"),
                ("failures", "workers that died, raised or hung"),
            )
        }
        self._gauges = {
            name: Gauge(f"tardigrad_{name}", description, keys)
            for name, description in (
                ("version", "commits so far"),
                ("live_workers", "workers that take part now"),
                ("samples_per_second", "samples applied in a second, over the last seconds"),
            )
        }
        self._staleness = Histogram(
            "tardigrad_staleness", "commits between a push's read and its own", list(_STALENESS), keys
        )
        self._counted = dict.fromkeys(self._counters, 0)
        self._late: list[int] = []
        self._version = 0
        self._told: float | None = None

    def committed(self, time: float, commit: Commit) -> None:
        """Count it."""
        self._version = commit.version
        for part in commit.contributions:
            self._counted["samples"] += part.samples
            self._late.append(commit.version - 1 - part.read_version)
        self._tell_if_time(time)

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """Count it."""
        self._counted["rejected"] += 1
        self._tell_if_time(time)

    def failed(self, time: float, failure: Failure) -> None:
        """Count it."""
        self._counted["failures"] += 1
        self._tell_if_time(time)

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """One less takes part."""
        self._tell_if_time(time)

    def tell(self, time: float) -> None:
        """Tell Ray what was counted since the last time."""
        seconds = 0.0 if self._told is None else time - self._told
        if seconds > 0.0:
            self._gauges["samples_per_second"].set(self._counted["samples"] / seconds, self._tags)
        for name, counter in self._counters.items():
            if self._counted[name]:
                counter.inc(self._counted[name], self._tags)
        self._gauges["version"].set(self._version, self._tags)
        self._gauges["live_workers"].set(self._live(), self._tags)
        for staleness in self._late:
            self._staleness.observe(staleness, self._tags)
        self._counted, self._late, self._told = dict.fromkeys(self._counters, 0), [], time

    def _tell_if_time(self, time: float) -> None:
        if self._told is None or time >= self._told + _EVERY:
            self.tell(time)
