"""What a commit and an exchange cost, beside memcpy and torch's own fused optimizers.

    python benchmarks/commits.py [--quick] [--sizes "0.27 M" "25.6 M" "124 M"] [--threads 1 2] [--rules dc-asgd-a ...]
        [--paths exact compiled] [--parts times memory] [--device cuda] [--output results/bench/commits.json]

A *commit* applies one gradient to the server's weights; an *exchange* writes the new weights into the worker's slot in
the same pass, which is what its next pull would copy. Every registered rule does both, on each commit path; a control
wraps dc-asgd-a. The path alone is timed, without the server's bookkeeping, on one tensor, which is kind to torch too.

A machine's speed drifts, so a case is timed right after its references (memcpy, fused Adam, and for dc-asgd-c fused SGD
with momentum), round after round, and every ratio is taken within such a sitting; printed are medians over the rounds
and their middle half. A *stream* is four bytes an element read or written: what a rule moves at least; one that needs
numbers over the whole vector reads before it writes. The *ratio* is to fused Adam (7 streams) x its streams / 7, for
dc-asgd-c to fused SGD with momentum x its streams / 5. The *traffic* is a stream more where a slot is written that was
not read: a processor fetches each line before it writes to it.

*Memory* is what a process holds at the most during commits, over what it held before the first of them.

About nine minutes, plus what compiling takes (a cold cache: a few more), and 5 GB for the largest size. Each number of
threads has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from parts.held_memory import Held

from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import CommitPath, Part
from tardigrad.config import RunConfig
from tardigrad.environment import environment
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules import COMPENSATIONS
from tardigrad.rules.base import Rule, make_rule
from tardigrad.scopes import SHARED

MEMCPY, SGD, MOMENTUM, ADAM = "memcpy", "fused SGD", "fused SGD with momentum", "fused Adam"
STREAMS = {MEMCPY: 2, SGD: 3, MOMENTUM: 5, ADAM: 7}
YARDSTICKS = {"dc-asgd-c": MOMENTUM}  # whose streams are as many; every other rule's is fused Adam
LIMITS = {"dc-asgd-a": 1.15, "dc-asgd-c": 1.15}
LIMIT = 1.2  # of every other rule of element scope
LIMITED = "25.6 M"  # the size whose compiled exchanges have a limit: beyond every cache
ONE = "dc-asgd-a"  # stands for all rules in what is done for one of them
MEMORY_LIMIT = 8.0  # MB
RULES = [name for name in COMPENSATIONS.names() if make_rule(name).compensation.window_plan is None]
"""What a rule with a window of gradients costs is another benchmark's: `low_rank.py`."""


@dataclass(frozen=True)
class Size:
    """How many parameters, and how long they are measured."""

    parameters: int
    calls: int
    rounds: int
    seconds: float  # after which a round is the last, from the third on
    together: bool = True  # else rule after rule, so that only one rule's states are held


SIZES = {
    "0.27 M": Size(272_474, calls=20, rounds=21, seconds=25.0),  # ResNet-20
    "25.6 M": Size(25_557_032, calls=1, rounds=15, seconds=75.0),  # ResNet-50
    "124 M": Size(124_439_808, calls=1, rounds=5, seconds=6.0, together=False),  # GPT-2
}
QUICK = {"20,000": Size(20_000, calls=1, rounds=3, seconds=0.0)}


class Buffers:
    """What all cases of one size share: weights, a gradient and a worker's two slots, in turn its backup."""

    def __init__(self, parameters: int, device: str) -> None:
        generator = torch.Generator(device).manual_seed(0)
        self.weights = torch.randn(parameters, generator=generator, device=device)
        self.gradient = torch.randn(parameters, generator=generator, device=device).mul_(1e-2)
        self.slots = [self.weights.clone(), self.weights.clone()]
        self.layout = FlatLayout.of([self.weights])


