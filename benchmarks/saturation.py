"""How many workers are worth having, what the server's memory is, and how fast the simulator's events are.

    python benchmarks/saturation.py [--quick] [--parts workers simulator] [--rules dc-asgd-a]
        [--output results/bench/saturation.json]

*Workers*: real local workers, a process each, that take a fixed time for a gradient and no processor for it: they wait.
So there may be more of them than cores, as if each had cores of its own, and what stops them is the server alone. For
each size of model, 1, 2, 4, 8 and 16 workers until the commits a second rise no more, on both commit paths where a
model is large enough for the compiled one. Beside them the bound: one over the seconds of an exchange, timed alone
before; and in the run itself what an exchange took and the share of its time for which the server was busy with them.
The server's memory is what it says that it holds, the most that its process had resident over what it had before, and
what `--dry-run` says.

*Simulator*: events a second (a pull and a commit are two) where gradients cost nothing and the model is small: what is
left is the simulator itself. With and without a run directory in turn, which says what the log costs.

About three minutes; --quick takes seconds and proves nothing. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from parts import waiting
from parts.held_memory import Held

import tardigrad
from tardigrad.assembling import assemble, blueprint_of, configure
from tardigrad.config import RunConfig
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Job, Observer
from tardigrad.environment import environment
from tardigrad.memory import total
from tardigrad.plan import Subject, memory_needed
from tardigrad.records import Commit, Push
from tardigrad.rules.base import make_rule

WORKERS = (1, 2, 4, 8, 16)
RISES = 1.05  # a rate below this many times the one before rises no more
NEAR = 0.95  # of the highest rate: as good as it
WINDOWS = 3
EXCHANGES = 12


@dataclass(frozen=True)
class Size:
    """A model, and the seconds that a worker takes for its gradient."""

    name: str
    parameters: int
    step: float
    paths: tuple[str, ...] = ("exact", "compiled")


SIZES = (
    Size("0.1 M", 100_000, 0.005, ("exact",)),
    Size("1 M", 1_000_000, 0.02),
    Size("10 M", 10_000_000, 0.1),
    Size("25.6 M", 25_557_032, 0.25),
)
QUICK = (Size("1,000", 1000, 0.001, ("exact",)),)


class Windows(Observer):
    """Counts commits in windows of so many seconds, once every worker has pushed twice."""

    def __init__(self, workers: int, seconds: float) -> None:
        self.seconds = seconds
        self.rates: list[float] = []
        self._early = dict.fromkeys(range(workers), 2)
        self._since: float | None = None
        self._commits = 0

    def committed(self, time_: float, commit: Commit) -> None:
        """One more."""
        now = time.perf_counter()
        if self._since is None:
            self._early[commit.worker] -= 1
            if max(self._early.values()) <= 0:
                self._since = now
            return
        self._commits += 1
        if now - self._since >= self.seconds:
            self.rates.append(self._commits / (now - self._since))
            self._since, self._commits = now, 0

    @property
    def counting(self) -> bool:
        """Whether the first window has begun."""
        return self._since is not None

    def done(self) -> bool:
        """Whether enough was seen."""
        return len(self.rates) >= WINDOWS


class Busy:
    """The seconds that a server spends on each exchange of a run: taking in a push, and the pull that follows."""

    def __init__(self, server: tardigrad.ParameterServer, windows: Windows) -> None:
        self.seconds: list[float] = []
        self._windows = windows
        for name in ("receive", "pull"):
            setattr(server, name, self._timed(getattr(server, name), begins=name == "receive"))

    def _timed(self, call: Callable[..., Any], *, begins: bool) -> Callable[..., Any]:
        def timed(*words: Any, **keywords: Any) -> Any:
            begun = time.perf_counter()
            result = call(*words, **keywords)
            spent = time.perf_counter() - begun
            if begins and self._windows.counting:
                self.seconds.append(spent)
            elif self.seconds:
                self.seconds[-1] += spent
            return result

        return timed


def configured(size: Size, rule: str, path: str, workers: int, engine: str) -> RunConfig:
    return RunConfig(
        task=f"waiting(parameters={size.parameters}, seconds={size.step})",
        imports=(waiting.__file__,),
        engine=engine,
        rule=rule,
        workers=workers,
        commit_path=path,
        lr=1e-6,
        batch_size=1,
        epochs=1_000_000,
        evaluate_every=1e9,
        measure_every=0,
    )


def assembled(config: RunConfig) -> Job:
    ENGINES.load(config.engine).prepare(blueprint_of(config))
    config = configure(config)
    job = assemble(config, blueprint_of(config).build_task(), make_rule(config.rule, optimizer=config.optimizer))
    job.server.prepare(mirrored=ENGINES.load(config.engine).has_processes)
    return job


def exchange_seconds(size: Size, rule: str, path: str) -> list[float]:
    """Seconds of exchanges with two workers in turn whose snapshots have places of their own, as real ones' have."""
    weights = [torch.zeros(size.parameters)]
    server = tardigrad.ParameterServer(weights, tardigrad.rule(rule), lr=1e-6, workers=2, commit_path=path)
    server.prepare(mirrored=True)
    gradient, seconds = torch.full((size.parameters,), 1e-3), []
    for worker in range(2):
        server.backups.keep_in(worker, torch.zeros(size.parameters))
        server.pull(worker, copy=False)
    for turn in range(EXCHANGES):
        begun = time.perf_counter()
        server.receive(Push(turn % 2, gradient, norm=1.0), lasting=True)
        server.pull(turn % 2, copy=False)
        seconds.append(time.perf_counter() - begun)
    return seconds[2:]


