"""What real workers cost beside computing: an exchange against memcpy, and seconds until they compute.

    python benchmarks/local_costs.py [--quick] [--parts exchange start-up] [--output results/bench/local-costs.json]

*Exchange*: what the server does between a worker's push and its next order: the commit from the worker's up slot,
which writes weights and down slot in one pass, and the bookkeeping of the pull. Two workers take turns, so every
gradient is one commit late. Beside it, in turn, a memcpy of the same weights, and the round trip of the two messages
between two processes. One thread. *Start-up*: seconds from the command `tardigrad train digits --engine local
--workers 4` to the first order of the last worker, by the run's own log, and of `python -c "import torch"`, in turn.
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
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pipe
from pathlib import Path

import torch

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.logs import read_events
from tardigrad.recording import environment
from tardigrad.records import Lease, Push
from tardigrad.transports.slots import Order, Pushed, ServerEnd, Slot, SlotLayout, WorkerEnd

SIZES = {"0.27 M": 272_474, "25.6 M": 25_557_032}  # ResNet-20 and ResNet-50
RULES = ("asgd", "dc-asgd-a", "dc-asgd")


class Exchanges:
    """A server whose two workers' slots are in shared memory, as the local engine has them."""

    def __init__(self, rule: str, parameters: int) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(parameters, generator=generator)]
        self.server = tardigrad.ParameterServer(weights, tardigrad.rule(rule), lr=1e-3, workers=2)
        layout = SlotLayout.of(self.server.layout, {})
        self.down, self.up = ([Slot.make(layout, f"{way}-{k}") for k in range(2)] for way in ("down", "up"))
        for worker in range(2):
            self.up[worker].flat.normal_(generator=generator).mul_(1e-2)
            self.server.backups.keep_in(worker, self.down[worker].flat)
            self.server.pull(worker, copy=False)
        self.turn = 0

    def __call__(self) -> None:
        """One exchange."""
        worker, self.turn = self.turn, 1 - self.turn
        push = Push(worker=worker, gradient=self.up[worker].flat, lease=None, samples=1, norm=1.0)
        assert self.server.receive(push, lasting=True).accepted
        self.server.pull(worker, copy=False)

    def close(self) -> None:
        """Give the slots back."""
        for slot in (*self.down, *self.up):
            slot.close()


def milliseconds(action: Callable[[], object], times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        action()
    return 1e3 * (time.perf_counter() - begun) / times


def exchange_rows(sizes: dict[str, int], rounds: int, bytes_a_round: float) -> list[dict]:
    rows = []
    for name, parameters in sizes.items():
        source, target = torch.randn(parameters), torch.empty(parameters)
        times = max(2, int(bytes_a_round / (4 * parameters)))
        for rule in RULES:
            exchanges = Exchanges(rule, parameters)
            milliseconds(exchanges, 4)  # state and pages are there
            pairs = [
                (milliseconds(exchanges, times), milliseconds(partial(target.copy_, source), times))
                for _ in range(rounds)
            ]
            exchanges.close()
            exchange, memcpy = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
            rows.append(
                {
                    "parameters": name,
                    "rule": rule,
                    "exchange, ms": round(exchange, 4),
                    "memcpy, ms": round(memcpy, 4),
                    "ratio": round(statistics.median(mine / copy for mine, copy in pairs), 2),
                    "readings": [[round(each, 4) for each in pair] for pair in pairs],
                }
            )
            print("   ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "readings"), flush=True)
    return rows


def round_trip(times: int) -> float:
    """Microseconds of an order and its answer between two processes that do nothing else."""
    mine, theirs = Pipe()
    child = os.fork()
    if child == 0:
        mine.close()
        end = WorkerEnd(theirs)
        while (order := end.receive()) is not None:
            end.send(Pushed(order.version, order.incarnation, 0.0, 0.0, 0.0))
        os._exit(0)
    theirs.close()
    end, order = ServerEnd(mine), Order(1, 0, Lease(0, 0, 1))

    def both_ways() -> None:
        end.send(order)
        end.receive()

    milliseconds(both_ways, 10)
    found = 1e3 * milliseconds(both_ways, times)
    end.close()
    os.waitpid(child, 0)
    return found


def until_all_compute(workers: int, place: Path) -> float:
    """Seconds from the command to the first order of the last worker."""
    words = ["train", "digits", "--engine", "local", "--workers", str(workers), "--epochs", "1", "--directory", place]
    begun = time.time()
    run = subprocess.Popen([sys.executable, "-m", "tardigrad", *map(str, words)], stderr=subprocess.DEVNULL, stdout=-3)
    zero = None
    while run.poll() is None and zero is None:
        zero = zero_of(place / "status.json")
        time.sleep(0.002)
    if run.wait() or zero is None:
        raise RuntimeError(f"tardigrad train ended with {run.returncode}")
    first: dict[int, float] = {}
    for _, moment, worker, *_ in read_events(place, kind="pull"):
        first.setdefault(worker, moment)
    if len(first) < workers:
        raise RuntimeError(f"only workers {sorted(first)} took part")
    return zero + max(first.values()) - begun


def zero_of(status: Path) -> float | None:
    """When the run's clock was 0, by the file that shows it."""
    try:
        shown, written = json.loads(status.read_text()), status.stat().st_mtime
    except (OSError, ValueError):
        return None
    return written - shown["time"] if "time" in shown else None


def importing_torch() -> float:
    begun = time.time()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.time() - begun


def start_up(workers: int, rounds: int) -> dict[str, object]:
    pairs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append((importing_torch(), until_all_compute(workers, Path(folder) / "run")))
        print(f"import torch {pairs[-1][0]:.2f} s, {workers} workers computing {pairs[-1][1]:.2f} s", flush=True)
    return {
        "workers": workers,
        "import torch, s": round(statistics.median(pair[0] for pair in pairs), 3),
        "all compute, s": round(statistics.median(pair[1] for pair in pairs), 3),
        "after torch, s": round(statistics.median(pair[1] - pair[0] for pair in pairs), 3),
        "readings": [[round(each, 3) for each in pair] for pair in pairs],
    }


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and once: shows that it runs, proves nothing")
    parser.add_argument("--parts", nargs="+", choices=("exchange", "start-up"), default=["exchange", "start-up"])
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    if "exchange" in options.parts:
        sizes = {"1,000": 1000} if options.quick else SIZES
        found["exchange"] = exchange_rows(sizes, 2 if options.quick else 15, 1e4 if options.quick else 4e8)
        found["messages, microseconds"] = round(round_trip(20 if options.quick else 5000), 1)
        print(f"an order and its answer: {found['messages, microseconds']} microseconds", flush=True)
    if "start-up" in options.parts:
        found["start-up"] = start_up(2 if options.quick else 4, 1 if options.quick else 5)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(RunConfig(threads=1)), **found}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
