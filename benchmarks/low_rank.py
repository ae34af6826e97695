"""What a commit of dc-lowrank costs, in time and in memory, and whether less would do.

    python benchmarks/low_rank.py [--quick] [--sizes "0.27 M" "25.6 M"] [--windows 8 16 32 64 128] [--threads 1 2]
        [--kept "as the weights" bfloat16] [--parts times accuracy] [--device cuda]
        [--output results/bench/low-rank.json]

*times*: one commit on the exact path, the path alone, with a window that is full. Beside the whole stand its parts: a
gradient is added and its inner products with all rows are found (a row of the Gram matrix), S d, the system of r
equations with its copy of the Gram matrix, S^T y, and the rest. A machine's speed drifts, so each reading is taken
right after one of asgd, of dc-asgd-a on both paths (compiled: where there is a compiler), and of reading memory that no
cache holds; ratios are taken within such a sitting, and medians printed. The *floor* is three times the bytes of S at
that reading speed: a window that a cache holds may be below it. *Recomputed*: the whole Gram matrix S S^T instead of
one row, timed on a part of the columns. *Sketch*: folding one vector into 4096 numbers; with sketches instead of rows
the inner products cost two of those, and S^T y remains. *Memory* is what the window says that it holds, what the
process held at the most beyond what it held before, and what a dry run says.

*accuracy*: how far the compensation is from the one of whole float32 rows on digits, if inner products are of sketches
and S^T y of whole rows, or if rows are kept as bfloat16.

A cell that needs more than 16 GiB, or more than is free, is left out and says so. About five minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from parts.held_memory import Held
from parts.low_rank_sketch import BUCKETS, Sketch, errors_on_digits
from parts.low_rank_window import PARTS_OF_A_COMMIT, Case, Reader, full_window, recomputed_gram

from tardigrad.commit import COMMIT_PATHS
from tardigrad.config import RunConfig
from tardigrad.environment import environment
from tardigrad.layout import FlatLayout
from tardigrad.rules.base import make_rule
from tardigrad.window import WindowPlan

MOST = 16 * 2**30  # bytes that a cell may need
MODELS = 12  # copies of the weights beside the window, scratch and references included
KEPT = ("as the weights", "bfloat16")


@dataclass(frozen=True)
class Size:
    """How many parameters, and how long each cell is measured."""

    parameters: int
    rounds: int
    seconds: float  # after which a round is a cell's last, from the second on


SIZES = {"0.27 M": Size(272_474, rounds=15, seconds=1.5), "25.6 M": Size(25_557_032, rounds=5, seconds=6.0)}
QUICK = {"20,000": Size(20_000, rounds=3, seconds=0.0)}
QUICK_WINDOWS = [2, 8]


class Table:
    """The cells of one size with this process's number of threads, one after the other."""

    def __init__(self, name: str, size: Size, options: argparse.Namespace) -> None:
        self.name, self.size, self.device = name, size, torch.device(options.device)
        generator = torch.Generator(self.device).manual_seed(0)
        made = [torch.randn(size.parameters, generator=generator, device=self.device) for _ in range(2)]
        self.layout = FlatLayout.of(made[:1])
        self.weights, self.gradient = (self.layout.pack([tensor]) for tensor in made)
        self.gradient.mul_(1e-2)
        self.reader = Reader(self.device, quick=options.quick)
        self.references: dict[str, Callable[[], object]] = {
            "asgd": self.case("asgd", "exact"),
            "dc-asgd-a exact": self.case("dc-asgd-a", "exact"),
        }
        if not options.quick and shutil.which("g++") is not None:
            self.references["dc-asgd-a compiled"] = self.case("dc-asgd-a", "compiled")
        for action in self.references.values():
            action()  # states and pages are there
        self.sketched = statistics.median(self.timed(self.sketching()) for _ in range(5))

    def case(self, spec: str, path: str) -> Case:
        """Commits of a rule on a path."""
        built = COMMIT_PATHS.load(path)(make_rule(spec), self.layout, threads=torch.get_num_threads())
        return Case(built, self.weights, self.gradient)

    def sketching(self) -> Callable[[], object]:
        """One sketch of a gradient; made once before."""
        sketch = Sketch(self.layout.size, device=str(self.device))
        sketch(self.gradient)
        return lambda: sketch(self.gradient)

    def timed(self, action: Callable[[], object]) -> float:
        """Milliseconds of a call."""
        self.reader.settle()
        begun = time.perf_counter()
        action()
        self.reader.settle()
        return 1e3 * (time.perf_counter() - begun)

    def row(self, rows: int, kept: str) -> dict:
        """One cell."""
        about = {"parameters": self.name, "threads": torch.get_num_threads(), "window": rows, "kept": kept}
        plan = WindowPlan(rows, kept=kept)
        needs = plan.bytes_for(1, self.layout) + plan.scratch_for(1, self.layout) + MODELS * self.copy
        if needs > min(MOST, self.reader.free()):
            return {**about, "left out": f"it needs {needs / 2**30:.3g} GiB"}
        held = Held(self.device)
        case = self.case(f"dc-lowrank(window={rows}, kept={kept!r})", "exact")
        watched = full_window(case, plan, self.layout, self.gradient, self.reader.settle)
        sittings = self.sit(case, watched)
        seen = {"window": watched.bytes_held(), "peak": held.beyond()}
        gram = self.timed(lambda: recomputed_gram(watched.some_rows())) * watched.share()
        return {**about, **self.times(sittings, plan), "recomputed Gram, ms": rounded(gram), **self.memory(seen, plan)}

    def sit(self, case: Case, watched: object) -> list[dict[str, float]]:
        """Readings, each with its references, in milliseconds; the first is thrown away."""
        sittings, begun = [], time.perf_counter()
        case()
        for done in range(self.size.rounds):
            if done >= 2 and time.perf_counter() - begun > self.size.seconds:
                break
            sitting = {name: self.timed(action) for name, action in self.references.items()}
            sitting["a byte read"] = 1e3 / self.reader.bytes_a_second()
            whole = self.timed(case)
            sittings.append({**sitting, "it": whole, **watched.split(whole)})
        return sittings

    def times(self, sittings: Sequence[dict[str, float]], plan: WindowPlan) -> dict:
        """What the readings say."""
        bytes_read = 3 * plan.rows_for(1) * self.layout.size * plan.dtype_for(self.layout.dtype).itemsize
        whole = statistics.median(sitting["it"] for sitting in sittings)
        parts = {name: rounded(statistics.median(s[name] for s in sittings)) for name in PARTS_OF_A_COMMIT}
        return {
            "ms": rounded(whole),
            "its middle half": middle_half([sitting["it"] for sitting in sittings]),
            "readings": len(sittings),
            "parts, ms": parts,
            "GB/s": rounded(bytes_read / whole / 1e6),
            "floor, ms": rounded(statistics.median(bytes_read * s["a byte read"] for s in sittings)),
            "over floor": ratio(sittings, lambda s: bytes_read * s["a byte read"]),
            "sketched, ms": rounded(whole - parts["add and Gram row"] - parts["S d"] + 2 * self.sketched),
            **{f"over {name}": ratio(sittings, lambda s, name=name: s[name]) for name in self.references},
        }

    def memory(self, seen: dict[str, int], plan: WindowPlan) -> dict:
        """What was held, in MB, and what a dry run says of it: window, scratch and all."""
        said = plan.bytes_for(1, self.layout), plan.scratch_for(1, self.layout) + 8 * self.copy
        return {
            "window, MB": rounded(seen["window"] / 1e6),
            "peak, MB": rounded(seen["peak"] / 1e6),
            "dry run: window, MB": rounded(said[0] / 1e6),
            "dry run: window and scratch, MB": rounded(sum(said) / 1e6),
        }

    @property
    def copy(self) -> int:
        """Bytes of the weights."""
        return self.layout.size * self.layout.dtype.itemsize


