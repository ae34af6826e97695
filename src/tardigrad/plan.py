"""`--dry-run`: what would be run, and the memory it needs."""

from __future__ import annotations

from collections.abc import Sequence

from tardigrad.commit import ExactPath
from tardigrad.config import RunConfig
from tardigrad.consistency import build_consistency
from tardigrad.layout import FlatLayout
from tardigrad.rules.base import make_rule
from tardigrad.training import resolve


def memory_needed(config: RunConfig) -> dict[str, int]:
    """Bytes of the server for a configuration at its largest, by part.

    Backups count one per worker and one for the weights at the start: workers that read the same version share one.
    """
    resolved, task = resolve(config)
    layout = FlatLayout.of_model(task.make_model(resolved.seed))
    model = layout.size * layout.zeros().element_size()
    rule = make_rule(resolved.rule, optimizer=resolved.optimizer)
    own = sum(sharing == "per_worker" for sharing in rule.compensation.state_spec().values())
    state = ExactPath(rule, layout).state_bytes() + own * resolved.workers * model
    held = resolved.workers * model if build_consistency(resolved.consistency).barrier else 0
    return {
        "weights": model,
        "backups": (resolved.workers + 1) * model,
        "rule state": state,
        "held gradients": held,
    }


def print_plan(runs: Sequence[RunConfig]) -> None:
    """Print the configuration of one run, or the names of several, and the memory of the largest."""
    if len(runs) == 1:
        for name, value in resolve(runs[0])[0].as_json().items():
            print(f"{name:<22} {value}")
    else:
        for config in runs:
            print(config.directory_name)
        print(f"\n{len(runs)} runs")
    largest = max((memory_needed(config) for config in {_size(c): c for c in runs}.values()), key=_total)
    parts = ", ".join(f"{name} {amount / 2**20:.1f}" for name, amount in largest.items())
    print(
        f"\nmemory of the server{' (the largest run)' if len(runs) > 1 else ''}: "
        f"{_total(largest) / 2**20:.1f} MiB ({parts})"
    )


def _total(parts: dict[str, int]) -> int:
    return sum(parts.values())


def _size(config: RunConfig) -> tuple[str, int, str]:
    return config.rule, config.workers, config.consistency
