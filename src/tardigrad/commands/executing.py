"""Executing a user's script as a program, with settings that take the place of those it gives itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tardigrad.errors import InvalidArgument

if TYPE_CHECKING:
    from tardigrad.engines.base import Observer
    from tardigrad.running import Override

HOW = "Type: tardigrad run [--workers 4] ... script.py [its arguments]; options for tardigrad stand before the script."


def require_script(script: str) -> None:
    """Refuse a path that leads to no file."""
    if not Path(script).is_file():
        raise InvalidArgument(f"there is no script {script}. {HOW}")


def execute_with(
    script: str,
    after: Sequence[str],
    settings: Mapping[str, Any],
    *,
    observers: Sequence[Observer],
    stop: Callable[[], bool],
) -> Override:
    """Run a script as a program, with its arguments, while these settings take the place of its own; its runs."""
    from tardigrad.running import overriding
    from tardigrad.session.scripts import as_main, execute

    with as_main(script, after) as module, overriding(settings, observers=observers, stop=stop) as overridden:
        execute(module)
        if not overridden.reached:
            _run_main(module, script)
    return overridden


def _run_main(module: ModuleType, script: str) -> None:
    """Run the main(session) of a script that did not call `tardigrad.run`."""
    from tardigrad.running import run as run_function

    main = getattr(module, "main", None)
    if not inspect.isfunction(main):
        raise InvalidArgument(
            f"{script} has come to its end and trained nothing: it neither called tardigrad.run(main, ...) nor "
            "defines main(session). Put the training into `def main(session):`."
        )
    run_function(main)
