"""Every error Tardigrad raises on purpose.

TardigradError
├── InvalidArgument (ValueError)       a value that cannot be accepted; the message says what to type
│   ├── UnknownName (LookupError)      a rule, task, recipe, delay ... that is not registered
│   └── GradientError                  a pushed gradient whose shape, dtype or device is not the weights'
├── ProtocolError (RuntimeError)       a call at a moment when it has no meaning (a pull that must wait)
├── Diverged (ArithmeticError)         the weights are no longer finite
├── Stopped (RuntimeError)             a run was stopped where it can go on
├── RunDirectoryError (OSError)        a run directory that is missing, damaged or unfinished
├── DataError (OSError)                data files that are missing, damaged or not what was published
├── MissingDependencyError (ImportError)   an optional package is needed
└── UnsupportedPlatform (RuntimeError)     neither Linux nor a CPU or CUDA device
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class TardigradError(Exception):
    """Base of all errors raised on purpose."""


class InvalidArgument(TardigradError, ValueError):
    """A value that cannot be accepted. The message says what was given and what is accepted."""


class UnknownName(InvalidArgument, LookupError):
    """A name that is not registered. The message lists the names and suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


class GradientError(InvalidArgument):
    """A pushed gradient that does not fit the weights; nothing was applied."""


class ProtocolError(TardigradError, RuntimeError):
    """A call at a moment when it has no meaning; nothing was changed."""


class Diverged(TardigradError, ArithmeticError):
    """The weights are no longer finite.

    Attributes:
        version: the server's version when it was noticed.
    """

    def __init__(self, version: int, reason: str) -> None:
        self.version = version
        super().__init__(
            f"training diverged at version {version}: {reason}. "
            "Remedies, in the order to try: the rule 'dc-asgd' (damped); a warm-up (--warmup 1); with dc-asgd-c and "
            "dc-asgd-a also clip_compensation=1.0 or a smaller lambda0; a smaller lr."
        )


class Stopped(TardigradError, RuntimeError):
    """A run was stopped before its end, as asked; its directory holds a checkpoint from which it goes on.

    Attributes:
        directory: the run's.
        version: the server's version at which it was stopped.
    """

    def __init__(self, directory: Path, version: int) -> None:
        self.directory = directory
        self.version = version
        super().__init__(
            f"the run was stopped at version {version}. It goes on from there when the same configuration is trained "
            f"into {directory} again."
        )


class RunDirectoryError(TardigradError, OSError):
    """A run directory that is missing, damaged or unfinished."""


class DataError(TardigradError, OSError):
    """Data files that are missing, damaged or not what was published; nothing in them was run."""


class MissingDependencyError(TardigradError, ImportError):
    """An optional package is needed.

    Args:
        package: what is missing, as it is imported.
        extra: the extra of tardigrad that brings it.
        purpose: what it is needed for.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed. Type: pip install 'tardigrad[{extra}]'")


class UnsupportedPlatform(TardigradError, RuntimeError):
    """Neither Linux nor a CPU or CUDA device."""