def measured(size: Size, rule: str, path: str, workers: int, seconds: float) -> dict[str, object]:
    """One row: commits a second of so many workers, and the server's memory."""
    gc.collect()
    config, held = configured(size, rule, path, workers, "local"), Held(torch.device("cpu"))
    job, windows = assembled(config), Windows(workers, max(seconds, 4.0 * size.step))
    busy = Busy(job.server, windows)
    ENGINES.load("local")(replace(job, observers=[windows])).run(windows.done)
    beyond, rates = held.beyond(), sorted(windows.rates)
    server = {name: round(number / 2**20, 2) for name, number in job.server.bytes_held().items()}
    planned = memory_needed(Subject.of(config))
    return {
        "workers": workers,
        "commits/s": round(statistics.median(rates), 2),
        "lowest": round(rates[0], 2),
        "highest": round(rates[-1], 2),
        "of what they want": round(statistics.median(rates) * size.step / workers, 3),
        "exchange here, ms": round(1e3 * statistics.median(busy.seconds), 3),
        "server busy": round(statistics.fmean(busy.seconds) * statistics.median(rates), 3),
        "server holds, MiB": server,
        "planned, MiB": round(total(planned.server) / 2**20, 2),
        "resident beyond before, MiB": round(beyond / 2**20, 1),
    }


def until_it_rises_no_more(size: Size, rule: str, path: str, options: argparse.Namespace) -> dict[str, object]:
    """One series: more and more workers of one size on one path."""
    seconds = sorted(exchange_seconds(size, rule, path))
    exchange = statistics.median(seconds)
    print(
        f"\n{size.name}, {rule}, {path}: a gradient in {1e3 * size.step:g} ms, an exchange in {1e3 * exchange:.3g} ms"
    )
    rows: list[dict] = []
    for workers in WORKERS[:2] if options.quick else WORKERS:
        rows.append(measured(size, rule, path, workers, 0.05 if options.quick else options.seconds))
        print("   ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
        if len(rows) > 1 and rows[-1]["commits/s"] < RISES * rows[-2]["commits/s"]:
            break
    best = max(row["commits/s"] for row in rows)
    found = next(row["workers"] for row in rows if row["commits/s"] >= NEAR * best)
    print(f"rises until {found} workers; bound {1.0 / exchange:.4g} commits a second")
    return {
        "size": size.name,
        "parameters": size.parameters,
        "rule": rule,
        "path": path,
        "step, ms": 1e3 * size.step,
        "exchange, ms": round(1e3 * exchange, 4),
        "its range, ms": [round(1e3 * each, 4) for each in (seconds[0], seconds[-1])],
        "bound, commits/s": round(1.0 / exchange, 2),
        "rises until": found,
        "still rising": found == WORKERS[-1],
        "rows": rows,
    }


class Span(Observer):
    """The time from one commit to another, and who pulled and committed in it."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.events = 0
        self.times: list[float] = []

    def pulled(self, time_: float, worker: int, snapshot: object) -> None:
        """An event, where it counts."""
        self.events += bool(self.times)

    def committed(self, time_: float, commit: Commit) -> None:
        """The first is where it begins."""
        if commit.version >= self.first:
            self.events += bool(self.times)
            self.times.append(time.perf_counter())

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / (self.times[-1] - self.times[0])


def simulated(workers: int, commits: int, rounds: int) -> dict[str, object]:
    """One row: events a second without and with a log, in turn."""
    bare, logged, sizes = [], [], Counter[str]()
    config = configured(Size("tiny", 1000, 0.0), "dc-asgd-a", "exact", workers, "simulated")
    config = config.replace(task=f"waiting(parameters=1000, samples={commits})", epochs=1)
    for _ in range(rounds):
        span = Span(workers)
        ENGINES.load("simulated")(replace(assembled(config), observers=[span])).run()
        bare.append(span.rate)
        span = Span(workers)
        with tempfile.TemporaryDirectory() as folder:
            run = tardigrad.train(config, directory=Path(folder) / "run", observers=[span])
            sizes["bytes"] = sum(path.stat().st_size for path in run.directory.glob("log*"))
            sizes["commits"] = run.evaluations[-1].version
        logged.append(span.rate)
    longer = [1.0 / slow - 1.0 / fast for fast, slow in zip(bare, logged, strict=True)]
    row = {
        "workers": workers,
        "events/s": round(statistics.median(bare)),
        "readings": [round(rate) for rate in bare],
        "with a log, events/s": round(statistics.median(logged)),
        "its readings": [round(rate) for rate in logged],
        "log, microseconds a commit": round(2e6 * statistics.median(longer), 1),
        "log, bytes a commit": round(sizes["bytes"] / sizes["commits"], 1),
    }
    print("   ".join(f"{name} {value}" for name, value in row.items() if "readings" not in name), flush=True)
    return row


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and once: shows that it runs, proves nothing")
    parser.add_argument("--parts", nargs="+", choices=("workers", "simulator"), default=["workers", "simulator"])
    parser.add_argument("--rules", nargs="+", default=["dc-asgd-a"], help="rules of the real workers")
    parser.add_argument("--seconds", type=float, default=0.8, help="of a window, of which there are three")
    parser.add_argument("--output", type=Path, help="write the tables as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    if "workers" in options.parts:
        sizes = QUICK if options.quick else SIZES
        cases = [(size, rule, path) for rule in options.rules for size in sizes for path in size.paths]
        found["saturation"] = [until_it_rises_no_more(*case, options) for case in cases]
    if "simulator" in options.parts:
        print("\nsimulator, gradients that cost nothing, 1,000 parameters")
        many, commits, rounds = ((1, 4), 100, 1) if options.quick else ((1, 64, 1024), 8000, 3)
        found["simulator"] = [simulated(workers, commits, rounds) for workers in many]
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(RunConfig(threads=1)), **found}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
