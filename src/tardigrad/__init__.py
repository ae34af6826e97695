"""Tardigrad: asynchronous data-parallel training in which a recipe tuned for one machine keeps working.

Importing this package imports no torch; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tardigrad import errors as errors  # so that tardigrad.errors is there; it imports nothing
from tardigrad._version import __version__

if TYPE_CHECKING:
    from tardigrad.config import RunConfig
    from tardigrad.errors import SessionError
    from tardigrad.exporting import export
    from tardigrad.joining import join
    from tardigrad.records import Commit, Held, Lease, Rejected, Snapshot
    from tardigrad.replaying import replay
    from tardigrad.rules import register_rule
    from tardigrad.rules.base import Compensation, Rule
    from tardigrad.rules.base import make_rule as rule
    from tardigrad.running import ScriptRun, run
    from tardigrad.server import ParameterServer
    from tardigrad.session.session import Session
    from tardigrad.tasks.base import Task
    from tardigrad.training import Run, resume, train

_HOMES = {
    "Commit": "tardigrad.records:Commit",
    "Compensation": "tardigrad.rules.base:Compensation",
    "Held": "tardigrad.records:Held",
    "Lease": "tardigrad.records:Lease",
    "ParameterServer": "tardigrad.server:ParameterServer",
    "Rejected": "tardigrad.records:Rejected",
    "Rule": "tardigrad.rules.base:Rule",
    "Run": "tardigrad.training:Run",
    "RunConfig": "tardigrad.config:RunConfig",
    "ScriptRun": "tardigrad.running:ScriptRun",
    "Session": "tardigrad.session.session:Session",
    "SessionError": "tardigrad.errors:SessionError",
    "Snapshot": "tardigrad.records:Snapshot",
    "Task": "tardigrad.tasks.base:Task",
    "export": "tardigrad.exporting:export",
    "join": "tardigrad.joining:join",
    "register_rule": "tardigrad.rules:register_rule",
    "replay": "tardigrad.replaying:replay",
    "resume": "tardigrad.training:resume",
    "rule": "tardigrad.rules.base:make_rule",
    "run": "tardigrad.running:run",
    "train": "tardigrad.training:train",
}

__all__ = [
    "Commit",
    "Compensation",
    "Held",
    "Lease",
    "ParameterServer",
    "Rejected",
    "Rule",
    "Run",
    "RunConfig",
    "ScriptRun",
    "Session",
    "SessionError",
    "Snapshot",
    "Task",
    "__version__",
    "export",
    "join",
    "register_rule",
    "replay",
    "resume",
    "rule",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(_no_attribute(name))
    module, _, attribute = home.partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def _no_attribute(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, __all__, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"module 'tardigrad' has no attribute {name!r}.{hint}"


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *__all__})
