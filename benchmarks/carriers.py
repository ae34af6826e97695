"""Carriers: a gradient to the server and the new weights back, between two processes of one machine.

    python benchmarks/carriers.py [--quick] [--carriers slots gloo rpc queue ray] [--rounds 5]
        [--output results/bench/carriers.json]

*Carriers*: Tardigrad's local engine beside four recipes of others, written for this comparison in the shape that their
tutorials show: a pair of torch.distributed ranks (gloo, send and recv), a parameter server over torch.distributed.rpc,
one over two torch.multiprocessing queues, and one of Ray's actors. Each has one worker, whose gradient is written anew
but not computed; the server takes one step of plain SGD on flat float32 weights (in the recipes ``add_``, the least it
can do), and the worker ends with the new weights in a tensor that a model can compute on. An *exchange* is the time
between the two, measured in the worker; less the commit, as its server measures it, it is what was *carried*.

A machine's speed drifts: all carriers of a size stand ready at once, each exchanges some times, then the next, round
after round, and a ratio is taken within a round. What counts is the median over the rounds, and its middle half is
shown. The first exchanges of a turn, when processes have just slept, do not count.

*Exchanges*: the local engine's own, by rule and commit path, each beside a commit alone in the same process and in turn
(no snapshot is written), and beside a commit that writes a snapshot in the same pass, as it does for a worker's slot:
the one ratio says what it costs that somebody else gets the weights, the other what the second process adds. Under asgd
the snapshot alone is a stream of four, and its lines are fetched before they are written: five in place of three.
Rules that repair a gradient have two workers, which take turns, so that each is one commit late.

What memory costs shows in the recipes: a tensor of 100 MB that is made anew for each message is given back to the
kernel by glibc's allocator, which has to fault its pages in for the next one, 25,000 of them. Ray's arrays lie in
shared memory that is used again, as the slots do, so at the large size it comes nearest: beside the commit an exchange
copies 100 MB three times, the gradient and the weights into its store and the weights into the model.

About four minutes on free cores, and a minute more where these rules were never compiled; 6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parts.talking import Reply, Talk, started

from tardigrad.config import RunConfig
from tardigrad.environment import environment

PARTS = Path(__file__).resolve().parent / "parts"
SIZES = {"0.27 M": 272_474, "25.6 M": 25_557_032}  # ResNet-20 and ResNet-50
CARRIERS = {
    "slots": "slots, Tardigrad's own on one machine",
    "gloo": "gloo, a pair of torch.distributed ranks",
    "rpc": "rpc, torch.distributed's as its tutorial",
    "queue": "queue, two of torch.multiprocessing",
    "ray": "ray, actors as in its example",
}
EXCHANGES = (
    ("asgd", "exact", 1),
    ("asgd", "compiled", 1),
    ("dc-asgd-c", "compiled", 2),
    ("dc-asgd-a", "exact", 2),
    ("dc-asgd-a", "compiled", 2),
    ("dc-asgd", "compiled", 2),
)
NAMES = {"exchange": "exchange", "commit": "commit", "pulled": "commit and snapshot in one process"}
PEER, RATIO, MILLISECONDS = 3.0, 1.3, 0.5  # limits: times the slots; times the commit at 25.6 M; at 0.27 M
_SILENCE = 120.0  # seconds after which a process that says nothing is given up


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    bytes_a_turn: float
    most: int

    def times(self, parameters: int) -> int:
        """Exchanges of one turn."""
        return max(3, min(self.most, int(self.bytes_a_turn / (4 * parameters))))


class Carrier(Talk):
    """A carrier's worker process, which has started its server's. ``missing`` says why there is none."""

    def __init__(self, name: str, **told: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="carrier-", ignore_cleanup_errors=True)
        words = json.dumps({"folder": self._folder.name, **told})
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close
        command = [sys.executable, str(PARTS / f"carrier_{name}.py"), words]
        super().__init__([started(command, errors)], errors, silence=_SILENCE)
        self.hear()

    def close(self) -> None:
        """End it, and what it started."""
        super().close()
        self._folder.cleanup()


def memcpy(parameters: int) -> Callable[[], float]:
    """Seconds of one copy of as many float32 as there are parameters."""
    source, target = torch.randn(parameters), torch.zeros(parameters)

    def copy() -> float:
        times = max(1, int(1e8 / (4 * parameters)))
        begun = time.perf_counter()
        for _ in range(times):
            target.copy_(source)
        return (time.perf_counter() - begun) / times

    return copy


def carrier_rows(
    name: str, parameters: int, *, carriers: Sequence[str], effort: Effort, path: str
) -> list[dict[str, Any]]:
    """All carriers of one size, in turn; ``path``: of Tardigrad's own commits."""
    copy, times = memcpy(parameters), effort.times(parameters)
    replies: dict[str, list[Reply]] = {carrier: [] for carrier in carriers}
    copies = []
    with ExitStack() as stack:
        started = {
            carrier: stack.enter_context(Carrier(carrier, parameters=parameters, path=path)) for carrier in carriers
        }
        for _ in range(effort.rounds):
            copies.append(copy())
            for carrier, process in started.items():
                replies[carrier].append(process.turn(times))
        missing = {carrier: process.missing for carrier, process in started.items()}
    rows = []
    for carrier in carriers:
        row: dict[str, Any] = {"parameters": name, "carrier": CARRIERS[carrier]}
        if missing[carrier]:
            rows.append(row | {"missing": missing[carrier]})
            continue
        row |= measured(replies[carrier]) | spread("memcpy, ms", [1e3 * each for each in copies])
        if "slots" in replies and not missing["slots"]:
            row |= spread("times the slots", ratios(replies[carrier], replies["slots"]))
        rows.append(row)
    return rows


