"""Imports asked for by name: the modules and files that register a user's own rules, tasks and recipes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from tardigrad.errors import InvalidArgument


def import_all(names: Sequence[str]) -> None:
    """Import modules by name, or Python files by path, so that what they register is known; each once.

    A file's module gets a name made from its path: a file called ``statistics.py`` takes nobody's place.

    Raises:
        InvalidArgument: for a module or file that is not there. What fails inside one is raised as it is.
    """
    for name in names:
        if name.endswith(".py"):
            _import_file(Path(name).resolve())
        else:
            _import_module(name)


def _import_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # the module is there, and lacks one of its own
        raise InvalidArgument(
            f"imports: there is no module {name!r}; type a file's path with .py, or put its folder on PYTHONPATH."
        ) from error


def _import_file(path: Path) -> None:
    digest = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    called = f"{path.stem}_{digest}"
    if called in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(called, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InvalidArgument(f"imports: there is no Python file {path.name} in {path.parent}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[called] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[called]
        raise
