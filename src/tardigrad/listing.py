"""`tardigrad list`: everything with a name, and its first line of documentation, without importing any of it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from tardigrad.algorithms import PRESETS
from tardigrad.consistency import CONSISTENCIES
from tardigrad.delays import DELAYS
from tardigrad.engines import ENGINES
from tardigrad.errors import UnknownName
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.recipes import RECIPES
from tardigrad.rules import COMPENSATIONS
from tardigrad.schedules import SCHEDULES
from tardigrad.specs import Registry
from tardigrad.tasks import TASKS

KINDS: dict[str, Registry] = {
    "recipes": RECIPES,
    "rules": COMPENSATIONS,
    "optimizers": OPTIMIZERS,
    "consistencies": CONSISTENCIES,
    "schedules": SCHEDULES,
    "delays": DELAYS,
    "tasks": TASKS,
    "engines": ENGINES,
}


def print_lists(kinds: Sequence[str]) -> None:
    """Print the names of the kinds asked for, or of all."""
    for kind in kinds:
        if kind not in (*KINDS, "algorithms"):
            raise UnknownName("kind", kind, [*KINDS, "algorithms"])
    for kind, registry in KINDS.items():
        if not kinds or kind in kinds:
            _print_section(kind, {name: _describe(registry, name) for name in registry.names()})
    if not kinds or "algorithms" in kinds:
        presets = {name: ", ".join(f"{k}={v}" for k, v in preset.items()) for name, preset in PRESETS.items()}
        shown = {name: text.replace("{wait_for}", "three quarters of the workers") for name, text in presets.items()}
        _print_section("algorithms (for compare; every rule is one too)", shown)


def _print_section(title: str, rows: dict[str, str]) -> None:
    print(title)
    width = max(18, *map(len, rows)) if rows else 18
    for name, text in rows.items():
        print(f"  {name:<{width}} {text}")
    print()


def _describe(registry: Registry, name: str) -> str:
    """The first line of documentation: from the source where it is not imported yet, since importing costs seconds."""
    target = registry.target(name)
    if not isinstance(target, str):
        return (target.__doc__ or "").strip().split("\n")[0]
    module, _, attribute = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text()) if spec and spec.origin else None
    except (ImportError, OSError, SyntaxError, ValueError) as error:
        return f"(cannot be read: {error})"
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").split("\n")[0].replace("``", "")
    return f"(no {attribute} in {module})"
