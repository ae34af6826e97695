"""Every error Tardigrad raises on purpose.

TardigradError
├── InvalidArgument (ValueError)       a value that cannot be accepted; the message says what to type
│   ├── UnknownName (LookupError)      a rule, task, recipe, delay ... that is not registered
│   ├── GradientError                  a pushed gradient whose shape, dtype or device is not the weights'
│   └── CompileError                   a rule that the compiled commit path cannot take, or not on this machine
├── SessionError (RuntimeError)        a mistake in a training script; the message says how to mend it
├── ProtocolError (RuntimeError)       a call at a moment when it has no meaning (a pull that must wait)
├── Diverged (ArithmeticError)         the weights are no longer finite
├── Stopped (RuntimeError)             a run was stopped where it can go on
├── WorkerFailed (RuntimeError)        a worker failed, and its failure was to end the run
├── AllWorkersLost (RuntimeError)      no worker is left; the run goes on from its checkpoint
├── ShardLost (RuntimeError)           a part of the weights is gone; the run goes on from its checkpoint
├── EndedElsewhere (RuntimeError)      a run that this process worked for ended before its end
├── Unreachable (OSError)              nobody answers where a run's server should be
├── ReplayError (RuntimeError)         a log that cannot be replayed here, and why
├── RunDirectoryError (OSError)        a run directory that is missing, damaged or unfinished
├── DataError (OSError)                data files that are missing, damaged or not what was published
├── MissingDependencyError (ImportError)   an optional package is needed
└── UnsupportedPlatform (RuntimeError)     neither Linux nor a CPU or CUDA device
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol


class _FailureLike(Protocol):
    """What is read of a `tardigrad.records.Failure`; this module imports nothing of the package."""

    @property
    def worker(self) -> int: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def traceback(self) -> str: ...


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


class CompileError(InvalidArgument):
    """The compiled commit path cannot take this rule, or cannot compile on this machine."""


class SessionError(TardigradError, RuntimeError):
    """A mistake in a training script that uses a session. The message says what was done and what to write instead."""


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


class WorkerFailed(TardigradError, RuntimeError):
    """A worker failed, and its failure was to end the run (``on_failure="raise"``).

    Attributes:
        failure: `tardigrad.records.Failure`: worker, incarnation, version, exit code and traceback.
    """

    def __init__(self, failure: _FailureLike) -> None:
        self.failure = failure
        super().__init__(_sentence(failure))


class AllWorkersLost(TardigradError, RuntimeError):
    """Every worker failed more often than it may be restarted. The last state is saved.

    Attributes:
        failures: the last ones, `tardigrad.records.Failure`.
        version: the server's.
    """

    def __init__(self, version: int, failures: Sequence[_FailureLike]) -> None:
        self.failures = list(failures)
        self.version = version
        last = _sentence(self.failures[-1]) if self.failures else "Every worker was removed."
        super().__init__(f"no worker is left at version {version}, and none may be restarted. {last}")


class ShardLost(TardigradError, RuntimeError):
    """A process that held a part of the weights is gone, and with it that part's commits since the last checkpoint.

    Attributes:
        shard: its number.
    """

    def __init__(self, shard: int, why: str) -> None:
        self.shard = shard
        super().__init__(
            f"shard {shard}, which held a part of the weights, is gone ({why}). No other part is used without it: the "
            "run goes on from its last checkpoint."
        )


class EndedElsewhere(TardigradError, RuntimeError):
    """A run that this process worked for ended before its end; the process that served it says why.

    Under torchrun or srun in that process too: others that were started with it never came.
    """


class Unreachable(TardigradError, OSError):
    """Nobody answers where a run's server should be.

    Args:
        address: where.
        seconds: for how long it was tried.
        why: the last attempt failed.
    """

    def __init__(self, address: str, seconds: float, why: str) -> None:
        super().__init__(
            f"nobody answers at {address} after {seconds:g} s: {why}. Does the run go on there (tardigrad status RUN), "
            "does it listen on an address that this machine reaches (--listen :7070 listens on all), and does a "
            "firewall let the port through?"
        )


FAILURES: tuple[type[TardigradError], ...] = (Diverged, WorkerFailed, AllWorkersLost, ShardLost, EndedElsewhere)
"""With which a run ends that had begun; every other error but `Stopped` refuses what was asked for."""


class ReplayError(TardigradError, RuntimeError):
    """A log that cannot be replayed here; the message says why."""


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


def _sentence(failure: _FailureLike) -> str:
    code = "" if failure.exit_code is None else f", exit code {failure.exit_code}"
    words = f"Worker {failure.worker} (life {failure.incarnation}) {failure.kind} at version {failure.version}{code}."
    return words + (f"\n{failure.traceback.rstrip()}" if failure.traceback else "")
