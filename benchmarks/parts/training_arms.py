"""How each kind of arm is run: Tardigrad's engines, a plain loop, DistributedDataParallel, Hogwild."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from plain_training import Loop
from training_cases import PARTS, Case, Found, Measure, judged
from training_hogwild import Hogwild

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.engines.base import Evaluation, Observer
from tardigrad.errors import Diverged, Stopped
from tardigrad.records import Commit, Snapshot

_now = time.perf_counter
_EPOCHS = 50  # nobody gets so far
_START = 120.0  # seconds that others' processes may take beside their training


class Clock(Observer):
    """Times a run between two commits, or until an evaluation reaches the target."""

    def __init__(self, case: Case, measure: Measure) -> None:
        self.measure, self.found, self.over = measure, Found(), False
        each = case.workers if case.synchronous else 1
        self.first = measure.warm_up * (1 if case.synchronous else case.workers)
        self.last = self.first + measure.counted(case) // each if measure.steps else 0
        self.samples, self.since, self.begun = 0, 0.0, None

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """The first order is where training begins."""
        self.begun = time if self.begun is None else self.begun

    def joined(self, time: float, worker: int, incarnation: int) -> None:
        """A worker that was killed is back."""
        self.found.lives = incarnation + 1

    def committed(self, time: float, commit: Commit) -> None:
        """Time from the last commit that does not count to the last that does; or look at the limit."""
        if not self.last:
            self.over = self.over or time - (self.begun or 0.0) > self.measure.limit
            return
        if self.measure.device != "cpu" and commit.version in (self.first, self.last):
            torch.cuda.synchronize()
        now = _now()
        self.samples += sum(part.samples for part in commit.contributions)
        if commit.version == self.first:
            self.samples, self.since = 0, now
        if commit.version == self.last:
            seconds = now - self.since
            self.found.pace, self.found.commits = self.samples / seconds, (self.last - self.first) / seconds
            self.over = True

    def evaluated(self, evaluation: Evaluation) -> None:
        """Stop where the target is reached; the clock is that of the weights, not of their judgement."""
        if "validation" in evaluation.scores and self.found.seconds is None:
            assert self.begun is not None or evaluation.version == 0
            seconds = evaluation.time - (self.begun or 0.0)
            error = evaluation.scores["validation"]["error"]
            self.over |= judged(self.found, self.measure, error, seconds, evaluation.epoch)


def config_of(case: Case, measure: Measure) -> RunConfig:
    """The run of one of Tardigrad's arms."""
    dying = measure.dying_step(case)
    return measure.config.replace(
        task=measure.task,
        engine="simulated" if case.kind == "simulated" else "local",
        workers=case.workers,
        speeds=tuple(case.speeds),
        batch_size=tuple(case.batches) or measure.batch,
        consistency=case.consistency,
        rule=case.rule,
        threads=1,
        seed=measure.seed,
        epochs=_EPOCHS,
        evaluate_every=0.1 if measure.judged else 1e6,
        chaos=f"kill worker 1 at push {dying}" if dying else "",
        imports=(str(PARTS / "timed_task.py"), str(PARTS / "mlp_task.py")),
        data_dir=measure.place,
        device=measure.device,
    )


def run_tardigrad(case: Case, measure: Measure) -> Found:
    clock = Clock(case, measure)
    with tempfile.TemporaryDirectory() as folder, suppress(Stopped, Diverged):
        tardigrad.train(
            config_of(case, measure), directory=Path(folder) / "run", observers=[clock], stop=lambda: clock.over
        )
    return clock.found


def run_plain(case: Case, measure: Measure) -> Found:
    return Loop(case, measure, rank=0, model=lambda model: model).run()


def run_hogwild(case: Case, measure: Measure) -> Found:
    return Hogwild(case, measure).run()


def run_ddp(case: Case, measure: Measure) -> Found:
    """Processes of PyTorch's own; where one dies on purpose all are started anew, as torchrun does."""
    with tempfile.TemporaryDirectory() as folder:
        found = _ddp_life(case, measure, Path(folder), life=0)
        if found is None and measure.death:
            found = _ddp_life(case, measure, Path(folder), life=1)
    if found is None:
        raise RuntimeError(f"DistributedDataParallel failed: {case}")
    return found


def _ddp_life(case: Case, measure: Measure, folder: Path, *, life: int) -> Found | None:
    """What the first process found; None when one of them ended without a result."""
    told = {"case": asdict(case), "measure": asdict(measure), "meet": f"{folder}/meet-{life}", "memory": str(folder)}
    words = [sys.executable, str(PARTS / "plain_training.py")]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    errors = subprocess.DEVNULL if measure.death and not life else None  # the survivor complains, as it should
    processes = [
        subprocess.Popen([*words, str(rank), json.dumps(told)], stdout=subprocess.PIPE, stderr=errors, env=one)
        for rank in range(case.workers)
    ]
    try:
        good = _all_end_well(processes, _now() + 10.0 * measure.limit + _START)
    finally:
        for process in processes:
            process.kill()
        outputs = [process.communicate()[0] for process in processes]
    return Found(**json.loads(outputs[0])) if good else None


def _all_end_well(processes: list[subprocess.Popen[bytes]], patience: float) -> bool:
    """Whether they do; False as soon as one does not. Looked at as often as torchrun does."""
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or _now() > patience:
            return False
        time.sleep(0.1)
    return not any(process.poll() for process in processes)


RUN: dict[str, Callable[[Case, Measure], Found]] = {
    "local": run_tardigrad,
    "simulated": run_tardigrad,
    "ddp": run_ddp,
    "hogwild": run_hogwild,
    "plain": run_plain,
}