class Case:
    """One rule on one path; a call is a commit or an exchange."""

    def __init__(self, rule: Rule, path: CommitPath, buffers: Buffers) -> None:
        self.rule, self.path, self.buffers = rule, path, buffers
        self.version = 0
        for mirrored in (False, True):
            path.prepare(mirrored=mirrored, several=False, measure=False)

    def __call__(self, *, exchange: bool) -> None:
        """Apply a gradient that is one commit late; with ``exchange`` its worker's slot is the mirror."""
        slot = self.buffers.slots[self.version % 2]
        facts = Facts(staleness=1, lr=1e-4, version=self.version, live=2, step=self.version)
        self.version += 1
        part = Part(0, self.buffers.gradient, slot, facts)
        self.path.apply(self.buffers.weights, [part], mirrors=[slot] if exchange else [])


def streams_of(rule: Rule, exchange: bool) -> int:
    """Of a commit, or exchange: gradient, weights twice, backup, state twice, mirror; and of the passes before it."""
    repair = rule.compensation
    states = len(repair.state_spec())
    before = repair.read_passes * (1 + 2 * repair.reads_backup + states)
    return before + 3 + repair.reads_backup + 2 * (states + len(rule.optimizer.state_spec())) + exchange


def limit_of(rule: Rule, path: str) -> float | None:
    """Of an exchange, in times of its yardstick; None where nothing is asked of it."""
    return LIMITS.get(rule.name, LIMIT) if path == "compiled" and rule.compensation.scope == "element" else None


def references(buffers: Buffers) -> dict[str, Callable[[], object]]:
    """A step of each reference, on the same weights and gradient; so small a step that the weights stay."""
    weights = torch.nn.Parameter(buffers.weights)
    weights.grad = buffers.gradient
    adam = torch.optim.Adam([weights], lr=1e-8, fused=True)
    plain = torch.optim.SGD([weights], lr=1e-8, fused=True)
    momentum = torch.optim.SGD([weights], lr=1e-8, momentum=0.9, fused=True)
    copy = lambda: buffers.slots[0].copy_(buffers.weights)  # noqa: E731
    return {MEMCPY: copy, SGD: plain.step, MOMENTUM: momentum.step, ADAM: adam.step}


def milliseconds(action: Callable[[], object], calls: int, device: str) -> float:
    """Of one call, over a few; on CUDA until the device has done them."""
    settle = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    settle()
    begun = time.perf_counter()
    for _ in range(calls):
        action()
    settle()
    return 1e3 * (time.perf_counter() - begun) / calls


