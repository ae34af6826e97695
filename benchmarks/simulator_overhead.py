"""What the simulator costs over a plain PyTorch loop: same model, data, batch, threads and number of steps.

    python benchmarks/simulator_overhead.py [--quick] [--output results/bench/simulator-overhead.json]

Each repetition times a plain loop, then the simulator with 1 and with 64 workers, one after the other in this
process, with the run recorded as `tardigrad train` records it and evaluation left out on both sides. What counts is
the median of the ratios within a repetition, by processor time (another process on a busy machine does not change
it) and by wall time; with --output it is written with hardware and versions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.leases import epoch_permutation
from tardigrad.recipes import load_recipe
from tardigrad.recording import environment
from tardigrad.tasks.base import Task
from tardigrad.training import resolve

CASES = ((1, "asgd"), (64, "asgd"), (64, "dc-asgd-c"), (64, "dc-asgd-a"), (64, "dc-asgd"))
LIMITS = {1: 1.10, 64: 1.15}


Clocks = tuple[float, float]  # wall and processor seconds


def clocked(work: Callable[[], object]) -> Clocks:
    """Seconds that a piece of work takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def plain_loop(task: Task, config: RunConfig) -> None:
    """The same samples in the same order, as one would write it."""
    model = task.make_model(config.seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, foreach=False, fused=False)
    size, samples = config.batch_size, len(task.train)
    assert isinstance(size, int)
    for epoch in range(config.epochs):
        order = torch.from_numpy(epoch_permutation(samples, config.seed, epoch).copy())
        for start in range(0, samples, size):
            index = order[start : start + size]
            loss = task.loss(model(task.train.inputs[index]), task.train.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def simulated(config: RunConfig) -> Clocks:
    """Seconds of a recorded run, less those of a run of no epochs: starting, evaluating and saving do not count."""
    with tempfile.TemporaryDirectory() as folder:
        whole = clocked(lambda: tardigrad.train(config, directory=Path(folder) / "run"))
        empty = clocked(lambda: tardigrad.train(config, epochs=0, directory=Path(folder) / "empty"))
    return whole[0] - empty[0], whole[1] - empty[1]


def measure(config: RunConfig, repetitions: int) -> dict[str, list[Clocks]]:
    """Seconds by case, one entry per repetition."""
    task = resolve(config)[1]
    cases = {f"{rule}, {workers} workers": (workers, rule) for workers, rule in CASES}
    seconds: dict[str, list[Clocks]] = {name: [] for name in ("plain loop", *cases)}
    for repetition in range(repetitions + 1):
        row = {"plain loop": clocked(lambda: plain_loop(task, config))}
        for name, (workers, rule) in cases.items():
            row[name] = simulated(config.replace(workers=workers, rule=rule))
        for name, value in row.items() if repetition else ():  # the first only warms up
            seconds[name].append(value)
    return seconds


def table(seconds: dict[str, list[Clocks]], steps: int) -> list[dict[str, object]]:
    """One row per case: milliseconds a step, and the ratios to the plain loop of the same repetition."""
    rows: list[dict[str, object]] = []
    for name, values in seconds.items():
        pairs = list(zip(values, seconds["plain loop"], strict=True))
        wall, processor = ([value[k] / plain[k] for value, plain in pairs] for k in (0, 1))
        limit = next((limit for count, limit in LIMITS.items() if name.endswith(f" {count} workers")), None)
        rows.append(
            {
                "case": name,
                "processor ms per step": round(1e3 * statistics.median(v[1] for v in values) / steps, 4),
                "processor ratio": round(statistics.median(processor), 4),
                "processor ratio, min to max": [round(min(processor), 4), round(max(processor), 4)],
                "wall ratio": round(statistics.median(wall), 4),
                "wall ratio, min to max": [round(min(wall), 4), round(max(wall), 4)],
                "limit": limit,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short repetition: shows that it runs, proves nothing")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_recipe("digits").replace(
        batch_size=128, epochs=1 if options.quick else 40, evaluate_every=1e9, schedule="constant", lr=0.001
    )
    repetitions = 1 if options.quick else 7
    seconds = measure(config, repetitions)
    steps = config.epochs * -(-len(resolve(config)[1].train) // 128)
    rows = table(seconds, steps)
    print(f"digits CNN, batch 128, 1 thread, {steps} steps, {repetitions} repetitions")
    for row in rows:
        print("   ".join(f"{name} {value}" for name, value in row.items()))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"environment": environment(config), "steps": steps, "rows": rows}
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
