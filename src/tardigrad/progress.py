"""Progress: a live line on a terminal, plain lines now and then where there is none; and what tuning chose."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from tardigrad.compare import Outcome
from tardigrad.config import RunConfig
from tardigrad.engines.base import Evaluation, Observer
from tardigrad.invitation import Invitation
from tardigrad.records import Commit, Failure, Push, Rejected, Snapshot
from tardigrad.rules.base import make_rule
from tardigrad.steering import in_words
from tardigrad.tasks.base import Metric
from tardigrad.tuning import Choice, Trial

_RECENT = 50  # commits that the loss and the staleness shown are averaged over


class TrainProgress(Observer):
    """Loss, samples/s, staleness and time left of one run.

    Args:
        config: the run's.
        samples: how many will be applied in all.
        metric: of the task, for the line at each evaluation.
        applied: how many were applied already, of a run that goes on.
    """

    def __init__(self, config: RunConfig, *, samples: int, metric: Metric | None, applied: int = 0) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._metric = metric
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self._staleness: deque[int] = deque(maxlen=_RECENT)
        self._begun_at, self._applied, self._rejected = applied, applied, 0
        self._since, self._begun = perf_counter(), False
        self._failed: set[int] = set()
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[state]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=self._console, disable=not self._live, transient=True)
        self._task: TaskID = self._bar.add_task(
            f"{config.shown} x {config.workers}", total=samples, completed=applied, state=""
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """The pace counts from the first one on: before, workers start and the initial weights are judged."""
        if not self._begun:
            self._since, self._begun = perf_counter(), True

    def committed(self, time: float, commit: Commit) -> None:
        """Count samples, and refresh the line a few times a second."""
        for part in commit.contributions:
            self._applied += part.samples
            self._staleness.append(commit.version - 1 - part.read_version)
            if part.loss is not None:
                self._losses.append(part.loss)
        if self._live:
            self._bar.update(self._task, completed=self._applied, state=self._state())

    def rejected(self, time: float, push: Push, result: Rejected) -> None:
        """Count it."""
        self._rejected += 1

    def failed(self, time: float, failure: Failure) -> None:
        """A line that stays, and what was raised."""
        self._failed.add(failure.worker)
        self._say(f"{time:.1f} s: {in_words(failure)}")

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """A line that stays."""
        how = f"is restarted, life {incarnation}" if worker in self._failed else "is added"
        self._failed.discard(worker)
        self._say(f"{time:.1f} s: worker {worker} {how}")

    def left(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        """A line that stays; of a worker that failed there is one already."""
        if reason != "failed":
            self._say(f"{time:.1f} s: worker {worker} leaves: {reason}")

    def noted(self, time: float, words: str) -> None:
        """A line that stays."""
        self._say(f"{time:.1f} s: {words}")

    def invited(self, time: float, invitation: Invitation) -> None:
        """Lines that stay: what to type on other machines. Only a terminal is shown the secret itself."""
        self._say(f"workers join with: {invitation.line}")
        if self._live:
            self._say(f"or without that file: {invitation.line_with_secret()}")

    def evaluated(self, evaluation: Evaluation) -> None:
        """A line that stays."""
        words = [f"epoch {evaluation.epoch:6.2f}"]
        for split, scores in evaluation.scores.items():
            name = self._metric.name if self._metric else "loss"
            scale, unit = (self._metric.scale, self._metric.unit) if self._metric else (1.0, "")
            words.append(f"{split} {name} {scale * scores[name]:.4g}{' ' + unit if unit else ''}")
        before = f"loss {evaluation.scores['test']['loss']:.4g} before training"
        words.append(self._state() if evaluation.version else before)  # an evaluation beside training comes late
        self._say("  ".join(words))

    def _say(self, words: str) -> None:
        """Above the live line, or where there is none."""
        self._console.print(words, highlight=False, soft_wrap=True, markup=False)

    def _state(self) -> str:
        if not self._losses:
            return ""
        rate = (self._applied - self._begun_at) / max(perf_counter() - self._since, 1e-9)
        staleness = sum(self._staleness) / len(self._staleness)
        words = f"loss {sum(self._losses) / len(self._losses):.4g}  {rate:,.0f} samples/s  staleness {staleness:.1f}"
        return words + (f"  {self._rejected} rejected" if self._rejected else "")


class CompareProgress:
    """How many runs of a comparison are done.

    Args:
        total: runs in all, at most.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._total = total
        self._counts: Counter[str] = Counter()
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=self._console, disable=not self._live)
        self._task = self._bar.add_task("runs", total=total, state="")

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def finished(self, outcome: Outcome) -> None:
        """Count it; without a terminal, say so now and then."""
        self._counts["found finished" if outcome.reused else outcome.status] += 1
        done = sum(self._counts.values())
        state = ", ".join(f"{number} {word}" for word, number in self._counts.items())
        self._bar.update(self._task, completed=done, state=state)
        if not self._live and (done == self._total or done % max(1, self._total // 10) == 0):
            self._console.print(f"{done} of {self._total} runs: {state}", highlight=False, soft_wrap=True)


def print_choices(choices: Sequence[Choice]) -> None:
    """Print what was chosen for each algorithm, and from what."""
    if not choices:
        return
    table = Table(box=None, pad_edge=False, title="Chosen by validation data; every algorithm had the same trials")
    for heading in ("algorithm", "workers", "lr", "rule", "validation", "tried: learning rate (strength): score"):
        table.add_column(heading, justify="left", overflow="fold")
    for choice in choices:
        best, config = choice.best, choice.arm.config
        tried = ", ".join(f"{trial.lr:g}{_strength(trial)}: {_shown(trial)}" for trial in choice.trials)
        table.add_row(config.label, str(config.workers), f"{best.lr:g}", best.rule, _shown(best), tried)
    Console().print(table)


def _strength(trial: Trial) -> str:
    compensation = make_rule(trial.rule).compensation
    if compensation.strength is None:
        return ""
    strength = getattr(compensation, compensation.strength)
    return f" ({strength})" if isinstance(strength, str) else f" ({strength:g})"


def _shown(trial: Trial) -> str:
    return f"{trial.score:.4g}" if math.isfinite(trial.score) else trial.status
