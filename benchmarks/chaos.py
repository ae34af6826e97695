"""Seeded chaos on real workers: every run must end, keep its promises, replay bit for bit and leave nothing behind.

    python benchmarks/chaos.py [--runs 200] [--quick] [--work runs/chaos] [--output results/bench/chaos.json]

Each run trains the digits with four worker processes by `tardigrad train --engine local --chaos SEED` in a process
of its own. Rule, consistency and leases go by the seed. Of every eight seeds one also kills the server from inside,
at a version that its plan names, and one has it killed from here, at a random moment; both are then taken up by
`tardigrad train --resume`. After each run its status, audit and replay are looked at, and whatever is left: processes
of its session, files in /dev/shm, temporary files. A run that takes longer than --limit seconds counts as hung.

Results are appended to results.jsonl in --work, and runs found there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tardigrad.audit import audit
from tardigrad.chaos import expected_pushes, fault_plan
from tardigrad.config import RunConfig
from tardigrad.environment import environment
from tardigrad.errors import TardigradError
from tardigrad.logs import read_events
from tardigrad.recipes import load_recipe
from tardigrad.replaying import replay
from tardigrad.seeding import random_stream

WORKERS, SAMPLES = 4, 1257  # of the digits' training set
RULES = ("asgd", "dc-asgd-a")
CONSISTENCIES = ("asynchronous", "ssp(2)", "synchronous")
LEASES = ("dynamic", "static")
FROM_INSIDE, FROM_OUTSIDE = 3, 7  # seeds of every eight whose server is killed
GRACE = 10.0  # seconds in which processes whose server was killed must have ended
MOST_ATTEMPTS = 5


@dataclass
class Result:
    """What became of one run."""

    seed: int
    settings: dict[str, Any]
    chaos: str
    planned: dict[str, int]
    """Faults of the plan by kind."""
    seconds: float = 0.0
    attempts: int = 0
    killed: int = 0
    """How often its server was killed."""
    resumed: int = 0
    begun_anew: int = 0
    """Killed before there was a checkpoint."""
    hung: bool = False
    status: str = ""
    commits: int = 0
    lost: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    """Failures by kind, restarts, and pushes rejected by reason."""
    audit: str = ""
    replay: str = ""
    leftovers: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether it kept every promise."""
        ended = self.status == "finished" and not (self.hung or self.leftovers or self.error)
        return ended and self.audit == self.replay == "ok"


