"""`tardigrad workers`: ask a run with real workers for more of them, or fewer, while it goes on."""

from __future__ import annotations

import time
from pathlib import Path

from tardigrad.errors import RunDirectoryError
from tardigrad.hyperparameters import require_integer
from tardigrad.presence import MOST_WORKERS, REQUEST, write_beside
from tardigrad.standing import Standing, describe, find_standing, taking_part_in

_LOOK_EVERY = 0.1  # seconds


def ask_for_workers(directory: Path, number: int, *, patience: float = 10.0) -> Standing:
    """Ask a live run for so many workers, and wait until it shows them.

    A worker that is added takes seconds to start; one that is removed first finishes its gradient.

    Args:
        directory: of the run.
        number: of workers, 1 to `MOST_WORKERS`.
        patience: seconds to wait at most.

    Returns:
        Where the run stands then; it may have ended meanwhile, or be still on the way.

    Raises:
        InvalidArgument: for a number outside that range.
        RunDirectoryError: there is no such run, it does not run now, or its workers are simulated.
    """
    require_integer("workers", "set", number, low=1, high=MOST_WORKERS)
    standing = require_live(directory)
    write_beside(directory / REQUEST, {"workers": number})
    deadline = time.monotonic() + patience
    while standing.state == "running" and not _shows(standing, number) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        standing = find_standing(directory)
    return standing


def require_live(directory: Path) -> Standing:
    """Where a run stands, which must run now, with real workers; else `RunDirectoryError`."""
    standing = find_standing(directory)
    if standing.simulated:
        raise RunDirectoryError(
            f"{directory} is simulated: its workers are no processes, and their number is set when it begins. "
            "Workers are added and removed in a run with --engine local."
        )
    if standing.state != "running":
        raise RunDirectoryError("\n".join(["only a live run takes wishes.", *describe(standing)]))
    return standing


def print_workers(standing: Standing, *, wished: int | None = None) -> None:
    """Print how many workers there are now."""
    if standing.state != "running":
        print("\n".join(describe(standing)))
        return
    now = len(taking_part_in(standing))
    words = f"{standing.directory}: {now} worker{'' if now == 1 else 's'}"
    if wished is not None and not _shows(standing, wished):
        words += f", on the way to {wished}; to watch: tardigrad status {standing.directory}"
    print(words)


def _shows(standing: Standing, number: int) -> bool:
    """Whether a run has taken the wish and fulfilled it."""
    status = standing.status or {}
    return status.get("wished") == number and len(taking_part_in(standing)) == number
