"""What the simulator costs over a plain PyTorch loop: same model, data, batch, arithmetic and threads.

    python benchmarks/simulator_overhead.py [--quick] [--settings digits cifar10-small cifar10-resnet20]
        [--device cuda] [--precision bfloat16] [--commit-path compiled] [--output results/bench/simulator-overhead.json]

A machine's speed drifts within seconds, so the two are timed in turn within one run: after every few steps of the
simulator (ten of the digits CNN, one of ResNet-20) an observer takes as many of a plain loop, and the ratio of the two
is noted. The run is recorded as `tardigrad train` records it; evaluation counts on neither side. Printed, and with
--output written with hardware and versions, is the median over all pairs, by processor time (another process on the
machine does not change it) and by wall time. The plain loop takes the steps of SGD whatever the rule.

The images of the two ResNets are noise, prepared and augmented as those of CIFAR-10 are: a step takes as long, and
nothing need be on the disk. On CUDA every case is timed twice, with and without a graph, and only wall time counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import tardigrad
from tardigrad.arithmetic import Arithmetic
from tardigrad.config import RunConfig
from tardigrad.data.augmentation import crop_and_flip, normalise
from tardigrad.data.cifar import DEVIATION, MEAN
from tardigrad.engines.base import Observer
from tardigrad.environment import environment
from tardigrad.leases import epoch_permutation
from tardigrad.models.resnet import cifar_resnet, small_resnet
from tardigrad.recipes import load_recipe
from tardigrad.records import Commit
from tardigrad.tasks.base import ERROR, Split, Task
from tardigrad.tasks.digits import digits

CASES = ((1, "asgd"), (64, "asgd"), (64, "dc-asgd-c"), (64, "dc-asgd-a"), (64, "dc-asgd"))
LIMITS = {1: 1.10, 64: 1.15}


@dataclass(frozen=True)
class Setting:
    """What is timed, and for how long."""

    title: str
    task: Callable[[], Task]
    batch: int
    steps: int
    """Of each of the two in turn."""
    warm_up: int
    """Commits that do not count: until each of 64 workers has a backup and a state."""
    commits: int
    """In all, of one repetition."""
    repetitions: int
    memory_format: str = "contiguous"

    def quick(self) -> Setting:
        """Two pairs: shows that it runs."""
        warm_up = 2 * self.steps
        return Setting(
            self.title, self.task, self.batch, self.steps, warm_up, warm_up + 2 * self.steps, 1, self.memory_format
        )


def noise(model: Callable[[], nn.Module], batch: int) -> Task:
    """Twenty batches that look like CIFAR-10 to a clock."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20 * batch, 3, 32, 32), dtype=torch.uint8, generator=generator)
    train = Split(images, torch.arange(len(images)) % 10)
    return Task(
        name="noise",
        model=model,
        loss=functional.cross_entropy,
        metric=ERROR,
        train=train,
        test=Split(images[:10], train.targets[:10]),
        prepare=partial(normalise, mean=MEAN["cifar10"], deviation=DEVIATION["cifar10"]),
        augment=crop_and_flip,
    )


SETTINGS = {
    "digits": Setting("digits CNN, batch 128", digits, 128, 10, 100, 800, 3),
    "cifar10-small": Setting(
        "small ResNet, batch 32", lambda: noise(small_resnet, 32), 32, 5, 100, 400, 3, "channels_last"
    ),
    "cifar10-resnet20": Setting(
        "ResNet-20, batch 128", lambda: noise(cifar_resnet, 128), 128, 1, 70, 110, 1, "channels_last"
    ),
}


class PlainLoop:
    """The same task as one would write it, a few steps at a time."""

    def __init__(self, task: Task, config: RunConfig) -> None:
        self.task = task.to(config.device)
        self.config = config
        self.arithmetic = Arithmetic(config.device, config.precision, config.memory_format)
        self.model = self.arithmetic.place(task.make_model(config.seed)).train()
        foreach = self.arithmetic.on_cuda  # what torch takes by itself there
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, foreach=foreach, fused=False)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batches = self._batches()

    def _batches(self) -> Iterator[torch.Tensor]:
        assert isinstance(self.config.batch_size, int)
        for epoch in count():
            order = torch.from_numpy(epoch_permutation(len(self.task.train), self.config.seed, epoch).copy())
            yield from order.to(self.config.device).split(self.config.batch_size)

    def _inputs(self, index: torch.Tensor) -> torch.Tensor:
        inputs = self.task.prepared(self.task.train.inputs[index])
        if self.task.augment is not None:
            inputs = self.task.augment(inputs, self.generator)
        return self.arithmetic.lay_out(inputs)

    def steps(self, number: int) -> None:
        """Take so many steps."""
        with self.arithmetic.kernels():
            for _ in range(number):
                index = next(self.batches)
                inputs = self._inputs(index)
                with self.arithmetic.autocast():
                    loss = self.task.loss(self.model(inputs), self.task.train.targets[index])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()


