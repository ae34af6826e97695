"""`tardigrad status`: a run's workers, pace, staleness and events, live; of one that does not run, what to type."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tardigrad.standing import Standing, describe, find_standing

_EVERY = 1.0  # seconds between two looks
_HEADINGS = ("worker", "life", "state", "for", "pushes", "samples/s", "s a step", "staleness")


def show_status(directory: Path, *, once: bool = False) -> None:
    """Print where a run stands; on a terminal go on once a second until it ends or Ctrl-C, unless ``once``.

    Raises:
        RunDirectoryError: there is no run.
    """
    console = Console()
    standing = find_standing(directory)
    if once or not console.is_terminal or standing.state != "running":
        console.print(_picture(standing), highlight=False, soft_wrap=True)
        return
    with Live(_picture(standing), console=console, auto_refresh=False) as live:
        try:
            for now in _standings(directory):
                live.update(_picture(now), refresh=True)
        except KeyboardInterrupt:  # the run goes on; only the looking ends
            return


def _standings(directory: Path) -> Iterator[Standing]:
    """Where it stands, once a second, up to the first time that it does not run any more."""
    running = True
    while running:
        time.sleep(_EVERY)
        standing = find_standing(directory)
        running = standing.state == "running"
        yield standing


def _picture(standing: Standing) -> Group:
    lines: list[Text | Table] = [Text(line) for line in describe(standing)]
    status = standing.status
    if status is not None and standing.state in ("running", "elsewhere", "killed"):
        if status.get("workers"):
            lines.append(_workers(status, standing.config))
        lines += [Text(f"{event['time']:9.1f} s  {event['words']}") for event in status["events"]]
    return Group(*lines)


def _workers(status: Mapping[str, Any], config: Mapping[str, Any]) -> Table:
    """A line for each worker; ``s a step`` is what a gradient takes, without waiting and without the exchange.

    Where workers of other machines take part the last column says of which.
    """
    table = Table(box=None, pad_edge=False)
    elsewhere = any(worker.get("host") for worker in status["workers"])
    for heading in (*_HEADINGS, *(["where"] if elsewhere else [])):
        table.add_column(heading, justify="left" if heading in ("state", "where") else "right")
    for worker in status["workers"]:
        number, step, staleness = worker["worker"], worker["step_seconds"], worker["staleness"]
        pushes = status["pushes_per_second"].get(str(number))
        table.add_row(
            str(number),
            str(worker["incarnation"]),
            worker["state"],
            f"{worker['since']:.1f} s",
            f"{worker['pushes']:,}",
            "" if pushes is None else f"{pushes * _batch(config, number):,.0f}",
            "" if step is None else f"{step:.3g}",
            "" if staleness is None else f"{staleness:.1f}",
            *([worker.get("host") or "here"] if elsewhere else []),
        )
    return table


def _batch(config: Mapping[str, Any], worker: int) -> int:
    """Samples in a worker's gradient; one that was added later has the last size."""
    size: int | list[int] = config["batch_size"]
    return size if isinstance(size, int) else size[min(worker, len(size) - 1)]
