"""What real workers give on one machine: samples a second, and seconds to a fixed error; beside it PyTorch's DDP.

    python benchmarks/local_scaling.py [--quick] [--parts pace error] [--rounds 5] [--seeds 0 1 2]
        [--data-dir DIR] [--output results/bench/local-scaling.json]

The model, batch and learning rate are those of the recipe cifar10-small; each worker computes with one thread, in
every row. *Pace*: one and two workers, and two of which one is slowed four times (it sleeps until its gradient has
taken four times as long); asynchronous and synchronous, a plain loop, and PyTorch's DistributedDataParallel (gloo, two
processes, written as its tutorial does) with the same slow-down. The cases are measured in turn, round after round;
what counts is a case's median, and the spread is written too. Evaluation is off. *Error*: seconds of training until
the error on 1,000 validation images is at most the target, since samples that are late are not worth as much. There
the evaluations of the plain loop and of DistributedDataParallel stop its clock, while those of Tardigrad run beside
its training, on the same cores.

Without CIFAR-10 on the disk the images are synthetic, of the same shape, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch

import tardigrad
from tardigrad.data.places import data_directory, find_data_directory
from tardigrad.engines.base import Evaluation, Observer
from tardigrad.errors import Stopped
from tardigrad.recording import environment
from tardigrad.records import Commit, Snapshot

PARTS = Path(__file__).resolve().parent / "parts"
sys.path.insert(0, str(PARTS))

from plain_training import Loop  # noqa: E402
from timed_task import BATCH, RECIPE, SLOW, Case, Found, Measure, judged  # noqa: E402

PACE = (
    Case("plain loop", "plain"),
    Case("1 worker", "local"),
    Case("1 worker, slowed 4 x", "local", 1, SLOW[1:]),
    Case("2 workers, asynchronous", "local", 2),
    Case("2 workers, synchronous", "local", 2, (), "synchronous"),
    Case("2 processes, DDP", "ddp", 2),
    Case("2 workers, one slowed 4 x, asynchronous", "local", 2, SLOW),
    Case("2 workers, one slowed 4 x, synchronous", "local", 2, SLOW, "synchronous"),
    Case("2 processes, one slowed 4 x, DDP", "ddp", 2, SLOW),
)
RACE = (
    Case("plain loop", "plain"),
    *(
        Case(f"{name}{words}", kind, 2, speeds, consistency, rule)
        for words, speeds in (("", ()), (", one slowed 4 x", SLOW))
        for name, kind, consistency, rule in (
            ("DDP", "ddp", "asynchronous", "asgd"),
            ("synchronous", "local", "synchronous", "asgd"),
            ("asgd", "local", "asynchronous", "asgd"),
            ("dc-asgd-a", "local", "asynchronous", "dc-asgd-a"),
            ("dc-asgd", "local", "asynchronous", "dc-asgd"),
        )
    ),
)


class Clock(Observer):
    """Times a local run between two commits, or until an evaluation reaches the target."""

    def __init__(self, case: Case, measure: Measure) -> None:
        self.measure, self.found, self.over = measure, Found(), False
        synchronous = case.consistency == "synchronous"
        each = case.workers if synchronous else 1
        self.first = measure.warm_up * (1 if synchronous else case.workers)
        self.last = self.first + measure.counted(case) // each if measure.steps else 0
        self.samples, self.since, self.begun = 0, 0.0, None

    def pulled(self, time: float, worker: int, snapshot: Snapshot) -> None:
        """The first order is where training begins."""
        self.begun = time if self.begun is None else self.begun

    def committed(self, time: float, commit: Commit) -> None:
        """Time from the last commit that does not count to the last that does."""
        now = _now()
        self.samples += sum(part.samples for part in commit.contributions)
        if commit.version == self.first:
            self.samples, self.since = 0, now
        if commit.version == self.last:
            self.found.pace, self.over = self.samples / (now - self.since), True

    def evaluated(self, evaluation: Evaluation) -> None:
        """Stop where the target is reached; the clock is that of the weights, not of their judgement."""
        if "validation" in evaluation.scores and not self.over:
            assert self.begun is not None or evaluation.version == 0
            seconds = evaluation.time - (self.begun or 0.0)
            self.over = judged(
                self.found, self.measure, evaluation.scores["validation"]["error"], seconds, evaluation.epoch
            )


_now = time.perf_counter


def run_local(case: Case, measure: Measure) -> Found:
    clock = Clock(case, measure)
    config = RECIPE.replace(
        task=measure.task,
        engine="local",
        workers=case.workers,
        speeds=case.speeds,
        consistency=case.consistency,
        rule=case.rule,
        threads=1,
        seed=measure.seed,
        epochs=measure.epochs,
        evaluate_every=0.1 if measure.target else 1e6,
        imports=(str(PARTS / "timed_task.py"),),
        data_dir=measure.data_dir,
    )
    with tempfile.TemporaryDirectory() as folder, suppress(Stopped):
        tardigrad.train(config, directory=Path(folder) / "run", observers=[clock], stop=lambda: clock.over)
    return clock.found


def run_ddp(case: Case, measure: Measure) -> Found:
    """Two processes of PyTorch's own."""
    with tempfile.TemporaryDirectory() as folder:
        order = json.dumps({"case": asdict(case), "measure": asdict(measure), "meet": f"{folder}/meet"})
        words = [sys.executable, str(PARTS / "plain_training.py")]
        one = os.environ | {"OMP_NUM_THREADS": "1"}
        ranks = map(str, range(case.workers))
        both = [subprocess.Popen([*words, rank, order], stdout=subprocess.PIPE, env=one) for rank in ranks]
        outputs = [process.communicate()[0] for process in both]
    if any(process.returncode for process in both):
        raise RuntimeError(f"DistributedDataParallel failed: {[process.returncode for process in both]}")
    return Found(**json.loads(outputs[0]))


