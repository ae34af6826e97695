"""The run directory: the interface between training and everything else.

    config.json         the resolved configuration
    environment.json    versions, hardware, the command
    log.jsonl           the schedule: a header, then one line per event, in order
    evaluations.jsonl   one line per evaluation
    summary.json        written last, at once: a run without it is unfinished
    weights.safetensors the final weights and buffers by name
    checkpoint-*        of a run that has not ended: see `tardigrad.checkpoint`
    undone-N.jsonl      events after the checkpoint that a run was taken up again from; undone-N-evaluations.jsonl

The log is the schedule: with the header's settings it says which worker read which version, computed which samples
and was committed when, so the run can be computed again.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tardigrad._version import __version__
from tardigrad.checkpoint import has_checkpoint, is_checkpoint_file
from tardigrad.config import RunConfig
from tardigrad.engines.base import Evaluation, Observer
from tardigrad.errors import RunDirectoryError
from tardigrad.layout import FlatLayout
from tardigrad.records import Commit, Lease, Push, Rejected, Snapshot

FORMAT = 1
_BEGUN = {"config.json", "environment.json", "log.jsonl", "evaluations.jsonl"}
_FILES = _BEGUN | {"weights.safetensors", "summary.json", "config.tmp", "environment.tmp", "summary.tmp"}
_UNDONE = re.compile(r"undone-(\d+)(-evaluations)?\.jsonl")
GROWING = ("log.jsonl", "evaluations.jsonl")
EVENTS = {
    "pull": ["time", "worker", "incarnation", "version", "lease"],
    "commit": ["time", "version", "lr", "live", "contributions", "compensation_ratio"],
    "reject": ["time", "worker", "incarnation", "read_version", "lease", "reason", "lost"],
    "join": ["time", "worker", "incarnation"],
    "leave": ["time", "worker", "incarnation"],
    "contribution": ["worker", "incarnation", "read_version", "lease", "samples", "loss"],
    "lease": ["epoch", "start", "stop"],
}


def create_directory(directory: Path) -> None:
    """Make a new run directory. One that holds anything but the files of an unfinished run is refused, untouched."""
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file; name a directory.")
    held = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if "summary.json" in held and held.issuperset(_BEGUN):
        raise RunDirectoryError(f"{directory} holds a finished run; name another directory or remove it.")
    foreign = [name for name in held - _FILES if not (is_checkpoint_file(name) or _UNDONE.fullmatch(name))]
    if held and (foreign or not held.issuperset(_BEGUN)):
        raise RunDirectoryError(f"{directory} holds files that are not a run; name another directory.")
    for name in held:
        (directory / name).unlink()
    directory.mkdir(parents=True, exist_ok=True)


def may_go_on(directory: Path) -> bool:
    """Whether a directory holds a run that did not end, with a checkpoint."""
    if not directory.is_dir() or not all((directory / name).is_file() for name in _BEGUN):
        return False
    ended = directory / "summary.json"
    return has_checkpoint(directory) and (not ended.exists() or _status(ended) == "interrupted")


def cut_back(directory: Path, lengths: Mapping[str, int]) -> None:
    """Go back to a checkpoint: its log and its evaluations end there, what came after moves to ``undone-N``.

    Args:
        directory: of the run.
        lengths: for each of `GROWING`, how many bytes stay.
    """
    numbers = [int(found[1]) for path in directory.iterdir() if (found := _UNDONE.fullmatch(path.name))]
    undone = f"undone-{max(numbers, default=0) + 1}"
    for name, suffix in zip(GROWING, ("", "-evaluations"), strict=True):
        with (directory / name).open("r+b") as file:
            file.seek(lengths[name])
            tail = file.read()
            if tail:
                (directory / f"{undone}{suffix}.jsonl").write_bytes(tail)
            file.truncate(lengths[name])
    for name in ("summary.json", "weights.safetensors"):
        (directory / name).unlink(missing_ok=True)


def _status(summary: Path) -> str:
    try:
        return str(json.loads(summary.read_text())["status"])
    except (ValueError, KeyError):
        return "unreadable"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file beside its place and rename it, so that a reader never sees half of it."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)


def environment(config: RunConfig) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    cuda = torch.cuda.get_device_name() if config.device.startswith("cuda") else None
    return {
        "tardigrad": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": config.threads,
        "device": config.device,
        "cuda": cuda,
        "commit": _source_commit(),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _program() -> str:
    """The program as one would type it."""
    name = Path(sys.argv[0]).name
    return "tardigrad" if name == "__main__.py" else name


def _source_commit() -> str | None:
    """The commit of the source tree this package runs from, with ``+`` where it was changed; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class Recorder(Observer):
    """Writes a run directory while the run goes on.

    Args:
        directory: an empty one; or, with ``state``, one that was `cut_back`.
        config: the resolved configuration.
        layout: of the weights, for header and final weights.
        samples_per_epoch: size of the training set.
        metric: description of the task's metric for reports.
        state: what `state_dict` gave, to go on.

    Attributes:
        evaluations: all so far.
    """

    def __init__(
        self,
        directory: Path,
        config: RunConfig,
        *,
        layout: FlatLayout,
        samples_per_epoch: int,
        metric: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self._layout = layout
        self._metric = dict(metric)
        self._staleness: dict[int, Counter[int]] = {}
        self._ratios: list[float] = []
        self._rejected: Counter[str] = Counter()
        self._lost = 0
        self._commits = 0
        self.evaluations: list[Evaluation] = []
        if state is None:
            write_json(directory / "config.json", config.as_json())
            write_json(directory / "environment.json", environment(config))
        else:
            self._go_on(state, config, samples_per_epoch)
        mode = "w" if state is None else "a"
        self._log = (directory / "log.jsonl").open(mode, buffering=1 << 16)
        self._evaluations = (directory / "evaluations.jsonl").open(mode, buffering=1)
        if state is None:
            self._log.write(json.dumps(self._header(config, samples_per_epoch)) + "\n")

    def _go_on(self, state: Mapping[str, Any], config: RunConfig, samples_per_epoch: int) -> None:
        """Restore the counts and the evaluations, and note in what environment the run goes on."""
        self._commits, self._lost, self._ratios = state["commits"], state["lost"], list(state["ratios"])
        self._rejected = Counter(state["rejected"])
        self._staleness = {
            int(worker): Counter({int(staleness): number for staleness, number in counts.items()})
            for worker, counts in state["staleness"].items()
        }
        lines = (self.directory / "evaluations.jsonl").read_text().splitlines()
        read = partial(Evaluation.from_json, samples_per_epoch=samples_per_epoch)
        self.evaluations = [read(json.loads(line)) for line in lines]
        known = json.loads((self.directory / "environment.json").read_text())
        known.setdefault("resumed", []).append(environment(config) | {"commits": self._commits})
        write_json(self.directory / "environment.json", known)

    def state_dict(self) -> dict[str, Any]:
        """The counts for the summary. Log and evaluations are on the disk up to here when this returns."""
        for file in (self._log, self._evaluations):
            file.flush()
            os.fsync(file.fileno())
        return {
            "commits": self._commits,
            "lost": self._lost,
            "ratios": list(self._ratios),
            "rejected": dict(self._rejected),
            "staleness": {worker: dict(counts) for worker, counts in self._staleness.items()},
        }

    def close(self) -> None:
        """Close the files of a run that is to go on later; it has no summary."""
        self._log.close()
        self._evaluations.close()

    def _header(self, config: RunConfig, samples_per_epoch: int) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "task": config.task,
            "rule": config.rule,
            "optimizer": config.optimizer,
            "workers": config.workers,
            "parameters": self._layout.numel,
            "dtype": str(self._layout.dtype).removeprefix("torch."),
            "layout": self._layout.hash,
            "commit_path": config.commit_path,
            "threads": config.threads,
            "memory_format": config.memory_format,
            "precision": config.precision,
            "device": config.device,
            "cuda_graph": config.cuda_graph and config.device.startswith("cuda"),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "seed": config.seed,
            "samples_per_epoch": samples_per_epoch,
            "engine": config.engine,
            "events": EVENTS,
        }

    # The two lines written for every gradient are put together by hand: json.dumps takes five times as long, and
    # these numbers are all finite but for the loss and the ratio.

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """One line."""
        self._log.write(
            f'["pull",{time!r},{worker},{snapshot.incarnation},{snapshot.version},{_lease(snapshot.lease)}]\n'
        )

    def committed(self, time: float, commit: Commit) -> None:
        """One line, and the counts for the summary."""
        parts = []
        for part in commit.contributions:
            staleness = commit.version - 1 - part.read_version
            self._staleness.setdefault(part.worker, Counter())[staleness] += 1
            parts.append(
                f"[{part.worker},{part.incarnation},{part.read_version},{_lease(part.lease)},{part.samples},"
                f"{_number(part.loss)}]"
            )
        self._commits += 1
        if commit.compensation_ratio is not None:
            self._ratios.append(commit.compensation_ratio)
        ratio, contributions = _number(commit.compensation_ratio), ",".join(parts)
        self._log.write(f'["commit",{time!r},{commit.version},{commit.lr!r},{commit.live},[{contributions}],{ratio}]\n')

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """One line, and the counts for the summary."""
        self._rejected[result.reason] += 1
        if result.lost and push.lease is not None:
            self._lost += push.lease.samples
        read = result.version - result.staleness
        lost = "true" if result.lost else "false"
        self._log.write(
            f'["reject",{time!r},{push.worker},{push.incarnation},{read},{_lease(result.lease)},"{result.reason}",{lost}]\n'
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """One line of evaluations.jsonl; the log on disk then reaches at least as far."""
        self.evaluations.append(evaluation)
        self._log.flush()
        self._evaluations.write(json.dumps(evaluation.as_json()) + "\n")

    def save_weights(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Write the final weights and buffers by name, loadable with safetensors and no Tardigrad."""
        named = dict(zip(self._layout.names, self._layout.views(flat), strict=True)) | dict(buffers)
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
        (self.directory / "weights.safetensors").write_bytes(safetensors.torch.save(plain))

    def finish(self, status: str, *, message: str, memory: Mapping[str, int], gradients: str) -> dict[str, Any]:
        """Write the summary and close the files; ``gradients``: how they were computed, as the worker describes it."""
        self.close()
        last = self.evaluations[-1] if self.evaluations else None
        every = Counter[int]()
        for counts in self._staleness.values():
            every.update(counts)
        pushes = sum(every.values())
        summary = {
            "format": FORMAT,
            "status": status,
            "message": message,
            "gradients": gradients,
            "version": last.version if last else 0,
            "samples": last.samples if last else 0,
            "epoch": last.epoch if last else 0.0,
            "time": last.time if last else 0.0,
            "wall": last.wall if last else 0.0,
            "commits": self._commits,
            "rejected": dict(self._rejected),
            "lost_samples": self._lost,
            "staleness": {
                "mean": sum(k * n for k, n in every.items()) / pushes if pushes else 0.0,
                "max": max(every, default=0),
                "histogram": {
                    str(worker): {str(k): counts[k] for k in sorted(counts)}
                    for worker, counts in sorted(self._staleness.items())
                },
            },
            "compensation_ratio": {
                "mean": float(np.mean(self._ratios)) if self._ratios else None,
                "max": float(np.max(self._ratios)) if self._ratios else None,
            },
            "metric": self._metric,
            "parameters": self._layout.numel,
            "memory": {**memory, "total": sum(memory.values())},
        }
        write_json(self.directory / "summary.json", _without_infinities(summary))
        return summary


def _lease(lease: Lease | None) -> str:
    return "null" if lease is None else f"[{lease.epoch},{lease.start},{lease.stop}]"


def _number(value: float | None) -> str:
    """Six digits, which is what a loss is worth; JSON has no word for what is not finite."""
    return "null" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _without_infinities(value: Any) -> Any:
    """JSON has no word for what is not finite: None stands for it."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    return value