def exchange_rows(sizes: Mapping[str, int], cases: Sequence[tuple[str, str, int]], effort: Effort) -> list[dict]:
    """The local engine's exchange beside its commit, case after case."""
    rows = []
    for name, parameters in sizes.items():
        for rule, path, workers in cases:
            row: dict[str, Any] = {"parameters": name, "rule": rule, "path": path, "workers": workers}
            with Carrier("slots", parameters=parameters, rule=rule, path=path, workers=workers) as process:
                replies = [process.turn(effort.times(parameters)) for _ in range(effort.rounds)]
            if process.missing:
                rows.append(row | {"missing": process.missing})
            else:
                rows.append(row | measured(replies) | over(replies, "commit") | over(replies, "pulled"))
            print(line(rows[-1]), flush=True)
    return rows


def measured(replies: Sequence[Reply]) -> dict[str, Any]:
    """Milliseconds of exchange and commit."""
    row: dict[str, Any] = {"path": replies[0]["path"]} if "path" in replies[0] else {}
    for what in ("exchange", "commit", "pulled"):
        if what in replies[0]:
            row |= spread(f"{NAMES[what]}, ms", [1e3 * middle(each[what]) for each in replies])
    row |= spread("carried, ms", [1e3 * (middle(each["exchange"]) - middle(each["commit"])) for each in replies])
    return row | {
        "rounds": [[round(1e3 * middle(each[what]), 4) for what in ("exchange", "commit")] for each in replies]
    }


def over(replies: Sequence[Reply], what: str) -> dict[str, Any]:
    """An exchange in times of what its server does alone."""
    return spread(f"times its {NAMES[what]}", [middle(each["exchange"]) / middle(each[what]) for each in replies])


def ratios(ours: Sequence[Reply], theirs: Sequence[Reply]) -> list[float]:
    pairs = zip(ours, theirs, strict=True)
    return [middle(mine["exchange"]) / middle(other["exchange"]) for mine, other in pairs]


def middle(readings: Sequence[float]) -> float:
    return statistics.median(readings)


def spread(what: str, readings: Sequence[float]) -> dict[str, Any]:
    """The median over the rounds, and the two ends of the middle half."""
    low, _, high = statistics.quantiles(readings, n=4, method="inclusive")
    return {what: round(middle(readings), 4), f"{what}: middle half": [round(low, 4), round(high, 4)]}


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    words = []
    for key, value in row.items():
        half = row.get(f"{key}: middle half")
        if half is not None:
            words.append(f"{key} {value:.4g} ({half[0]:.4g} to {half[1]:.4g})")
        elif not isinstance(value, list):
            words.append(f"{key} {value}" if key in ("path", "workers", "missing") else str(value))
    return "   ".join(words)


def verdicts(found: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """What was to be reached, and whether it is."""
    words = []
    for row in found["carriers"]:
        if "times the slots" in row and row["carrier"] != CARRIERS["slots"]:
            times = row["times the slots"]
            words.append(verdict(f"{row['parameters']}: {row['carrier']}, times the slots", times, PEER))
    for row in found["exchanges"]:
        if row["parameters"] == "25.6 M" and "times its commit" in row:
            ratio, name = row["times its commit"], f"25.6 M: {row['rule']}, {row['path']}, exchange over commit"
            words.append(verdict(name, ratio, RATIO, most=True))
        if row["parameters"] == "0.27 M" and "exchange, ms" in row:
            took, name = row["exchange, ms"], f"0.27 M: {row['rule']}, {row['path']}, exchange, ms"
            words.append(verdict(name, took, MILLISECONDS, most=True))
    return words


def verdict(what: str, found: float, limit: float, *, most: bool = False) -> str:
    """Whether at least that was found; with ``most`` at most."""
    reached = found <= limit if most else found >= limit
    return f"{'reached' if reached else 'MISSED '} ({limit:g})   {what}: {found:.3g}"


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, short, without ray and without a compiler")
    parser.add_argument("--carriers", nargs="+", choices=CARRIERS, default=list(CARRIERS), help="which, all by default")
    parser.add_argument("--parts", nargs="+", choices=("carriers", "exchanges"), default=["carriers", "exchanges"])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, at least 2")
    parser.add_argument("--output", type=Path, help="write the tables as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(1)
    quick = options.quick
    sizes, cases = ({"1,000": 1000}, EXCHANGES[:1]) if quick else (SIZES, EXCHANGES)
    effort = Effort(2, 1e4, 5) if quick else Effort(options.rounds, 6e8, 60)
    found: dict[str, list[dict[str, Any]]] = {"carriers": [], "exchanges": []}
    for name, parameters in sizes.items() if "carriers" in options.parts else ():
        carriers = [carrier for carrier in options.carriers if not (quick and carrier == "ray")]
        rows = carrier_rows(name, parameters, carriers=carriers, effort=effort, path="exact" if quick else "auto")
        if quick and "ray" in options.carriers:
            rows.append({"parameters": name, "carrier": CARRIERS["ray"], "missing": "left out of --quick"})
        print("\n".join(line(row) for row in rows), flush=True)
        found["carriers"] += rows
    if "exchanges" in options.parts:
        found["exchanges"] = exchange_rows({"1,000": 1000}, EXCHANGES[:1], effort)
        found["exchanges"] += [] if quick else exchange_rows(sizes, cases, effort)
    judged = verdicts(found)
    print("\n".join(judged), flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(RunConfig(threads=1)), **found, "limits": judged}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
