"""What training together gives on one machine: samples and commits a second, and seconds to an error.

    python benchmarks/training.py [--quick] [--parts pace race] [--rounds 3] [--seeds 0 1 2] [--stop-after 55]
        [--race-task small|resnet20] [--data-dir DIR]
    python benchmarks/training.py --table results/bench/training.json

Each worker computes with one thread, in every row; the learning rate is the recipe's unless the row says otherwise.

*Pace*, evaluations off: a small perceptron, whose gradients cost less than their commits, and ResNet-20, whose commits
cost nothing beside its gradients: a plain loop, the simulator, one, two and four real workers, PyTorch's
DistributedDataParallel (gloo, two processes, as in its tutorial) and Hogwild (shared memory, two processes, as in
PyTorch's example). And a small ResNet with two workers of which one is slowed four times: it sleeps until its gradient
has taken four times as long, in every row that says so.

*Race*: seconds of training until the error on 1,000 validation images is at most the target, since samples that are
late are not worth as much. Two workers on two cores, in four scenarios: both alike; one slowed four times; random
stragglers; one that is killed and started again. SSGD and DistributedDataParallel also with the learning rate times
two, which linear scaling asks for; *batch by speed* gives the slow worker a fifth of 64 samples, the fast one the rest.
An arm that is not there within the limit has lost. The clock begins with the first order, when all processes are
built; the evaluations of the plain loop and of DistributedDataParallel stop it, while those of Tardigrad and Hogwild
run beside training, on the same cores.

All is measured in turn, round after round, a round of everything before the next. What is done is kept line by line
in the journal: the same command goes on where a series was stopped or killed. Without CIFAR-10 on the disk the images
are synthetic, of the same shape, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

PARTS = Path(__file__).resolve().parent / "parts"
sys.path.insert(0, str(PARTS))

from training_arms import RUN  # noqa: E402
from training_cases import PACE, SCENARIOS, SETTINGS, Case, Measure, Scenario, race  # noqa: E402
from training_table import markdown, pace_rows, race_rows  # noqa: E402

from tardigrad.data.places import data_directory, find_data_directory  # noqa: E402
from tardigrad.environment import environment  # noqa: E402

STEPS = {"mlp": (100, 3000), "small": (20, 300), "resnet20": (2, 10)}  # to warm up, and to count
GOALS = {"small": (0.5, 60.0), "resnet20": (0.65, 300.0)}  # error, seconds
QUICK_GOAL = (0.8, 2.0)
DEFAULTS = ("small", "cpu")  # not in the name of the file
QUICK_PACE = ("plain loop", "simulated, 4 workers", "2 workers, synchronous")
QUICK_RACE = {"slow": ("batch by speed",), "stragglers": ("plain loop", "Hogwild"), "churn": ("DDP", "dc-asgd")}
START = {"plain": 1.0, "simulated": 1.5, "local": 2.5, "ddp": 6.0, "hogwild": 5.0}  # seconds, and to end


@dataclass(frozen=True)
class Unit:
    """One measurement of the series."""

    part: str
    setting: str
    scenario: str
    case: Case
    turn: int
    """Round, or seed."""

    @property
    def key(self) -> dict[str, Any]:
        """What its line in the journal begins with."""
        words = {"part": self.part, "setting": self.setting, "scenario": self.scenario}
        return words | {"case": self.case.name, "turn": self.turn}

    def expected(self, step: float) -> float:
        """Seconds that it takes, about, if the small ResNet's step takes so many; 0: where all is tiny."""
        if step == 0.0:
            return START[self.case.kind]
        if self.part == "pace":
            return START[self.case.kind] + {"mlp": 3.5, "small": 300 * step, "resnet20": 6.0}[self.setting]
        alone = 1.35 * SETTINGS["small"].size / 32 * step if self.setting == "small" else 6000.0 * step
        return START[self.case.kind] + alone * _burden(self.scenario, self.case)


def _burden(scenario: str, case: Case) -> float:
    """What an arm takes in a scenario, over the plain loop alone."""
    base = 1.0 if case.kind in ("plain", "ddp") else 0.85
    if scenario == "slow":
        return base if case.kind == "plain" else 1.3 if case.batches or not case.tied else 3.3 * base
    if scenario == "stragglers":
        return base * (1.75 if case.synchronous else 1.4)
    if "wait_for" in case.consistency:
        return 1.7
    return base * (1.8 if scenario == "churn" and case.kind == "ddp" else 1.0)


