"""Where a run stands, by what its directory says: it runs, has ended, was stopped, or was killed. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tardigrad.errors import RunDirectoryError
from tardigrad.invitation import find_invitation
from tardigrad.logs import read_header
from tardigrad.presence import ProcessMark, process_of, read_status

State = Literal["running", "elsewhere", "unseen", "finished", "diverged", "interrupted", "stopped", "killed"]
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a run came.

    Attributes:
        version, samples: commits and samples applied.
        epoch: samples / size of the training set.
        staleness: mean over all contributions; None where that is not known.
    """

    version: int
    samples: int
    epoch: float
    staleness: float | None = None

    @property
    def words(self) -> str:
        """In one line."""
        words = f"version {self.version:,}: {self.samples:,} samples, epoch {self.epoch:.2f}"
        return words if self.staleness is None else f"{words}, mean staleness {self.staleness:.1f}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands.

    Attributes:
        directory: of the run.
        state: ``running``; ``elsewhere`` (it was shown on another machine, or before this one was started again);
            ``unseen`` (it shows nothing of itself: a simulated one that may run or was killed); how it ended
            (``finished``, ``diverged``, ``interrupted``); ``stopped`` with a checkpoint; or ``killed``.
        config: ``config.json``.
        status: what it shows of itself, or showed last.
        reached: how far it came; None where nothing says so.
        may_go_on: whether ``tardigrad train --resume`` may take it up.
    """

    directory: Path
    state: State
    config: Mapping[str, Any]
    status: Mapping[str, Any] | None
    reached: Reached | None
    may_go_on: bool

    @property
    def simulated(self) -> bool:
        """Whether its workers are no processes."""
        return bool(self.config.get("engine", "simulated") == "simulated")

    @property
    def process(self) -> ProcessMark | None:
        """The process that wrote its status."""
        return None if self.status is None else process_of(self.status)


def find_standing(directory: Path) -> Standing:
    """Where the run of a directory stands.

    Raises:
        RunDirectoryError: there is no run.
    """
    try:
        config = json.loads((directory / "config.json").read_text())
    except OSError:
        invitation = find_invitation(directory)
        if invitation is not None:
            raise RunDirectoryError(
                f"{directory} waits for its first worker, and shows nothing before. It joins with: {invitation.line}"
            ) from None
        raise RunDirectoryError(f"{directory} is not a run directory: it holds no config.json.") from None
    except ValueError:
        raise RunDirectoryError(f"{directory / 'config.json'} is damaged: it is not JSON.") from None
    status, summary = read_status(directory), _summary(directory)
    checkpoint = newest_checkpoint(directory)
    state = _state(config, status, summary, checkpoint)
    reached = _reached(directory, status if state in ("running", "elsewhere") else None, summary)
    can = checkpoint is not None and state in ("interrupted", "stopped", "killed", "unseen", "elsewhere")
    return Standing(directory, state, config, status, reached, can)


def describe(standing: Standing) -> list[str]:
    """The run in a few lines: how it stands, how far it came, and what to type."""
    return [f"{standing.directory}: {_how(standing)}", *_far(standing), *_advice(standing), *_open_to_others(standing)]


def _how(standing: Standing) -> str:
    process = standing.process
    if standing.state == "running" and process is not None:
        return f"running, process {process.pid}"
    if standing.state == "killed":
        return (
            f"killed: process {process.pid} is gone" if process else "killed, or ended by an error, before it was seen"
        )
    if standing.state == "elsewhere" and process is not None:
        return f"shown by process {process.pid} of {process.host}, which this machine (as started now) does not know"
    if standing.state == "unseen":
        return "has not ended; it is simulated, and shows nothing of itself while it runs"
    return {"stopped": "stopped, and can go on", "interrupted": "ended by an error or by hand"}.get(
        standing.state, standing.state
    )


def _far(standing: Standing) -> list[str]:
    reached = standing.reached
    if reached is None:
        return ["starting: nothing is known yet"] if standing.state == "running" else []
    words = f"{reached.words} of {standing.config['epochs']}" if reached.staleness is None else reached.words
    pace = (standing.status or {}).get("samples_per_second") if standing.state == "running" else None
    words += "" if pace is None else f", {pace:,.0f} samples/s"
    where = {"killed": "its last checkpoint: ", "unseen": "its last checkpoint: "}.get(standing.state, "")
    return [where + words, *_wished(standing)]


def _wished(standing: Standing) -> list[str]:
    wished = (standing.status or {}).get("wished") if standing.state == "running" else None
    taking_part = len(taking_part_in(standing))
    return [] if wished in (None, taking_part) else [f"{taking_part} workers, on the way to {wished}"]


def taking_part_in(standing: Standing) -> list[Mapping[str, Any]]:
    """The workers that have not stopped."""
    workers = (standing.status or {}).get("workers", [])
    return [worker for worker in workers if worker["state"] != "stopped"]


def _advice(standing: Standing) -> list[str]:
    place = standing.directory
    if standing.state == "running":
        return []
    if standing.state == "finished":
        return [f"pictures: tardigrad report {place}; weights: tardigrad export {place}"]
    if standing.may_go_on:
        unless = {"unseen": "if it does not run: ", "elsewhere": "if it does not run there: "}.get(standing.state, "")
        return [f"{unless}{_going_on(standing.config).format(place)}"]
    if standing.state in ("killed", "interrupted"):
        return ["it has no checkpoint to go on from; --checkpoint-every MINUTES says how often one is written"]
    return []


def _going_on(config: Mapping[str, Any]) -> str:
    """What to type so that a run in a directory goes on."""
    if config.get("engine") == "joined":
        return "tardigrad serve --resume {}"
    return "tardigrad run --directory {} SCRIPT" if config.get("task") == "script" else "tardigrad train --resume {}"


def _open_to_others(standing: Standing) -> list[str]:
    """Of a run that workers of other machines may join: how many are there, and how."""
    invitation = find_invitation(standing.directory) if standing.state in ("running", "elsewhere") else None
    if invitation is None:
        return []
    here, wanted = len(taking_part_in(standing)), standing.config["workers"]
    waits = f"{here} of {wanted} workers are there; " if here < wanted else ""
    return [f"{waits}more join with: {invitation.line}"]


def newest_checkpoint(directory: Path) -> dict[str, Any] | None:
    """What the newest checkpoint says, its tensors left where they are and unchecked; None where there is none."""
    numbers = [int(found[1]) for path in directory.iterdir() if (found := _CHECKPOINT.fullmatch(path.name))]
    for number in sorted(numbers, reverse=True):
        try:
            content: dict[str, Any] = json.loads((directory / f"checkpoint-{number}.json").read_bytes())["content"]
        except (OSError, ValueError, KeyError):
            continue
        return content
    return None


def mean_staleness(histograms: Mapping[str, Mapping[str, int]]) -> float | None:
    """The mean of staleness counts by worker; None where nothing was counted."""
    counts = [(int(staleness), number) for each in histograms.values() for staleness, number in each.items()]
    pushes = sum(number for _, number in counts)
    return sum(staleness * number for staleness, number in counts) / pushes if pushes else None


def _summary(directory: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    return content


def _state(
    config: Mapping[str, Any],
    status: Mapping[str, Any] | None,
    summary: Mapping[str, Any] | None,
    checkpoint: Mapping[str, Any] | None,
) -> State:
    process = None if status is None else process_of(status)
    if process is not None and process.lives:
        return "running"
    if summary is not None:
        ended: State = summary["status"]
        return ended
    if process is not None:
        return "killed" if process.here else "elsewhere"
    if config.get("engine", "simulated") == "simulated":
        return "unseen"
    return "stopped" if checkpoint is not None else "killed"


def _reached(
    directory: Path,
    status: Mapping[str, Any] | None,
    summary: Mapping[str, Any] | None,
) -> Reached | None:
    if status is not None:
        known = "version" in status
        return Reached(status["version"], status["samples"], status["epoch"]) if known else None
    if summary is not None:
        staleness = summary.get("staleness", {}).get("mean")
        return Reached(summary["version"], summary["samples"], summary["epoch"], staleness)
    return reached_by_checkpoint(directory)


def reached_by_checkpoint(directory: Path) -> Reached | None:
    """How far a run had come at its newest checkpoint; None where there is none."""
    checkpoint = newest_checkpoint(directory)
    if checkpoint is None:
        return None
    state, size = checkpoint["state"], int(read_header(directory)["samples_per_epoch"])
    samples = int(state["engine"]["server"]["samples_applied"])
    staleness = mean_staleness(state["recorder"]["counts"]["staleness"])
    return Reached(int(checkpoint["version"]), samples, samples / size, staleness)
