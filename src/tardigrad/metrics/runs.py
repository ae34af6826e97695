"""Read run directories back: configuration, environment, evaluations, summary, log.

A run directory is the interface between training and everything else; nothing here asks an engine. A run that
was killed is still readable: the last line of its log and of its evaluations may be torn and is then left
out, and a run without ``summary.json`` counts as unfinished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tardigrad.errors import RunDirectoryError
from tardigrad.logs import read_events, read_header

FORMAT = 1
Status = Literal["finished", "diverged", "interrupted", "unfinished"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a task is judged by.

    Attributes:
        name: key in the evaluations ("error").
        scale: factor from the stored to the displayed number (100 for percent).
        unit: shown after the number ("%"); may be empty.
        lower_is_better: direction.
    """

    name: str
    scale: float = 1.0
    unit: str = ""
    lower_is_better: bool = True

    @property
    def axis(self) -> str:
        """Words for an axis label, e.g. ``error (%)``."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run directory, read.

    Attributes:
        path: the directory.
        config: ``config.json``.
        environment: ``environment.json``; empty for a run killed before it was written.
        evaluations: the lines of ``evaluations.jsonl`` in order, the one at version 0 included.
        summary: ``summary.json``, or None for a run that has not ended.
    """

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    evaluations: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any] | None

    @property
    def label(self) -> str:
        """The algorithm's name in a comparison; the rule's where no label was given."""
        return str(self.config.get("label") or str(self.config["rule"]).partition("(")[0])

    @property
    def rule(self) -> str:
        """Its rule with every keyword, as a spec."""
        return str(self.config["rule"])

    @property
    def workers(self) -> int:
        """How many workers, >= 1."""
        return int(self.config["workers"])

    @property
    def lr(self) -> float:
        """Learning rate before the schedule, > 0."""
        return float(self.config["lr"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def status(self) -> Status:
        """How it ended; ``unfinished`` without a summary."""
        status: Status = self.summary["status"] if self.summary is not None else "unfinished"
        return status

    @property
    def diverged(self) -> bool:
        """Whether its weights stopped being finite."""
        return self.status == "diverged"

    @property
    def clock(self) -> Literal["virtual", "wall"]:
        """Whose seconds ``time`` counts: the simulator's, or a real clock's; a replay's are the run's."""
        engine = self.environment.get("replayed", {}).get("engine", self.config.get("engine"))
        return "virtual" if engine == "simulated" else "wall"

    @property
    def metric(self) -> Metric | None:
        """The task's metric; None for a run that has not ended."""
        stored = (self.summary or {}).get("metric")
        if not stored:
            return None
        return Metric(
            str(stored["name"]),
            float(stored.get("scale", 1.0)),
            str(stored.get("unit") or ""),
            bool(stored.get("lower_is_better", True)),
        )

    def header(self) -> Mapping[str, Any]:
        """The first line of the log: what a replay needs to know.

        Raises:
            RunDirectoryError: the log is missing, empty, or does not begin with an object.
        """
        return read_header(self.path)

    def events(self, kind: str | None = None) -> Iterator[list[Any]]:
        """The log's events in order, over all its segments, read as they are asked for; a torn last line ends them.

        Args:
            kind: only events of this kind ("pull", "commit", "probe", "held", "reject", "join", "leave", "fail",
                "digest", "note"); others are not parsed.

        Raises:
            RunDirectoryError: a segment of the log is missing, or a line before the last cannot be read.
        """
        return read_events(self.path, kind=kind)


def load_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read one run directory.

    Args:
        path: the directory that holds ``config.json``.

    Raises:
        RunDirectoryError: a file is missing, damaged or of a newer format; the message names it.
    """
    directory = Path(path)
    config = _config(directory)
    summary = _json_file(directory / "summary.json", required=False)
    ended = summary is not None
    return RunRecord(
        path=directory,
        config=config,
        environment=_json_file(directory / "environment.json", required=ended) or {},
        evaluations=_evaluations(directory / "evaluations.jsonl", required=ended),
        summary=summary,
    )


def find_runs(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read every run under the given paths, each once, in order of their path.

    Args:
        paths: one or several run directories, comparison directories, or folders that hold them at any depth.

    Raises:
        RunDirectoryError: a path does not exist, holds no run, or a run in it is damaged.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise RunDirectoryError("no run was given. Type the directory of a run or of a comparison, e.g. runs/digits.")
    found: dict[Path, Path] = {}
    for path in given:
        for directory in _run_directories(Path(path)):
            found.setdefault(directory.resolve(), directory)
    return [load_run(directory) for directory in found.values()]


def find_plan(runs: Sequence[RunRecord]) -> Mapping[str, Any]:
    """The ``comparison.json`` the runs belong to; empty when they belong to none, or to several.

    Raises:
        RunDirectoryError: the file is damaged, or one of several is that of a tuned comparison.
    """
    files = {file for run in runs for file in (run.path.resolve().parent / "comparison.json",) if file.exists()}
    if len(files) != 1:
        _refuse_tuned(files)
        return {}
    return _json_file(files.pop(), required=True) or {}


def _refuse_tuned(files: Iterable[Path]) -> None:
    """Several comparisons at once are one grid of runs; of a tuned one that would show trial runs as results."""
    for file in sorted(files):
        if "tuned" in (_json_file(file, required=True) or {}):
            raise RunDirectoryError(
                f"{file.parent} is a tuned comparison: it cannot stand in one report with runs from elsewhere. "
                "Give it alone."
            )


def _run_directories(path: Path) -> list[Path]:
    if not path.exists():
        raise RunDirectoryError(f"{path} does not exist. Type the directory that `tardigrad train` printed.")
    found = []
    for folder, below, files in os.walk(path):
        below.sort()
        if "config.json" in files:
            found.append(Path(folder))
            below.clear()  # a checkpoint inside a run may hold a config.json of its own
    if not found:
        raise RunDirectoryError(
            f"{path} holds no run: there is no config.json in it or below. "
            "Type the directory that `tardigrad train` or `tardigrad compare` printed."
        )
    return found


def _config(directory: Path) -> Mapping[str, Any]:
    config = _json_file(directory / "config.json", required=True)
    assert config is not None
    if config.get("format") != FORMAT:
        raise RunDirectoryError(
            f"{directory / 'config.json'} has format {config.get('format')!r}, this version reads {FORMAT}. "
            "Read it with the tardigrad that wrote it: environment.json names its version."
        )
    missing = [name for name in ("rule", "workers", "lr", "seed", "task") if name not in config]
    if missing:
        raise RunDirectoryError(
            f"{directory / 'config.json'} lacks {', '.join(missing)}: it is not a run's configuration. "
            "Train the run again, or leave the directory out."
        )
    return config


def _json_file(file: Path, *, required: bool) -> Mapping[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return None
        raise RunDirectoryError(
            f"{file} is missing: {file.parent} is not a whole run directory. "
            "Type the directory that `tardigrad train` printed, or leave this one out."
        ) from None
    except (ValueError, OSError) as error:
        raise _damaged(file, error) from error
    if not isinstance(value, dict):
        raise _damaged(file, "it is not an object")
    return value


def _evaluations(file: Path, *, required: bool) -> tuple[Mapping[str, Any], ...]:
    if not required and not file.exists():
        return ()
    lines = list(_json_lines(file))
    for number, value in lines:
        if not isinstance(value, dict):
            raise _damaged(file, f"line {number} is not an object")
    return tuple(value for _, value in lines)


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every line; only the last line may be unreadable."""
    broken: tuple[int, Exception] | None = None
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if broken is not None:
                    raise _damaged(file, f"line {broken[0]}: {broken[1]}")
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    broken = (number, error)
    except FileNotFoundError:
        raise RunDirectoryError(
            f"{file} is missing: {file.parent} is not a whole run directory. "
            "Train the run again, or leave this one out."
        ) from None


def _damaged(file: Path, why: object) -> RunDirectoryError:
    return RunDirectoryError(
        f"{file} is damaged ({why}). Delete {file.parent} and train the run again, or leave it out."
    )