def settings_of(seed: int, epochs: int) -> dict[str, Any]:
    """Rule, consistency and leases: all twelve combinations in turn."""
    return {
        "rule": RULES[seed % 2],
        "consistency": CONSISTENCIES[seed // 2 % 3],
        "leases": LEASES[seed // 6 % 2],
        "workers": WORKERS,
        "epochs": epochs,
        "seed": seed,
        "threads": 1,
        "hang_after": 2.0,
        "first_step": 20.0,
        "checkpoint_every": 0.005,  # minutes: three a second
        "digest_every": 20,
    }


def chaos_of(seed: int) -> str:
    return f"{seed}+server" if seed % 8 == FROM_INSIDE else str(seed)


def command(place: Path, settings: dict[str, Any], chaos: str) -> list[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ["train", "digits", "--engine=local", f"--chaos={chaos}", f"--directory={place}", *options]


def make(seed: int, options: argparse.Namespace) -> Result:
    """One run, taken up again until it has ended."""
    settings, chaos, place = settings_of(seed, options.epochs), chaos_of(seed), options.work / f"run-{seed}"
    batch = load_recipe("digits").batch_size
    plan = fault_plan(chaos, workers=WORKERS, pushes=expected_pushes(SAMPLES, batch, epochs=options.epochs))
    result = Result(seed, settings, chaos, dict(Counter(fault.kind for fault in plan.faults)))
    shutil.rmtree(place, ignore_errors=True)
    since = time.perf_counter()
    words = command(place, settings, chaos)
    moment = float(random_stream(seed, "killed from outside").uniform(0.0, 0.25 * options.epochs))
    kill_after = moment if seed % 8 == FROM_OUTSIDE else None
    while result.attempts < MOST_ATTEMPTS:
        code, told = attempt(words, place, kill_after, result, options.limit)
        if code != -signal.SIGKILL or result.hung:
            result.error = "" if code == 0 else f"exit code {code}: {told[-600:]}"
            break
        result.killed, kill_after = result.killed + 1, None
        words = next_words(place, settings, chaos, result)
    result.seconds = round(time.perf_counter() - since, 2)
    judge(place, result)
    if result.good and not options.keep:
        shutil.rmtree(place)
    return result


def next_words(place: Path, settings: dict[str, Any], chaos: str, result: Result) -> list[str]:
    """How the run goes on after its server was killed."""
    if any(place.glob("checkpoint*.json")):
        result.resumed += 1
        return ["train", "--resume", str(place)]
    result.begun_anew += 1
    shutil.rmtree(place, ignore_errors=True)
    return command(place, settings, chaos.removesuffix("+server"))


def attempt(
    words: Sequence[str], place: Path, kill_after: float | None, result: Result, limit: float
) -> tuple[int, str]:
    """Run the command in a session of its own, and look at what it leaves; return its exit code and what it said."""
    result.attempts += 1
    temporary = Path(tempfile.mkdtemp(prefix="chaos-"))  # a short path: a socket in it may have 107 letters
    shared, told = set(os.listdir("/dev/shm")), place.with_name(f"{place.name}-attempt-{result.attempts}.txt")
    with told.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tardigrad", *words],
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )
        if kill_after is not None:
            kill_when_it_trains(process, place, kill_after)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            result.hung = True
            process.kill()
            code = process.wait()
    left = left_behind(process.pid, shared, temporary, killed=code < 0)
    result.leftovers += left
    text = told.read_text()
    shutil.rmtree(temporary)
    if code in (0, -signal.SIGKILL):
        told.unlink()
    return code, text


def kill_when_it_trains(process: subprocess.Popen, place: Path, seconds: float) -> None:
    """Kill the server so many seconds after the first line of its log, unless it has ended by then."""
    log = place / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def left_behind(session: int, shared: set[str], temporary: Path, *, killed: bool) -> list[str]:
    """Processes of the session that do not end by themselves in time, new files in /dev/shm, temporary files."""
    with descriptors(members(session)) as ends:
        deadline = time.monotonic() + GRACE
        for end in ends:
            select.select([end], [], [], max(0.0, deadline - time.monotonic()))
    found = [f"process {pid} {name}" for pid, name in members(session).items()]
    for pid in members(session):
        os.kill(pid, signal.SIGKILL)  # it was started here, by the run that left it
    found += [f"/dev/shm/{name}" for name in sorted(set(os.listdir("/dev/shm")) - shared)]
    # A process that is killed cannot remove the folder in which Python keeps its forkserver's socket.
    files = [path.relative_to(temporary) for path in temporary.rglob("*")]
    return found + [f"temporary file {path}" for path in files if not (killed and path.parts[0].startswith("pymp-"))]


def members(session: int) -> dict[int, str]:
    """Living processes of a session: number and name."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name, _, after = (folder / "stat").read_text().rpartition(")")
            except OSError:  # it has ended meanwhile
                continue
            state, _, _, its_session = after.split()[:4]
            if int(its_session) == session and state not in "ZX":
                found[int(folder.name)] = name.partition("(")[2]
    return found


@contextmanager
def descriptors(processes: dict[int, str]) -> Iterator[list[int]]:
    """Descriptors that become readable when their process ends."""
    opened = []
    for pid in processes:
        try:
            opened.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


def judge(place: Path, result: Result) -> None:
    """Status, audit and replay of what the run recorded."""
    try:
        summary = json.loads((place / "summary.json").read_text())
        result.status, result.commits, result.lost = summary["status"], summary["commits"], summary["lost_samples"]
        result.seen = seen(place)
        found = audit(place)
        result.audit = "ok" if found.ok else found.verdict
        replayed = replay(place)
        result.replay = "ok" if replayed.equal and replayed.compared_end else replayed.verdict
    except (OSError, ValueError, TardigradError) as error:
        result.error += f" {type(error).__name__}: {error}"
    result.leftovers += [f"file {path.name}" for path in place.glob("*.tmp")]


def seen(place: Path) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for event in read_events(place):
        if event[0] == "fail":
            counted[event[5]] += 1
        elif event[0] == "join":
            counted["restarts"] += 1
        elif event[0] == "reject":
            counted[f"rejected as {event[6]}"] += 1
    return dict(counted)


def summarised(results: Sequence[Result]) -> dict[str, Any]:
    """The counts of which the claim is made."""
    seconds = sorted(result.seconds for result in results)
    killed = [result for result in results if result.killed]
    planned, observed = Counter[str](), Counter[str]()
    for result in results:
        planned.update(result.planned)
        observed.update(result.seen)
    return {
        "runs": len(results),
        "with all invariants": sum(result.good for result in results),
        "finished": sum(result.status == "finished" for result in results),
        "audits without a finding": sum(result.audit == "ok" for result in results),
        "replays bitwise equal": sum(result.replay == "ok" for result in results),
        "hung": sum(result.hung for result in results),
        "with leftovers": sum(bool(result.leftovers) for result in results),
        "servers killed": sum(result.killed for result in results),
        "of them from outside": sum(result.killed for result in killed if result.seed % 8 == FROM_OUTSIDE),
        "resumed": sum(result.resumed for result in results),
        "killed before the first checkpoint, begun anew": sum(result.begun_anew for result in results),
        "commits": sum(result.commits for result in results),
        "samples lost": sum(result.lost for result in results),
        "faults planned": dict(sorted(planned.items())),
        "seen in the surviving logs": dict(sorted(observed.items())),
        "seconds a run": {"median": seconds[len(seconds) // 2], "longest": seconds[-1]} if seconds else {},
    }


def read_results(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines() if line.endswith("}")]


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="seeds 0, 1, 2 ...")
    parser.add_argument("--quick", action="store_true", help="seeds 1, 3 and 7 over 2 epochs: shows that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", help="these instead")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a process counts as hung")
    parser.add_argument("--work", type=Path, default=Path("runs/chaos"), help="for runs and results.jsonl")
    parser.add_argument("--keep", action="store_true", help="keep the directories of good runs too")
    parser.add_argument("--output", type=Path, help="write the summary as JSON")
    options = parser.parse_args(words)
    if options.quick:
        options.seeds, options.epochs = options.seeds or [1, FROM_INSIDE, FROM_OUTSIDE], min(options.epochs, 2)
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    seeds = options.seeds or list(range(options.runs))
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    book = options.work / "results.jsonl"
    known = {r.seed: r for r in read_results(book) if r.settings == settings_of(r.seed, options.epochs)}
    for seed in seeds:
        if seed in known:
            continue
        known[seed] = result = make(seed, options)
        with book.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(
            f"seed {seed:3}  {result.seconds:5.1f} s  {'ok' if result.good else 'FAILED'}  {told(result)}", flush=True
        )
    results = [known[seed] for seed in seeds]
    summary = summarised(results)
    print(json.dumps(summary, indent=1))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        config = RunConfig(engine="local", threads=1)
        content = {"environment": environment(config), "summary": summary}
        content["not good"] = [asdict(result) for result in results if not result.good]
        content["runs"] = [{name: getattr(result, name) for name in SHORTLY} for result in results]
        options.output.write_text(json.dumps(content, indent=1) + "\n")


SHORTLY = ("seed", "chaos", "seconds", "commits", "killed", "resumed", "planned", "seen")


def told(result: Result) -> str:
    """The line's last words: what was planned, and what is wrong."""
    settings = f"{result.settings['rule']}, {result.settings['consistency']}, {result.settings['leases']}"
    faults = ", ".join(f"{count} {kind}" for kind, count in result.planned.items())
    killed = f"; server killed {result.killed}, resumed {result.resumed}" if result.killed else ""
    wrong = "" if result.good else f"  {asdict(result)}"
    return f"{settings}; {faults}; restarts {result.seen.get('restarts', 0)}{killed}{wrong}"


if __name__ == "__main__":
    main()
