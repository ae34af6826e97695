"""A training script of one's own: samples a second alone, and served by one worker, by two, and by a group of two.

    python benchmarks/own_script.py [--quick] [--rounds 5] [--output results/bench/own-script.json]

The script is a usual one (DataLoader, SGD with momentum, its own loop), on images that are made up: a perceptron of
0.27 million parameters, batch 64, whose gradient takes a millisecond or two, and the small ResNet of `cifar10-small`,
batch 32. *Alone* is `engine=None`: torch.optim in one process. The others are `engine="local"`, the rule `asgd`. Each
arm in turn, round after round, one thread in every process; counted from the moment when every process has made its
tenth step to the last step of the first that ends. Shown are medians. About five minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "parts"))

from usual_script import TASKS, train

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.environment import environment

WARM_UP = 10  # steps of each process that do not count
ARMS: dict[str, dict[str, Any]] = {
    "alone": {"engine": None},
    "1 worker": {"workers": 1},
    "2 workers": {"workers": 2},
    "1 group of 2": {"workers": 1, "group": 2},
}


def pace(task: str, arm: str, samples: int, *, in_step: bool = False) -> float:
    """Samples a second of one run; in step, so that in a short one both workers take enough of them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(ARMS[arm])
        if settings.get("engine", "local") is not None:
            settings |= {"rule": "asgd", "threads": 1, "directory": Path(folder, "run"), "measure_every": 0}
            settings |= {"consistency": "ssp(1)"} if in_step else {}
        tardigrad.run(train, args=(task, samples, folder), **settings)
        told = [json.loads(file.read_text()) for file in Path(folder).glob("*-*.json")]
    begun = max(moments[WARM_UP][0] for moments in told)
    ended = min(moments[-1][0] for moments in told)
    counted = sum(size for moments in told for moment, size in moments if begun < moment <= ended)
    return counted / (ended - begun)


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm on every task, in turn."""
    rows, arms = [], ("alone", "2 workers") if options.quick else tuple(ARMS)
    for task, (batch, samples) in list(TASKS.items())[: 1 if options.quick else None]:
        wanted = batch * 3 * (WARM_UP + 6) if options.quick else samples
        readings: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(options.rounds):
            for arm in arms:
                readings[arm].append(pace(task, arm, wanted, in_step=options.quick))
        alone = statistics.median(readings["alone"])
        for arm, paces in readings.items():
            median = statistics.median(paces)
            rows.append({"task": task, "arm": arm, "samples/s": median, "of alone": median / alone, "readings": paces})
            print(f"{task:14s} {arm:14s} {median:10,.0f} samples/s {median / alone:6.2f} of alone", flush=True)
    return rows


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny round, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(words)
    options.rounds = 1 if options.quick else options.rounds
    torch.set_num_threads(1)
    found = {"environment": environment(RunConfig(threads=1)), "rounds": options.rounds, "rows": measured(options)}
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
