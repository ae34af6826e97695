"""How long until something happens: import, help, the first commit of a run.

    python benchmarks/start_up.py [--quick] [--parts imports commits] [--rounds 5]
        [--output results/bench/start-up.json]

*Imports*: seconds of `import torch` in a new process, of `import tardigrad` after it, of every public name of tardigrad
after that; of `tardigrad --help`, and beside it of a Python that does nothing. *Commits*: seconds from the command
`tardigrad train digits` to the first commit, simulated; and with four local workers to the first order of the last of
them, by the run's own log. Each on the exact path, and on the compiled one with an empty cache on the disk and with a
full one. All is measured in turn, round after round, and each time in a new process; shown are medians and middle
halves. About five minutes.
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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tardigrad.config import RunConfig
from tardigrad.environment import environment
from tardigrad.logs import read_events

LIMITS = {"import tardigrad after it": 0.3, "tardigrad --help": 0.5}  # seconds

IMPORTS = """
import json, time
moments = [time.perf_counter()]
import torch
moments.append(time.perf_counter())
import tardigrad
moments.append(time.perf_counter())
for name in tardigrad.__all__:
    getattr(tardigrad, name)
moments.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(moments, moments[1:])]))
"""

# The command, ended by the server at its first commit; server.py is loaded in any run.
FIRST_COMMIT = """
import os, sys, time
from tardigrad.cli import main
from tardigrad.server import ParameterServer
receive = ParameterServer.receive
def first(self, *given, **named):
    receive(self, *given, **named)
    os.write(1, f"at {time.time()}\\n".encode())
    os._exit(0)
ParameterServer.receive = first
main(sys.argv[1:])
"""


# One after the other, with a cache on the disk that is empty before the first.
WAYS = {"exact": "exact", "compiled, empty cache": "compiled", "compiled, from the cache": "compiled"}


def seconds_of_imports() -> dict[str, float]:
    """Of the three, in one new process."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
    names = ("import torch", "import tardigrad after it", "every public name after that")
    return dict(zip(names, json.loads(done.stdout), strict=True))


def seconds_until_the_end(*words: str) -> float:
    """Of a Python."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def first_commit(words: Sequence[str], place: Path, variables: dict[str, str]) -> float:
    """Seconds from the command of a simulated run to its first commit."""
    call = [sys.executable, "-c", FIRST_COMMIT, *words, "--directory", str(place)]
    begun = time.time()
    done = subprocess.run(call, capture_output=True, text=True, env=variables)
    moments = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("at ")]
    if not moments:
        raise RuntimeError(f"no commit; the command ended with {done.returncode}: {done.stderr}")
    return float(moments[0]) - begun


def all_compute(words: Sequence[str], place: Path, variables: dict[str, str], workers: int) -> float:
    """Seconds from the command to the first order of the last worker."""
    call = [sys.executable, "-m", "tardigrad", *words, "--directory", str(place)]
    begun = time.time()
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run, zero = subprocess.Popen(call, env=variables, **silent), None
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


def imports(options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """One reading of each, round after round."""
    for _ in range(options.rounds):
        yield {
            **seconds_of_imports(),
            "a Python that does nothing": seconds_until_the_end("-c", "pass"),
            "tardigrad --help": seconds_until_the_end("-m", "tardigrad", "--help"),
        }


def commits(options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """One reading of each, round after round; the full cache is that of the run before."""
    epochs = 2 * options.workers  # long enough for the last to come before the others are done
    local = ["--engine", "local", "--workers", str(options.workers), "--epochs", str(epochs)]
    cases: dict[str, tuple[list[str], Callable[..., float]]] = {
        "simulated, first commit": ([], first_commit),
        f"{options.workers} local workers, all compute": (local, partial(all_compute, workers=options.workers)),
    }
    for _ in range(options.rounds):
        found = {}
        for case, (words, seconds) in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                variables = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "cache")}
                for number, way in enumerate(options.ways):
                    call = ["train", "digits", *words, "--commit-path", WAYS[way]]
                    found[f"{case}, {way}"] = seconds(call, Path(folder) / f"run-{number}", variables)
        yield found


PARTS = {"imports": imports, "commits": commits}


def row(what: str, readings: Sequence[float]) -> dict[str, object]:
    """Median and middle half, in seconds; and the limit where there is one."""
    middle, limit = statistics.median(readings), LIMITS.get(what)
    low, _, high = statistics.quantiles(readings, n=4, method="inclusive") if len(readings) > 1 else [*readings] * 3
    return {
        "what": what,
        "seconds": round(middle, 3),
        "its middle half": [round(low, 3), round(high, 3)],
        "limit": limit,
        "within": None if limit is None else middle <= limit,
        "readings": [round(each, 3) for each in readings],
    }


def measured(part: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """The rows of one part."""
    found: dict[str, list[float]] = {}
    for number, reading in enumerate(PARTS[part](options), 1):
        print(f"{part}, round {number} of {options.rounds}", file=sys.stderr, flush=True)
        for what, seconds in reading.items():
            found.setdefault(what, []).append(seconds)
    return [row(what, readings) for what, readings in found.items()]


def show(rows: Sequence[dict[str, object]]) -> None:
    """The table."""
    for each in rows:
        limit = f"   at most {each['limit']}: {'yes' if each['within'] else 'NO'}" if each["limit"] else ""
        low, high = each["its middle half"]
        print(f"{each['what']:64}{each['seconds']:8.3f} s   [{low:.3f}, {high:.3f}]{limit}", flush=True)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once, two workers, nothing compiled: proves nothing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, help="5")
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args(words)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.workers = 2 if options.quick else 4
    options.ways = ["exact"] if options.quick else list(WAYS)
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    found = {part: measured(part, options) for part in options.parts}
    for rows in found.values():
        show(rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(RunConfig()), "recipe": "digits", "workers": options.workers, **found}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
