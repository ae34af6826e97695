"""Reopening: a run directory read back, and the parts of its run put together anew, so that it can be replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tardigrad.assembling import assemble, blueprint_of, require_device
from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.choice import AUTO
from tardigrad.config import RunConfig
from tardigrad.durable import read_json
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Job
from tardigrad.environment import cpu_name
from tardigrad.errors import DataError, InvalidArgument, MissingDependencyError, ReplayError
from tardigrad.imports import import_all
from tardigrad.logs import read_header
from tardigrad.rules.base import Rule
from tardigrad.tasks.base import Task

_FORMAT = 2
_AGREE = (
    "task", "rule", "optimizer", "workers", "threads", "memory_format", "precision", "device", "seed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run directory, as far as a replay needs it.

    Attributes:
        place: the directory.
        config: of the run.
        header: of its log.
        environment: in which it began; empty for a run killed before it was written.
        summary: None for a run that has not ended.
    """

    place: Path
    config: RunConfig
    header: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any] | None

    @property
    def evaluated(self) -> frozenset[int]:
        """The versions at which the run was evaluated, but for the end of one that diverged."""
        lines = (self.place / "evaluations.jsonl").read_text().split("\n")[:-1]  # a torn last line is passed over
        records = [json.loads(line) for line in lines]
        return frozenset(record["version"] for record in records if not record.get("diverged"))

    @property
    def engine(self) -> str:
        """What the run was computed by; of a replay that was recorded, what its own run was."""
        engine = str(self.environment.get("replayed", {}).get("engine", self.config.engine))
        return engine if engine in ENGINES.names() else "simulated"

    @property
    def cautions(self) -> list[str]:
        """Why last bits may differ here from those of the run."""
        here = {
            "torch": (self.header.get("torch"), torch.__version__),
            "CPU capability": (self.header.get("cpu_capability"), torch.backends.cpu.get_cpu_capability()),
            "numpy": (self.environment.get("numpy"), np.__version__),
            "processor": (self.environment.get("cpu"), cpu_name()),
        }
        if self.header.get("compiler"):
            from tardigrad.commit.compiled import compiled_by  # takes seconds to import

            here["compiler"] = (self.header["compiler"], compiled_by(torch.device(self._server_device)))
        if self.config.device.startswith("cuda"):
            here["GPU"] = (self.environment.get("cuda"), torch.cuda.get_device_name(self.config.device))
        others = [
            f"{what} {theirs}, here {mine}" for what, (theirs, mine) in here.items() if theirs not in (None, mine)
        ]
        return (
            [f"The run was computed with {'; '.join(others)}: last bits may differ for that reason."] if others else []
        )

    @property
    def _server_device(self) -> str:
        """Where commits are computed: with real workers on the CPU."""
        return "cpu" if ENGINES.load(self.engine).has_processes else self.config.device

    def job(self, rule: Rule, task: Task | None) -> tuple[Job, Task]:
        """The parts of the run, put together anew.

        Args:
            rule: to commit by.
            task: of a run whose task no name leads to; None: the one its configuration names.

        Raises:
            ReplayError: the task cannot be built here, or has become another one.
        """
        plain = self.config.replace(
            engine=self.engine, delay="constant(1)", speeds=(), chaos="", shards=1, **self._commits(rule)
        )
        given = task is not None
        try:
            import_all(self.config.imports)
            task = task or blueprint_of(self.config).build_task()
        except (InvalidArgument, DataError, MissingDependencyError) as error:
            raise ReplayError(
                f"{self.place} cannot be replayed here: its task {self.config.task!r} cannot be built. {error}"
            ) from error
        job = assemble(plain, task, rule, named=not given)
        self._require_same_layout(job.server.layout.hash)
        if ENGINES.load(self.engine).has_processes and self.config.device != "cpu":  # the server alone was on the CPU
            assert job.blueprint is not None
            job = replace(job, body=job.blueprint.build_worker(task), prober=job.body)
        return job, task

    def _commits(self, rule: Rule) -> dict[str, Any]:
        """The commit path that the run took; another rule takes the one that suits it."""
        same = rule.spec == self.config.rule
        path = self.header.get("commit_path", "exact") if same else "auto"
        return {"commit_path": path, "commit_threads": self.header.get("commit_threads", 1)}

    def _require_same_layout(self, mine: str) -> None:
        theirs = self.header.get("layout")
        if theirs != mine:
            raise ReplayError(
                f"the model of the task {self.config.task!r} is not the one that was trained in {self.place}: its "
                f"weights are laid out as {mine}, the run's as {theirs}. Replay it with the code it was trained with."
            )


def reopen(place: Path, *, data_dir: str | None = None) -> RecordedRun:
    """Read a run directory.

    Args:
        place: the directory.
        data_dir: folder with data sets, where it is another one than the run's.

    Raises:
        ReplayError: a run that cannot be replayed, or not here.
        RunDirectoryError: a file is missing or damaged.
    """
    header = read_header(place)
    if header.get("format") != _FORMAT:
        raise ReplayError(
            f"the log of {place} has format {header.get('format')}: it rounds losses and has no held pushes. A replay "
            f"needs format {_FORMAT}; train the run again with this version, or only report it."
        )
    config = RunConfig.from_json(read_json(place / "config.json") or {})
    _require_agreement(place, config, header)
    _require_here(place, config, header)
    if data_dir is not None:
        config = config.replace(data_dir=data_dir)
    return RecordedRun(
        place, config, header, read_json(place / "environment.json") or {}, read_json(place / "summary.json")
    )


def _require_agreement(place: Path, config: RunConfig, header: Mapping[str, Any]) -> None:
    plain = config.as_json()
    for name in _AGREE:
        if header.get(name) != plain[name]:
            raise ReplayError(
                f"{place}: config.json says {name}={plain[name]!r}, the log {header.get(name)!r}. One of the two files "
                "is not of this run."
            )


def _require_here(place: Path, config: RunConfig, header: Mapping[str, Any]) -> None:
    """Commit path and device must be here."""
    path = header.get("commit_path")
    if path not in COMMIT_PATHS.names() or config.commit_path not in (AUTO, path):
        raise ReplayError(
            f"{place} was committed by the path {path!r} (config.json: {config.commit_path!r}), which is not here: a "
            f"replay by another one gives other bits. Here are {', '.join(COMMIT_PATHS.names())}."
        )
    try:
        require_device(config.device)
    except InvalidArgument as error:
        raise ReplayError(f"{place} cannot be replayed here: {error}") from error