class Journal:
    """Lines of what is done: a header, then one for each start of the series and each measurement."""

    def __init__(self, path: Path | None, plan: dict[str, Any]) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = _whole_lines(path) if path is not None and path.exists() else []
        if self.lines and self.lines[0] != {"plan": plan}:
            raise SystemExit(f"{path} is of another series ({self.lines[0]}); delete it, or type --journal FILE.")
        if not self.lines:
            self.add({"plan": plan})

    def add(self, line: dict[str, Any]) -> None:
        """Write it, so that it stays whatever happens next."""
        self.lines.append(line)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def all(self, name: str) -> list[Any]:
        """Everything of one name."""
        return [line[name] for line in self.lines if name in line]

    def done(self, **words: Any) -> list[dict[str, Any]]:
        """Measurements with these words."""
        return [line for line in self.lines if "found" in line and words.items() <= line.items()]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """A journal's lines; one that was being written when the series was killed is taken out."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


class Series:
    """All that is to be measured, in order."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.setting = options.race_task
        target, limit = QUICK_GOAL if options.quick else GOALS[options.race_task]
        self.target, self.limit = options.target or target, options.limit or limit
        images, self.place = _images(options)
        self.plan = {
            "images": images,
            "target": self.target,
            "limit": self.limit,
            "race": self.setting,
            "quick": options.quick,
            "device": options.device,
        }
        self.journal = Journal(options.journal, self.plan)
        self.journal.add(
            {"environment": environment(SETTINGS[self.setting].config.replace(threads=1, device=options.device))}
        )

    def units(self) -> Iterator[Unit]:
        """A round of everything, then the next; of the last one the race first."""
        rounds, seeds = self.options.rounds, self.options.seeds
        for turn in range(max(rounds, len(seeds))):
            pace, race = self._pace_units(turn), self._race_units(seeds[turn] if turn < len(seeds) else None)
            yield from chain(race, pace) if turn else chain(pace, race)

    def _pace_units(self, turn: int) -> Iterator[Unit]:
        if "pace" in self.options.parts and turn < self.options.rounds:
            for setting in self.options.settings:
                yield from (Unit("pace", setting, "", case, turn) for case in self._pace_cases(setting))

    def _race_units(self, seed: int | None) -> Iterator[Unit]:
        if "race" in self.options.parts and seed is not None:
            for name in self.options.scenarios:
                arms = self._arms(SCENARIOS[name])
                yield from (Unit("race", self.setting, name, case, seed) for case in arms)

    def _pace_cases(self, setting: str) -> list[Case]:
        if self.options.quick:
            return [case for case in PACE[setting] if case.name in QUICK_PACE and setting == "mlp"]
        return [case for case in PACE[setting] if self.options.device == "cpu" or case.kind not in ("ddp", "hogwild")]

    def _arms(self, scenario: Scenario) -> list[Case]:
        arms, quick = race(scenario, batch=_batch(self.setting)), self.options.quick
        return [case for case in arms if not quick or case.name in QUICK_RACE.get(scenario.name, ())]

    def measure_of(self, unit: Unit) -> Measure:
        """What a measurement is told."""
        quick = self.options.quick
        size = (640 if unit.part == "race" else 2560) if quick else SETTINGS[unit.setting].size
        told = Measure(unit.setting, self.plan["images"], self.place, size, device=self.options.device)
        if unit.part == "pace":
            warm_up, steps = (5, 40) if quick else STEPS[unit.setting]
            return replace(told, warm_up=warm_up, steps=steps)
        scenario, deaths = SCENARIOS[unit.scenario], SCENARIOS[unit.scenario].deaths
        return replace(
            told,
            seed=unit.turn,
            judged=40 if quick else 1000,
            target=self.target,
            limit=self.limit,
            chance=scenario.chance,
            nap=round((scenario.factor - 1.0) * self.step(self.setting), 6) if scenario.chance else 0.0,
            death=deaths[unit.turn % len(deaths)] if deaths else 0.0,
        )

    def step(self, setting: str) -> float:
        """Seconds of a plain loop's step, measured when the series began: what a straggler's sleep is made of."""
        for known in self.journal.all("step seconds"):
            if setting in known:
                return known[setting]
        unit = Unit("pace", setting, "", Case("plain loop", "plain"), 0)
        pace = RUN["plain"](unit.case, self.measure_of(unit)).pace
        assert pace is not None
        self.journal.add({"step seconds": {setting: round(_batch(setting) / pace, 6)}})
        return self.step(setting)

    def run(self) -> int:
        """Everything that is not done yet, or as much as there is time for; how many measurements failed."""
        begun = time.monotonic()
        units = [unit for unit in self.units() if not self.journal.done(**unit.key)]
        step, left, failed = self.announce(units), self.options.stop_after * 60.0, 0
        for number, unit in enumerate(units, 1):
            if time.monotonic() - begun + unit.expected(step) > left:
                print(f"stopped after {self.options.stop_after:g} minutes; the same command goes on", flush=True)
                break
            try:
                found = asdict(RUN[unit.case.kind](unit.case, self.measure_of(unit)))
            except Exception:  # the others go on; the same command tries this one again
                traceback.print_exc()
                failed += 1
                continue
            self.journal.add(unit.key | {"found": found})
            self.write()
            print(f"{number}/{len(units)}, {time.monotonic() - begun:.0f} s: {_told(unit, found)}", flush=True)
        return failed

    def announce(self, units: Sequence[Unit]) -> float:
        """Say how much there is to do; seconds of a step, from which that is guessed."""
        if not units:
            print(f"all is in {self.options.journal} already; delete it to measure anew", flush=True)
            return 0.0
        step = 0.0 if self.options.quick else self.step("small")
        minutes = sum(unit.expected(step) for unit in units) / 60.0
        print(f"{len(units)} measurements, about {minutes:.0f} minutes", flush=True)
        return step

    def write(self) -> None:
        """What is known so far, as JSON."""
        output = self.options.output
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(self.found(), indent=1) + "\n")

    def found(self) -> dict[str, Any]:
        """All that is known, as rows."""
        environments = self.journal.all("environment")
        images = "CIFAR-10" if self.plan["images"] == "cifar10" else "synthetic, of CIFAR-10's shape: it is not here"
        whole: dict[str, Any] = {"environment": environments[0], "images": images, "threads of each worker": 1}
        if len(environments) > 1:
            whole["continued"] = [{name: one[name] for name in ("started", "commit")} for one in environments[1:]]
        whole["step seconds"] = {name: s for known in self.journal.all("step seconds") for name, s in known.items()}
        pace = {name: self.journal.done(part="pace", setting=name) for name in PACE}
        whole["pace"] = {name: pace_rows(name, lines) for name, lines in pace.items() if lines}
        if lines := self.journal.done(part="race"):
            whole |= {"race task": SETTINGS[self.setting].title, "target error": self.target}
            whole |= {"limit": self.limit, "scenarios": {one.title: one.words for one in SCENARIOS.values()}}
            whole["race"] = race_rows(lines, batch=_batch(self.setting))
        return whole