class Pacer(Observer):
    """Times the simulator's last steps, then as many of a plain loop."""

    def __init__(self, plain: PlainLoop, setting: Setting) -> None:
        self.plain = plain
        self.setting = setting
        self.pairs: list[tuple[Clocks, Clocks]] = []  # simulator, plain loop
        self.since: Clocks | None = None

    def committed(self, time: float, commit: Commit) -> None:
        """After every few steps of the simulator, as many of the plain loop."""
        steps, counted = self.setting.steps, commit.version - self.setting.warm_up
        if commit.version % steps or counted <= -2 * steps:  # the plain loop warms up for two turns
            return
        reached = self._now()
        self.plain.steps(steps)
        done = self._now()
        if self.since is not None and counted > 0:
            self.pairs.append((difference(reached, self.since), difference(done, reached)))
        self.since = done

    def _now(self) -> Clocks:
        if self.plain.arithmetic.on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


Clocks = tuple[float, float]  # wall and processor seconds


def difference(later: Clocks, earlier: Clocks) -> Clocks:
    return later[0] - earlier[0], later[1] - earlier[1]


def configured(setting: Setting, task: Task, options: argparse.Namespace) -> RunConfig:
    """As many epochs as hold the commits; nothing is evaluated in between."""
    config = load_recipe("digits").replace(evaluate_every=1e9, schedule="constant", lr=0.001)
    return config.replace(
        batch_size=setting.batch,
        epochs=-(-setting.commits * setting.batch // len(task.train)),
        device=options.device,
        precision=options.precision,
        memory_format=options.memory_format or setting.memory_format,
        commit_path=options.commit_path,
    )


def measure(setting: Setting, options: argparse.Namespace) -> dict[tuple[str, int], list[tuple[Clocks, Clocks]]]:
    """Pairs of (simulator, plain loop) by case and number of workers."""
    task = setting.task()
    images = min(len(task.train), setting.commits * setting.batch)
    task = replace(task, train=Split(task.train.inputs[:images], task.train.targets[:images]))
    config = configured(setting, task, options)
    pairs: dict[tuple[str, int], list[tuple[Clocks, Clocks]]] = {}
    ways = {"": True} if options.device == "cpu" else {", graph": True, ", kernel by kernel": False}
    for _ in range(setting.repetitions):
        for workers, rule in CASES:
            for words, graph in ways.items():
                pacer = Pacer(PlainLoop(task, config), setting)
                with tempfile.TemporaryDirectory() as folder:
                    settings = {"workers": workers, "rule": rule, "cuda_graph": graph, "observers": [pacer]}
                    settings |= {name: getattr(config, name) for name in SAME}
                    tardigrad.train(task, directory=Path(folder) / "run", **settings)
                pairs.setdefault((f"{rule}, {workers} workers{words}", workers), []).extend(pacer.pairs)
    return pairs


SAME = (
    "batch_size", "epochs", "evaluate_every", "schedule", "lr", "delay", "device", "precision", "memory_format",
    "commit_path",
)  # fmt: skip


def table(title: str, measured: dict[tuple[str, int], list[tuple[Clocks, Clocks]]], steps: int) -> list[dict]:
    """One row per case: milliseconds a step, and the ratio of simulator to plain loop."""
    rows = []
    for (name, workers), pairs in measured.items():
        wall, processor = (sorted(simulator[k] / plain[k] for simulator, plain in pairs) for k in (0, 1))
        quarter = len(pairs) // 4
        rows.append(
            {
                "setting": title,
                "case": name,
                "limit": LIMITS[workers],
                "processor ratio": round(statistics.median(processor), 4),
                "its middle half": [round(processor[quarter], 4), round(processor[-1 - quarter], 4)],
                "wall ratio": round(statistics.median(wall), 4),
                "simulator ms a step": round(1e3 * statistics.median(s[1] for s, _ in pairs) / steps, 4),
                "plain loop ms a step": round(1e3 * statistics.median(p[1] for _, p in pairs) / steps, 4),
                "simulator wall ms a step": round(1e3 * statistics.median(s[0] for s, _ in pairs) / steps, 4),
                "plain loop wall ms a step": round(1e3 * statistics.median(p[0] for _, p in pairs) / steps, 4),
                "pairs": len(pairs),
            }
        )
    return rows


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two pairs a case: shows that it runs, proves nothing")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="what to time; all")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--memory-format", choices=("contiguous", "channels_last"), help="by default the recipe's")
    parser.add_argument("--commit-path", choices=("auto", "exact", "compiled"), default="auto")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(1)
    rows: list[dict] = []
    for name in options.settings:
        setting = SETTINGS[name].quick() if options.quick else SETTINGS[name]
        print(f"{setting.title}, 1 thread, {options.device}; pairs of {setting.steps} steps each", flush=True)
        rows += table(setting.title, measure(setting, options), setting.steps)
        for row in rows[-len(CASES) * (1 if options.device == "cpu" else 2) :]:
            print("   ".join(f"{key} {value}" for key, value in row.items() if key != "setting"), flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        config = RunConfig(device=options.device)
        options.output.write_text(json.dumps({"environment": environment(config), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