def run_plain(case: Case, measure: Measure) -> Found:
    return Loop(case, measure, rank=0, model=lambda model: model).run()


RUN = {"local": run_local, "ddp": run_ddp, "plain": run_plain}


def pace_rows(cases: Sequence[Case], measure: Measure, rounds: int) -> list[dict]:
    """Medians of measurements made in turn, and what they are compared with."""
    readings: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            pace = RUN[case.kind](case, measure).pace
            assert pace is not None, case
            readings[case.name].append(round(pace, 2))
            print(f"round {number + 1}: {case.name}: {pace:,.0f} samples/s", flush=True)
    medians = {name: statistics.median(found) for name, found in readings.items()}
    alone, slowed = medians["1 worker"], medians["1 worker, slowed 4 x"]
    return [
        {
            "case": case.name,
            "samples/s": medians[case.name],
            "lowest": min(readings[case.name]),
            "highest": max(readings[case.name]),
            "over 1 worker": round(medians[case.name] / alone, 3),
            "of the workers' own speeds": round(
                medians[case.name] / (alone + slowed if case.speeds == SLOW else case.workers * alone * case.slowest), 3
            ),
            "readings": readings[case.name],
        }
        for case in cases
    ]


def error_rows(cases: Sequence[Case], measure: Measure, seeds: Sequence[int]) -> list[dict]:
    """Seconds to the target, of each seed."""
    rows: dict[str, list[Found]] = {case.name: [] for case in cases}
    for seed in seeds:
        for case in cases:
            found = RUN[case.kind](case, replace(measure, seed=seed))
            rows[case.name].append(found)
            reached = "not reached" if found.seconds is None else f"{found.seconds:.1f} s"
            print(f"seed {seed}: {case.name}: {reached}, epoch {found.epochs:.1f}, best {found.best:.3f}", flush=True)
    return [
        {
            "case": name,
            "median seconds": _median([found.seconds for found in all_of_it]),
            "median epochs": _median([found.epochs if found.seconds is not None else None for found in all_of_it]),
            "reached": sum(found.seconds is not None for found in all_of_it),
            "of": len(seeds),
            "readings": [asdict(found) for found in all_of_it],
        }
        for name, all_of_it in rows.items()
    ]


def _median(values: Sequence[float | None]) -> float | None:
    """None counts as never: the median is None where half or more are."""
    found = statistics.median([float("inf") if value is None else value for value in values])
    return None if found == float("inf") else round(found, 3)


def data(given: str) -> tuple[str, str]:
    """Which images there are, and a folder to find them in: the real ones, or else synthetic ones."""
    with data_directory(given):
        place = find_data_directory()
    there = any((place / name).exists() for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz"))
    return ("cifar10" if there else "synthetic"), str(place)


def tables(options: argparse.Namespace) -> dict[str, object]:
    images, place = data(options.data_dir)
    if options.quick:
        images = "synthetic"
    size = 640 if options.quick else 25_000
    spec = f"timed(images={images!r}, size={size}, judged={{}})"
    said = "CIFAR-10" if images == "cifar10" else "synthetic images of the same shape: CIFAR-10 is not on this disk"
    print(f"small ResNet, batch {BATCH} a worker, 1 thread each, {said}", flush=True)
    found: dict[str, object] = {"images": said, "batch": BATCH, "threads of each worker": 1}
    if "pace" in options.parts:
        steps = Measure(spec.format(0), place, warm_up=1, steps=4, epochs=50)
        if not options.quick:
            steps = replace(steps, warm_up=20, steps=400)
        found["pace"] = pace_rows([PACE[k] for k in (0, 1, 2, 6, 8)] if options.quick else PACE, steps, options.rounds)
    if "error" in options.parts:
        race = Measure(spec.format(40 if options.quick else 1000), place, target=options.target, epochs=options.epochs)
        found |= {"target error": options.target, "at most epochs": options.epochs}
        found["error"] = error_rows([RACE[k] for k in (0, 1, 8)] if options.quick else RACE, race, options.seeds)
    return found


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of a few cases: shows that it runs, proves nothing"
    )
    parser.add_argument("--parts", nargs="+", choices=("pace", "error"), default=["pace", "error"])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each pace, in turn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the seconds to an error")
    parser.add_argument("--target", type=float, default=0.5, help="validation error to reach")
    parser.add_argument("--epochs", type=int, default=4, help="after which a target is given up")
    parser.add_argument("--data-dir", default="", help="folder with CIFAR-10; by default as tardigrad train")
    parser.add_argument("--output", type=Path, help="write the tables as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(1)
    found = tables(options)
    for part in options.parts:
        for row in found[part]:
            print("   ".join(f"{key} {value}" for key, value in row.items() if key != "readings"), flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(options.output.read_text()) if options.output.exists() else {}  # the other part stays
        whole = before | {"environment": environment(RECIPE.replace(threads=1)), **found}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