def ratio(sittings: Sequence[dict[str, float]], by: Callable[[dict[str, float]], float]) -> float:
    """The median ratio within a sitting."""
    return rounded(statistics.median(sitting["it"] / by(sitting) for sitting in sittings))


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def middle_half(values: Sequence[float]) -> list[float]:
    """From the first to the third quarter."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return [rounded(low), rounded(high)]


def times(options: argparse.Namespace) -> list[dict]:
    """Every cell, with this process's number of threads."""
    rows = []
    for name in options.sizes:
        table = Table(name, (QUICK if options.quick else SIZES)[name], options)
        for kept in options.kept:
            for window in options.windows:
                say(f"{name}, threads: {torch.get_num_threads()}, window {window}, {kept}")
                rows.append(table.row(window, kept))
    return rows


def accuracy(options: argparse.Namespace) -> list[dict]:
    """Of sketches and of bfloat16, on digits."""
    cases = [(8, 0.1)] if options.quick else [(32, 0.1), (128, 0.1), (128, 0.3)]
    rows = []
    for window, lr in cases:
        say(f"accuracy: window {window}, lr {lr}")
        rows += errors_on_digits(
            window, epochs=1 if options.quick else 4, lr=lr, buckets=256 if options.quick else BUCKETS
        )
    return rows