def _batch(setting: str) -> int:
    size = SETTINGS[setting].config.batch_size
    assert isinstance(size, int)
    return size


def _images(options: argparse.Namespace) -> tuple[str, str]:
    """Which images there are, and a folder to find them in: the real ones, or else synthetic ones."""
    with data_directory(options.data_dir):
        place = find_data_directory()
    there = any((place / name).exists() for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz"))
    return ("cifar10" if there and not options.quick else "synthetic"), str(place)


def _told(unit: Unit, found: dict[str, Any]) -> str:
    """A line of progress."""
    if unit.part == "pace":
        words = f"{found['pace']:,.0f} samples/s, {found['commits']:,.1f} commits/s"
        return f"pace, {unit.setting}, round {unit.turn + 1}: {unit.case.name}: {words}"
    reached = "not reached" if found["seconds"] is None else f"{found['seconds']:.1f} s"
    words = f"{reached}, epoch {found['epochs']:.1f}, best {found['best']:.3f}"
    return f"{unit.scenario}, seed {unit.turn}: {unit.case.name}: {words}"


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(words)
    if options.device != "cpu":
        options.parts = ["pace"]
    if options.quick:
        options.rounds, options.seeds = 1, options.seeds[:1]
    else:
        name = "-".join(["training", *(word for word in (options.race_task, options.device) if word not in DEFAULTS)])
        options.journal = options.journal or Path(f"runs/bench/{name}.jsonl")
        options.output = options.output or Path(f"results/bench/{name}.json")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few steps of a few cases: shows that it runs, proves nothing")
    add("--parts", nargs="+", choices=("pace", "race"), default=["pace", "race"])
    add("--settings", nargs="+", choices=tuple(PACE), default=list(PACE), help="of the pace")
    add("--scenarios", nargs="+", choices=tuple(SCENARIOS), default=list(SCENARIOS), help="of the race")
    add("--race-task", choices=tuple(GOALS), default="small", help="what is trained in the race")
    add("--rounds", type=int, default=3, help="measurements of each pace, in turn; with --quick one")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the race; with --quick the first")
    add("--target", type=float, help="validation error to reach; by default 0.5, for ResNet-20 0.65, quick 0.8")
    add("--limit", type=float, help="seconds of training after which an arm has lost; by default 60, for ResNet-20 300")
    add("--stop-after", type=float, default=float("inf"), help="minutes after which no measurement is begun")
    add("--device", default="cpu", help="cuda: only a pace, of Tardigrad and the plain loop")
    add("--data-dir", default="", help="folder with CIFAR-10; by default as tardigrad train")
    add(
        "--journal",
        type=Path,
        help="what is done, line by line; by default runs/bench/training.jsonl; with --quick none",
    )
    add("--output", type=Path, help="the tables as JSON; by default results/bench/training.json")
    add("--table", type=Path, metavar="JSON", help="print the tables of such a file as Markdown, and stop")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    if options.table:
        print(markdown(json.loads(options.table.read_text())))
        return
    torch.set_num_threads(1)
    series = Series(options)
    failed = series.run()
    series.write()
    print(markdown(series.found()), flush=True)
    if failed:
        raise SystemExit(f"{failed} measurements failed")


if __name__ == "__main__":
    main()