class Table:
    """The readings of one size and number of threads."""

    def __init__(self, name: str, size: Size, device: str) -> None:
        self.name, self.size, self.device = name, size, device
        self.threads = torch.get_num_threads()
        self.buffers = Buffers(size.parameters, device)
        self.references = references(self.buffers)
        self.cases: dict[tuple[str, str, bool], Callable[[], object]] = {}
        self.rules: dict[str, Rule] = {}
        self.alone: dict[str, list[float]] = {word: [] for word in self.references}
        self.sittings: dict[tuple[str, str, bool], list[dict[str, float]]] = {}

    def add(self, name: str, path: str) -> None:
        """A rule's commit and exchange on a path; compiles it."""
        rule = self.rules.setdefault(name, make_rule(name))
        built = COMMIT_PATHS.load(path)(rule, self.buffers.layout, threads=self.threads)
        case = Case(rule, built, self.buffers)
        for exchange in (False, True):
            self.cases[name, path, exchange] = lambda exchange=exchange: case(exchange=exchange)

    def measure(self) -> None:
        """Rounds, in each of which every case is timed right after its references."""
        for action in (*self.references.values(), *self.cases.values()):
            milliseconds(action, 1, self.device)  # states and pages are there
        begun = time.perf_counter()
        for done in range(self.size.rounds):
            if done >= 3 and time.perf_counter() - begun > self.size.seconds:
                break
            self.alone[SGD].append(self.timed(self.references[SGD]))
            for key, action in self.cases.items():
                self.sit(key, action)

    def sit(self, key: tuple[str, str, bool], action: Callable[[], object]) -> None:
        """One reading of a case and of its references, one after the other."""
        words = dict.fromkeys([MEMCPY, ADAM, YARDSTICKS.get(key[0], ADAM)])
        sitting = {word: self.timed(self.references[word]) for word in words}
        for word, found in sitting.items():
            self.alone[word].append(found)
        self.sittings.setdefault(key, []).append({**sitting, "it": self.timed(action)})

    def timed(self, action: Callable[[], object]) -> float:
        """Milliseconds of a call."""
        return milliseconds(action, self.size.calls, self.device)

    def rows(self) -> list[dict]:
        """References first, then the cases in the order of the registry."""
        rows = [self.reference_row(word, found) for word, found in self.alone.items() if found]
        return rows + [self.case_row(*key, sittings) for key, sittings in self.sittings.items()]

    def about(self, what: str, streams: int, readings: Sequence[float]) -> dict:
        """What every row says."""
        middle = statistics.median(readings)
        return {
            "parameters": self.name,
            "threads": self.threads,
            "what": what,
            "ms": rounded(middle),
            "its middle half": middle_half(readings),
            "readings": len(readings),
            "streams": streams,
            "GB/s": rounded(4e-6 * self.size.parameters * streams / middle),
        }

    def reference_row(self, word: str, found: Sequence[float]) -> dict:
        """A row of one of torch's own."""
        return {"rule": word, "path": "torch", **self.about("step", STREAMS[word], found)}

    def case_row(self, name: str, path: str, exchange: bool, sittings: Sequence[Mapping[str, float]]) -> dict:
        """A row of one rule."""
        rule, yardstick = self.rules[name], YARDSTICKS.get(name, ADAM)
        streams = streams_of(rule, exchange)
        limit = limit_of(rule, path) if exchange and self.name == LIMITED else None
        ratios = [STREAMS[yardstick] / streams * sitting["it"] / sitting[yardstick] for sitting in sittings]
        copies = [sitting["it"] / sitting[MEMCPY] for sitting in sittings]
        ratio = statistics.median(ratios)
        return {
            "rule": name,
            "path": path,
            **self.about("exchange" if exchange else "commit", streams, [sitting["it"] for sitting in sittings]),
            "read passes": rule.compensation.read_passes,
            "traffic": streams + (exchange and not rule.compensation.reads_backup),
            "over memcpy": rounded(statistics.median(copies)),
            "against": f"{yardstick} x {streams}/{STREAMS[yardstick]}",
            "ratio": rounded(ratio),
            "its middle half, ratio": middle_half(ratios),
            "limit": limit,
            "within": None if limit is None else ratio <= limit,
        }


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def middle_half(values: Sequence[float]) -> list[float]:
    """From the first to the third quarter."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return [rounded(low), rounded(high)]


def wanted(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Rules and paths; in a quick run one rule is compiled."""
    pairs = [(rule, path) for rule in options.rules for path in options.paths]
    return [pair for pair in pairs if pair[1] != "compiled" or not options.quick or pair[0] == ONE]


def times(options: argparse.Namespace) -> list[dict]:
    """Every size's rows, with this process's number of threads."""
    rows = []
    for name in options.sizes:
        table = Table(name, (QUICK if options.quick else SIZES)[name], options.device)
        pairs = wanted(options)
        groups = [pairs] if table.size.together else [[p for p in pairs if p[0] == rule] for rule in options.rules]
        for group in groups:
            begun = time.perf_counter()
            for rule, path in group:
                table.add(rule, path)
            say(f"{name}, {table.threads} threads, {' '.join(dict.fromkeys(r for r, _ in group))}:")
            say(f"  ready after {time.perf_counter() - begun:.1f} s")
            table.measure()
            table.cases.clear()  # and with them their states
        rows += table.rows()
    return rows


def memory(options: argparse.Namespace) -> list[dict]:
    """Peak of the process during 20 commits, over what it held before them, in MB, for every rule of one path."""
    parameters = 20_000 if options.quick else SIZES["25.6 M"].parameters
    jobs = [(rule, path, 1) for rule, path in wanted(options)]
    jobs += [(rule, path, 4) for rule, path in wanted(options) if rule == ONE and not options.quick]
    rows = []
    for name, path, contributions in jobs:
        rows.append(peak(name, path, contributions, Buffers(parameters, options.device)))
        say(f"memory: {name}, {path}, contributions: {contributions}")
    return rows