def in_its_own_process(options: argparse.Namespace, threads: int) -> list[dict]:
    """The times with so many threads, from a process that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rows.json"
        call = [sys.executable, __file__, "--alone", "--output", str(found), "--device", options.device]
        for word in ("sizes", "windows", "kept"):
            call += [f"--{word}", *map(str, getattr(options, word))]
        subprocess.run([*call, "--threads", str(threads)], check=True)
        rows: list[dict] = json.loads(found.read_text())
        return rows


def all_of(options: argparse.Namespace) -> dict[str, list[dict]]:
    """Both parts; in a quick run in this process."""
    if options.quick:
        torch.set_num_threads(1)
    found: dict[str, list[dict]] = {}
    if "times" in options.parts:
        each = [times(options)] if options.quick else [in_its_own_process(options, n) for n in options.threads]
        found["times"] = [row for rows in each for row in rows]
    if "accuracy" in options.parts:
        found["accuracy"] = accuracy(options)
    return found


REFERENCES = ("asgd", "dc-asgd-a exact", "dc-asgd-a compiled")
BESIDE = ("recomputed Gram, ms", "sketched, ms", "window, MB", "peak, MB")
COLUMNS = {
    "times": ("ms", *PARTS_OF_A_COMMIT, "over floor", *(f"over {name}" for name in REFERENCES), *BESIDE),
    "accuracy": ("lr", "late gradients", "relative error of c, median", "relative error of c, 90 %"),
}


def show(part: str, rows: Sequence[dict]) -> None:
    """The table of one part; the readings' spread stands in the JSON."""
    print("\n" + " | ".join(["case", *COLUMNS[part]]))
    for row in rows:
        first = row.get("what") or f"{row['parameters']}, threads: {row['threads']}, {row['kept']}"
        flat = {**row, **row.get("parts, ms", {})}
        cells = [row["left out"]] if "left out" in row else [str(flat.get(column, "")) for column in COLUMNS[part]]
        print(" | ".join([f"{first}, window {row['window']}", *cells]))


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, proves nothing")
    parser.add_argument("--sizes", nargs="+", choices=(*SIZES, *QUICK), help="all")
    parser.add_argument("--windows", nargs="+", type=int, help="8 16 32 64 128")
    parser.add_argument("--kept", nargs="+", choices=KEPT, default=list(KEPT))
    parser.add_argument("--threads", nargs="+", type=int, help="1 2; with a device that is no CPU: 1")
    parser.add_argument("--parts", nargs="+", choices=("times", "accuracy"), default=["times", "accuracy"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args(words)
    options.threads = options.threads or ([1, 2] if options.device == "cpu" else [1])
    options.sizes = options.sizes or list(QUICK if options.quick else SIZES)
    options.windows = options.windows or (QUICK_WINDOWS if options.quick else [8, 16, 32, 64, 128])
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    if options.alone:
        torch.set_num_threads(options.threads[0])
        options.output.write_text(json.dumps(times(options)))
        return
    found = all_of(options)
    for part, rows in found.items():
        show(part, rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(RunConfig(threads=1, device=options.device)), **found}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
