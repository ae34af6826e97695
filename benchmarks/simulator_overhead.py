"""What the simulator costs over a plain PyTorch loop: same model, data, batch and threads.

    python benchmarks/simulator_overhead.py [--quick] [--output results/bench/simulator-overhead.json]

A machine's speed drifts within seconds, so the two are timed in turn within one run: after every ten steps of the
simulator an observer takes ten steps of a plain loop, and the ratio of the two is noted. The run is recorded as
`tardigrad train` records it; evaluation counts on neither side. Printed, and with --output written with hardware and
versions, is the median over all pairs, by processor time (another process on the machine does not change it) and by
wall time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.engines.base import Observer
from tardigrad.leases import epoch_permutation
from tardigrad.recipes import load_recipe
from tardigrad.recording import environment
from tardigrad.records import Commit
from tardigrad.tasks.base import Task
from tardigrad.training import resolve

CASES = ((1, "asgd"), (64, "asgd"), (64, "dc-asgd-c"), (64, "dc-asgd-a"), (64, "dc-asgd"))
LIMITS = {1: 1.10, 64: 1.15}
STEPS = 10
WARM_UP = 100  # commits


class PlainLoop:
    """The same task as one would write it, a few steps at a time."""

    def __init__(self, task: Task, config: RunConfig) -> None:
        self.task = task
        self.config = config
        self.model = task.make_model(config.seed).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, foreach=False, fused=False)
        self.batches = self._batches()

    def _batches(self) -> Iterator[torch.Tensor]:
        assert isinstance(self.config.batch_size, int)
        for epoch in count():
            order = torch.from_numpy(epoch_permutation(len(self.task.train), self.config.seed, epoch).copy())
            yield from order.split(self.config.batch_size)

    def steps(self, number: int) -> None:
        """Take so many steps."""
        for _ in range(number):
            index = next(self.batches)
            loss = self.task.loss(self.model(self.task.train.inputs[index]), self.task.train.targets[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class Pacer(Observer):
    """Times the simulator's last steps, then as many of a plain loop."""

    def __init__(self, plain: PlainLoop) -> None:
        self.plain = plain
        self.pairs: list[tuple[Clocks, Clocks]] = []  # simulator, plain loop
        self.since: Clocks | None = None

    def committed(self, time: float, commit: Commit) -> None:
        """After every ten steps of the simulator, ten of the plain loop."""
        if commit.version % STEPS:
            return
        reached = now()
        self.plain.steps(STEPS)
        done = now()
        if self.since is not None and commit.version > WARM_UP:
            self.pairs.append((difference(reached, self.since), difference(done, reached)))
        self.since = done


Clocks = tuple[float, float]  # wall and processor seconds


def now() -> Clocks:
    return time.perf_counter(), time.process_time()


def difference(later: Clocks, earlier: Clocks) -> Clocks:
    return later[0] - earlier[0], later[1] - earlier[1]


def measure(config: RunConfig, repetitions: int) -> dict[str, list[tuple[Clocks, Clocks]]]:
    """Pairs of (simulator, plain loop) by case."""
    task = resolve(config)[1]
    pairs: dict[str, list[tuple[Clocks, Clocks]]] = {}
    for _ in range(repetitions):
        for workers, rule in CASES:
            pacer = Pacer(PlainLoop(task, config))
            with tempfile.TemporaryDirectory() as folder:
                settings = {"workers": workers, "rule": rule, "observers": [pacer]}
                tardigrad.train(config, directory=Path(folder) / "run", **settings)
            pairs.setdefault(f"{rule}, {workers} workers", []).extend(pacer.pairs)
    return pairs


def table(measured: dict[str, list[tuple[Clocks, Clocks]]]) -> list[dict[str, object]]:
    """One row per case: milliseconds a step, and the ratio of simulator to plain loop."""
    rows: list[dict[str, object]] = []
    for name, pairs in measured.items():
        wall, processor = (sorted(simulator[k] / plain[k] for simulator, plain in pairs) for k in (0, 1))
        quarter = len(pairs) // 4
        rows.append(
            {
                "case": name,
                "limit": next(limit for workers, limit in LIMITS.items() if name.endswith(f" {workers} workers")),
                "processor ratio": round(statistics.median(processor), 4),
                "its middle half": [round(processor[quarter], 4), round(processor[-1 - quarter], 4)],
                "wall ratio": round(statistics.median(wall), 4),
                "simulator ms a step": round(1e3 * statistics.median(s[1] for s, _ in pairs) / STEPS, 4),
                "plain loop ms a step": round(1e3 * statistics.median(p[1] for _, p in pairs) / STEPS, 4),
                "pairs": len(pairs),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short repetition: shows that it runs, proves nothing")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_recipe("digits").replace(batch_size=128, evaluate_every=1e9, schedule="constant", lr=0.001)
    config = config.replace(epochs=16 if options.quick else 80)
    rows = table(measure(config, 1 if options.quick else 3))
    print(f"digits CNN, batch 128, 1 thread; pairs of {STEPS} steps each")
    for row in rows:
        print("   ".join(f"{name} {value}" for name, value in row.items()))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"environment": environment(config), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
