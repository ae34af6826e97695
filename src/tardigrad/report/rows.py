"""The numbers behind a report, one line a run, as CSV: for a spreadsheet, a notebook or a repository."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tardigrad.metrics.runs import RunRecord
from tardigrad.metrics.scores import metric_of, score

COLUMNS = (
    "run", "label", "workers", "lr", "seed", "rule", "status", "epoch",
    "validation_final", "validation_last_ten", "test_final", "test_last_ten", "test_best",
    "staleness_mean", "relative_error_mean", "cosine_mean", "time", "wall", "memory_total",
)  # fmt: skip


def write_rows(runs: Sequence[RunRecord], path: Path) -> None:
    """Write one line a run, trial runs included.

    Args:
        runs: as `find_runs` gives them.
        path: the file; replaced where it is there. Scores are in the metric's displayed unit, times in seconds
            (``time`` is the engine's clock), memory in bytes. What was not measured is left empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    metric = metric_of(runs)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for run in runs:
            scores, summary = score(run, metric), run.summary or {}
            own: dict[str, Any] = next(iter(summary.get("quality") or []), {})  # its own rule's
            last: dict[str, Any] = dict(run.evaluations[-1]) if run.evaluations else {}
            row = {
                "run": run.path.name,
                "label": run.label,
                "workers": run.workers,
                "lr": run.lr,
                "seed": run.seed,
                "rule": run.config["rule"],
                "status": run.status,
                "epoch": last.get("epoch"),
                "validation_final": scores.validation.final,
                "validation_last_ten": scores.validation.last_ten,
                "test_final": scores.test.final,
                "test_last_ten": scores.test.last_ten,
                "test_best": scores.test.best,
                "staleness_mean": summary.get("staleness", {}).get("mean"),
                "relative_error_mean": own.get("relative_error"),
                "cosine_mean": own.get("cosine"),
                "time": last.get("time"),
                "wall": last.get("wall"),
                "memory_total": summary.get("memory", {}).get("total"),
            }
            writer.writerow({name: _short(value) for name, value in row.items()})


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
