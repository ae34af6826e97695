"""The run directory: the interface between training and everything else.

    config.json         the resolved configuration
    environment.json    versions, hardware, the command
    log.jsonl           the schedule: a header, then one line per event, in order; see `tardigrad.logs`
    log-*.jsonl.gz      the earlier segments of a long log
    evaluations.jsonl   one line per evaluation
    summary.json        written last, at once: a run without it is unfinished
    weights.safetensors the final weights and buffers by name
    checkpoint-*        to go on from, or to replay from: see `tardigrad.checkpoint`
    undone-N.jsonl      events after the checkpoint that a run was taken up again from; undone-N-evaluations.jsonl

The log is the schedule: with the header's settings it says which worker read which version, computed which samples
and was committed when, so the run can be computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tardigrad.config import RunConfig
from tardigrad.counts import Counts
from tardigrad.directories import EVALUATIONS
from tardigrad.durable import GrowingFile, told_if_full, write_json
from tardigrad.engines.base import Evaluation, Observer
from tardigrad.environment import environment
from tardigrad.layout import FlatLayout
from tardigrad.logs import FORMAT, SEGMENT_BYTES, LogWriter
from tardigrad.records import (
    Bundle,
    Commit,
    Failure,
    Held,
    Lease,
    Push,
    Rejected,
    Snapshot,
    plain_lease,
    probe_columns,
)
from tardigrad.segments import CURRENT, Position

EVENTS = {
    "pull": ["time", "worker", "incarnation", "version", "lease"],
    "commit": ["time", "version", "lr", "live", "contributions", "compensation_ratio"],
    "probe": ["time", "version", "staleness", "raw_cosine", "quality"],
    "held": ["time", "worker", "incarnation", "read_version", "lease", "samples", "loss", "norm"],
    "take": ["time", "worker", "incarnation", "lease"],
    "begin": ["time", "worker", "incarnation", "epoch"],
    "rest": ["time", "worker", "incarnation"],
    "finish": ["time", "worker", "incarnation"],
    "return": ["time", "worker", "incarnation", "leases", "lost", "reason"],
    "plan": ["time", "epochs"],
    "size": ["time", "worker", "samples"],
    "log": ["time", "worker", "version", "values"],
    "reject": ["time", "worker", "incarnation", "read_version", "lease", "reason", "lost"],
    "join": ["time", "worker", "incarnation"],
    "leave": ["time", "worker", "incarnation", "reason"],
    "fail": ["time", "worker", "incarnation", "version", "kind", "exit_code", "traceback"],
    "note": ["time", "words"],
    "digest": ["version", "digests"],
    "contribution": ["worker", "incarnation", "read_version", "lease", "samples", "loss", "norm"],
    "quality": ["relative_error", "cosine", "compensation_cosine", "coefficient", "strength"],
    "lease": ["epoch", "start", "stop"],
}


class Recorder(Observer):
    """Writes a run directory while the run goes on.

    Args:
        directory: an empty one; or, with ``state``, one that was cut back.
        config: the resolved configuration.
        layout: of the weights, for header and final weights.
        samples_per_epoch: size of the training set.
        metric: description of the task's metric for reports.
        commits: how the server's commits are computed: the path's name, its threads and what made it.
        state: what `state_dict` gave, to go on.
        segment_bytes: a longer segment of the log is closed and compressed.

    Attributes:
        evaluations: all so far, in the order in which they arrived.

    Raises:
        RunDirectoryError: in every method: the disk is full.
    """

    def __init__(
        self,
        directory: Path,
        config: RunConfig,
        *,
        layout: FlatLayout,
        samples_per_epoch: int,
        metric: Mapping[str, Any],
        commits: tuple[str, int, str] = ("exact", 1, ""),
        state: Mapping[str, Any] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.directory = directory
        self._layout, self._samples_per_epoch = layout, samples_per_epoch
        self._commits = dict(zip(("commit_path", "commit_threads", "compiler"), commits, strict=True))
        self._metric = dict(metric)
        self._counts = Counts()
        self._digested = -1  # the version of the last digests in the log
        self._final: str | None = None  # one digest of the final weights
        self.evaluations: list[Evaluation] = []
        if state is None:
            write_json(directory / "config.json", config.as_json())
            write_json(directory / "environment.json", environment(config))
            header = self._header(config, samples_per_epoch)
            self._log = LogWriter(directory, header=header, segment_bytes=segment_bytes)
            self._evaluations = GrowingFile(directory / EVALUATIONS)
        else:
            self._go_on(state, config, samples_per_epoch)
            reached = Position(**state["log"])
            self._log = LogWriter(directory, resume=reached, segment_bytes=segment_bytes)
            self._evaluations = GrowingFile(directory / EVALUATIONS, state["evaluations"])

    def _go_on(self, state: Mapping[str, Any], config: RunConfig, samples_per_epoch: int) -> None:
        """Restore the counts and the evaluations, and note in what environment the run goes on."""
        self._counts.load_state_dict(state["counts"])
        self._digested = state["digested"]
        lines = (self.directory / EVALUATIONS).read_text().splitlines()
        read = partial(Evaluation.from_json, samples_per_epoch=samples_per_epoch)
        self.evaluations = [read(json.loads(line)) for line in lines]
        known = json.loads((self.directory / "environment.json").read_text())
        known.setdefault("resumed", []).append(environment(config) | {"commits": self._counts.commits})
        write_json(self.directory / "environment.json", known)

    def state_dict(self) -> dict[str, Any]:
        """The counts for the summary, and where log and evaluations end; nothing here waits for the disk."""
        positions = self.positions()
        return {
            "counts": self._counts.state_dict(),
            "digested": self._digested,
            "log": positions[CURRENT].as_json(),
            "evaluations": positions[EVALUATIONS].bytes,
        }

    def positions(self) -> dict[str, Position]:
        """Where log and evaluations end now; to be taken at the same moment as `state_dict`."""
        evaluations = Position(self._evaluations.length, self._evaluations.checksum())
        return {CURRENT: self._log.position(), EVALUATIONS: evaluations}

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
            **self._commits,
            "threads": config.threads,
            "memory_format": config.memory_format,
            "precision": config.precision,
            "wire": config.wire,
            "device": config.device,
            "cuda_graph": config.cuda_graph and config.device.startswith("cuda"),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "seed": config.seed,
            "samples_per_epoch": samples_per_epoch,
            "engine": config.engine,
            "events": EVENTS,
        }

    # The lines written for every gradient are put together by hand: json.dumps takes five times as long, and these
    # numbers are all finite but for loss, norm and ratio. Loss and norm are fingerprints of the weights that were
    # read, so they stand there to the last bit; times to the microsecond.

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """One line."""
        self._log.write(
            f'["pull",{time:.6f},{worker},{snapshot.incarnation},{snapshot.version},{_lease(snapshot.lease)}]\n'
        )

    def committed(self, time: float, commit: Commit) -> None:
        """One line, and the counts for the summary."""
        self._counts.committed(time, commit)
        parts = [
            f"[{part.worker},{part.incarnation},{part.read_version},{_lease(part.lease)},{part.samples},"
            f"{_exact(part.loss)},{_exact(part.norm)}]"
            for part in commit.contributions
        ]
        ratio = commit.compensation_ratio
        self._log.write(
            f'["commit",{time:.6f},{commit.version},{commit.lr!r},{commit.live},[{",".join(parts)}],'
            f"{'null' if ratio is None else _rounded(ratio)}]\n"
        )
        if commit.quality is not None:
            columns = [round(time, 6), commit.version, *probe_columns(commit.quality)]
            self._log.write(json.dumps(["probe", *columns], separators=(",", ":")) + "\n")

    def held(self, time: float, push: Push, result: Held) -> None:
        """One line."""
        read = result.version - result.staleness
        self._log.write(
            f'["held",{time:.6f},{push.worker},{push.incarnation},{read},{_lease(push.lease)},{push.samples},'
            f"{_exact(push.loss)},{_exact(push.norm)}]\n"
        )

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """One line, and the counts for the summary."""
        self._counts.rejected(push, result)
        read = result.version - result.staleness
        lost = "true" if result.lost else "false"
        self._log.write(
            f'["reject",{time:.6f},{push.worker},{push.incarnation},{read},{_lease(result.lease)},'
            f'"{result.reason}",{lost}]\n'
        )

    def taken(self, time: float, worker: int, incarnation: int, lease: Lease | None) -> None:
        """One line."""
        self._log.write(f'["take",{time:.6f},{worker},{incarnation},{_lease(lease)}]\n')

    def begun(self, time: float, worker: int, incarnation: int, epoch: int) -> None:
        """One line."""
        self._seldom("begin", round(time, 6), worker, incarnation, epoch)

    def rested(self, time: float, worker: int, incarnation: int) -> None:
        """One line."""
        self._seldom("rest", round(time, 6), worker, incarnation)

    def completed(self, time: float, worker: int, incarnation: int) -> None:
        """One line."""
        self._seldom("finish", round(time, 6), worker, incarnation)

    def returned(
        self, time: float, worker: int, incarnation: int, leases: Sequence[Lease], lost: Sequence[Lease], reason: str
    ) -> None:
        """One line, and the samples given up."""
        self._counts.returned(lost, reason)
        back, gone = ([plain_lease(lease) for lease in some] for some in (leases, lost))
        self._seldom("return", round(time, 6), worker, incarnation, back, gone, reason)

    def planned(self, time: float, epochs: int) -> None:
        """One line."""
        self._seldom("plan", round(time, 6), epochs)

    def sized(self, time: float, worker: int, samples: int) -> None:
        """One line."""
        self._seldom("size", round(time, 6), worker, samples)

    def logged(self, time: float, worker: int, version: int, values: Mapping[str, float]) -> None:
        """One line; what is not finite becomes None."""
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._log.write(json.dumps(["log", round(time, 6), worker, version, plain], separators=(",", ":")) + "\n")

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """One line, and the counts for the summary."""
        self._counts.joined(worker)
        self._seldom("join", round(time, 6), worker, incarnation)

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """One line, and the counts for the summary."""
        self._counts.left(worker, reason)
        self._seldom("leave", round(time, 6), worker, incarnation, reason)

    def failed(self, time: float, failure: Failure) -> None:
        """One line, and the counts for the summary."""
        self._counts.failed(failure)
        life = failure.worker, failure.incarnation, failure.version
        self._seldom("fail", round(time, 6), *life, failure.kind, failure.exit_code, failure.traceback)

    def digested(self, version: int, digests: Mapping[str, str]) -> None:
        """One line."""
        self._digested = version
        self._seldom("digest", version, dict(digests))

    def noted(self, time: float, words: str) -> None:
        """One line."""
        self._seldom("note", round(time, 6), words)

    def _seldom(self, *event: Any) -> None:
        """A line that a reader should see at once."""
        self._log.write(json.dumps(event, separators=(",", ":")) + "\n")
        self._log.flush()

    def evaluated(self, evaluation: Evaluation) -> None:
        """One line of evaluations.jsonl; all of the log so far is then on its way to the disk, too."""
        self.evaluations.append(evaluation)
        self._log.flush()
        self._evaluations.write(json.dumps(evaluation.as_json()) + "\n")
        self._evaluations.flush()

    def save_weights(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Write the final weights and buffers by name, loadable with safetensors alone; their digests to the log."""
        digests = self._layout.digests(flat)
        self._final = overall(digests)
        if self._digested != self._counts.version:
            self.digested(self._counts.version, digests)
        named = dict(zip(self._layout.names, self._layout.views(flat), strict=True)) | dict(buffers)
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
        path = self.directory / "weights.safetensors"
        with told_if_full(path, "Make room; a run with a checkpoint goes on from there."):
            path.write_bytes(safetensors.torch.save(plain))

    def finish(self, status: str, *, message: str, memory: Mapping[str, int], gradients: str) -> dict[str, Any]:
        """Write the summary and close the files; ``gradients``: how they were computed, as the worker describes it."""
        self.close()
        last = max(reversed(self.evaluations), key=lambda evaluation: evaluation.version, default=None)
        seconds = sum(evaluation.seconds for evaluation in self.evaluations)
        summary = {
            "format": 1,
            "status": status,
            "message": message,
            "gradients": gradients,
            "version": last.version if last else self._counts.version,
            "samples": last.samples if last else self._counts.samples,
            "epoch": last.epoch if last else self._counts.samples / self._samples_per_epoch,
            "time": last.time if last else self._counts.time,
            "wall": last.wall if last else self._counts.time,
            **self._counts.summary(),
            "evaluations": {"number": len(self.evaluations), "seconds": round(seconds, 4)},
            "digest": self._final,
            "metric": self._metric,
            "parameters": self._layout.numel,
            "memory": {**memory, "total": sum(memory.values())},
        }
        path = self.directory / "summary.json"
        with told_if_full(path, "Make room; a run with a checkpoint goes on from there."):
            write_json(path, _without_infinities(summary))
        return summary


def overall(digests: Mapping[str, str]) -> str:
    """One digest of all weights, 16 letters: of the parameters' names and digests, in their order."""
    return hashlib.blake2b(json.dumps(list(digests.items())).encode(), digest_size=8).hexdigest()


def _lease(lease: Lease | Bundle | None) -> str:
    if isinstance(lease, Bundle):
        return f"[{','.join(map(_lease, lease.leases))}]"
    return "null" if lease is None else f"[{lease.epoch},{lease.start},{lease.stop}]"


def _exact(value: float | None) -> str:
    """Every digit; JSON has no word for what is not finite."""
    return "null" if value is None or not math.isfinite(value) else repr(value)


def _rounded(value: float) -> str:
    """Six digits, which is what a ratio is worth."""
    return f"{value:.6g}" if math.isfinite(value) else "null"


def _without_infinities(value: Any) -> Any:
    """JSON has no word for what is not finite: None stands for it."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    return value