def peak(name: str, path: str, contributions: int, buffers: Buffers) -> dict:
    """One row: exchanges with one contribution, or commits of several."""
    rule, several = make_rule(name), contributions > 1
    built = COMMIT_PATHS.load(path)(rule, buffers.layout)
    built.prepare(mirrored=not several, several=several)
    spec = rule.compensation.state_spec()
    full = {word: buffers.gradient for word in spec}
    shared = {word: full[word] for word, how in spec.items() if how == SHARED}
    own = {word: full[word] for word in spec if word not in shared}
    built.load_state_dict({"optimizer": {}, "shared": shared, "workers": dict.fromkeys(range(contributions), own)})
    facts = Facts(staleness=1, lr=1e-4, version=5, live=2, step=5)
    gradients = [buffers.gradient.clone() for _ in range(contributions)]
    slots = [buffers.weights.clone() for _ in range(contributions)]
    weight = 1.0 / contributions
    parts = [Part(k, gradients[k], slots[k], facts, weight) for k in range(contributions)]
    held = Held(buffers.weights.device)
    for _ in range(20):
        built.apply(buffers.weights, parts, mirrors=[] if several else slots)
    return {
        "rule": name,
        "path": path,
        "contributions": contributions,
        "parameters": buffers.layout.size,
        "state, MB": rounded(built.state_bytes() / 1e6),
        "peak beyond it, MB": rounded(held.beyond() / 1e6),
        "limit, MB": MEMORY_LIMIT,
    }


PARTS = {"times": times, "memory": memory}


def in_its_own_process(options: argparse.Namespace, words: Sequence[str]) -> list[dict]:
    """The rows of one part, from a process that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rows.json"
        call = [sys.executable, __file__, "--alone", "--output", str(found), "--device", options.device, *words]
        for word in ("sizes", "rules"):
            call += [f"--{word}", *getattr(options, word)]
        subprocess.run(call, check=True)
        rows: list[dict] = json.loads(found.read_text())
        return rows


def all_of(options: argparse.Namespace) -> dict[str, list[dict]]:
    """Every part, one process after the other; in a quick run in this one."""
    if options.quick:
        torch.set_num_threads(1)
        return {part: PARTS[part](options) for part in options.parts}
    found: dict[str, list[dict]] = {part: [] for part in options.parts}
    if "times" in found:
        for threads in options.threads:
            words = ["--parts", "times", "--threads", str(threads), "--paths", *options.paths]
            found["times"] += in_its_own_process(options, words)
    if "memory" in found:
        for path in options.paths:
            found["memory"] += in_its_own_process(options, ["--parts", "memory", "--threads", "1", "--paths", path])
    return found


COLUMNS = {
    "times": ("what", "ms", "GB/s", "over memcpy", "ratio", "its middle half, ratio", "limit"),
    "memory": ("contributions", "state, MB", "peak beyond it, MB", "limit, MB"),
}


def show(part: str, rows: Sequence[dict]) -> None:
    """The table of one part; the readings' spread and what they are against stand in the JSON."""
    block = None
    for row in rows:
        if block != (block := (row["parameters"], row.get("threads", 1))):
            print(f"\n{block[0]} parameters, threads: {block[1]}\n{'':34}" + "".join(f"{c:>24}" for c in COLUMNS[part]))
        cells = [row.get(column) for column in COLUMNS[part]]
        print(f"{row['rule']:24}{row['path']:10}" + "".join(f"{'' if c is None else str(c):>24}" for c in cells))


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, proves nothing")
    parser.add_argument("--sizes", nargs="+", choices=(*SIZES, *QUICK), help="all")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--threads", nargs="+", type=int, help="1 2; with a device that is no CPU: 1")
    parser.add_argument("--paths", nargs="+", choices=COMMIT_PATHS.names(), default=COMMIT_PATHS.names())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args(words)
    options.threads = options.threads or ([1, 2] if options.device == "cpu" else [1])
    options.sizes = options.sizes or list(QUICK if options.quick else SIZES)
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    if options.alone:
        torch.set_num_threads(options.threads[0])
        options.output.write_text(json.dumps(PARTS[options.parts[0]](options)))
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
