"""What else lives between the diagonal and the matrix: six research rules, ASGD and dc-lowrank, tuned alike.

    python benchmarks/between.py [--quick] [--seeds 1 2 3] [--workers 32] [--jobs 2] [--stop-after 55]
        [--arms asgd dc-lowrank kronecker] [--data-dir DIR] [--output results/between.json]

Every arm gets the budget of ``tardigrad compare --tuned --finer 2``: five learning rates, searched from the recipe's
on, then its strength times and over 4 at the best of them (where it has none, two more learning rates), on seed 0; the
choice is by validation data. Then it runs with the seeds that are reported, at the choice and at the untouched recipe.
Reported is the test error, the mean of the last ten evaluations (at most the last half of them), paired by seed with
dc-lowrank.

The rules are written as a stranger would write them: `between_windows.py` (diagonal and low rank, forgetting, applied
directions), `between_factors.py`, `between_secants.py` and `between_prediction.py`, in the folder `parts`. What is done
is kept in run directories: the same command goes on where a series was stopped or killed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PARTS = Path(__file__).resolve().parent / "parts"
sys.path.insert(0, str(PARTS))

from tardigrad.compare import Outcome, run_all  # noqa: E402
from tardigrad.config import RunConfig  # noqa: E402
from tardigrad.data.places import find_data_directory  # noqa: E402
from tardigrad.environment import environment  # noqa: E402
from tardigrad.metrics.runs import Metric, RunRecord, load_run  # noqa: E402
from tardigrad.metrics.scores import metric_of, score  # noqa: E402
from tardigrad.metrics.student import t_interval  # noqa: E402
from tardigrad.recipes import load_recipe  # noqa: E402
from tardigrad.tuning import Arm, Budget, Choice, Stages, TunedComparison, final_runs  # noqa: E402

REFERENCE = "dc-lowrank"
ARMS: dict[str, dict[str, Any]] = {
    "asgd": {},
    REFERENCE: {},
    "diagonal-and-low-rank": {},
    "forgetting": {},
    "kronecker": {},
    "secant": {},
    "applied-directions": {"commit_path": "directions"},
    "weight-prediction": {"engine": "predicting"},
}
"""By rule, with what its arm needs beside it."""
MODULES = ("between_windows", "between_factors", "between_secants", "between_prediction")
POINTS = ("best", "recipe")
Row = dict[str, Any]


class Between(TunedComparison):
    """A tuned comparison whose arms may have an engine or a commit path of their own."""

    def arms(self) -> list[Arm]:
        """What is tuned."""
        return [replace(arm, config=arm.config.replace(**ARMS[arm.name])) for arm in super().arms()]


def comparison_of(options: argparse.Namespace) -> Between:
    """What is to be run."""
    base = load_recipe("digits" if options.quick else "cifar10-small")
    base = base.replace(workers=options.workers, imports=MODULES, data_dir=options.data_dir)
    if not options.quick:
        return Between(base, tuple(options.arms), (), tuple(options.seeds), Budget(finer=2, seeds=(0,)))
    base = base.replace(epochs=1, workers=4, batch_size=64, schedule="constant")
    return Between(base, tuple(options.arms), (), tuple(options.seeds), Budget(lrs=(base.lr,), finer=0))


class Finished:
    """The runs of a comparison that have ended, and what they reached.

    Args:
        comparison: what was to be run.
        choices: what was chosen; empty before the last trial.
        directory: of the run directories.
    """

    def __init__(self, comparison: TunedComparison, choices: Sequence[Choice], directory: Path) -> None:
        self._comparison, self._choices, self._directory = comparison, choices, directory

    def rows(self) -> list[Row]:
        """One for every arm and point, in the order of the arms."""
        found = {(choice.arm.name, point): self._runs(choice, point) for choice in self._choices for point in POINTS}
        rows = [self._row(choice, point, found) for choice in self._choices for point in POINTS]
        return [row for row in rows if row["seeds"]]

    def _runs(self, choice: Choice, point: str) -> dict[int, RunRecord]:
        lr, rule = self._setting(choice, point)
        places = {seed: choice.arm.at(lr, rule, seed).directory_name for seed in self._comparison.seeds}
        ended = {seed: self._directory / name / "summary.json" for seed, name in places.items()}
        return {seed: load_run(summary.parent) for seed, summary in ended.items() if summary.exists()}

    def _setting(self, choice: Choice, point: str) -> tuple[float, str]:
        best = choice.best
        return (best.lr, best.rule) if point == "best" else (self._comparison.base.lr, choice.arm.rule)

    def _row(self, choice: Choice, point: str, found: Mapping[tuple[str, str], Mapping[int, RunRecord]]) -> Row:
        runs, (lr, rule) = found[choice.arm.name, point], self._setting(choice, point)
        values = reached(runs)
        known = [value for value in values.values() if value is not None]
        whole = bool(known) and len(known) == len(values)  # a mean over what is left would flatter
        row = {"arm": choice.arm.name, "point": point, "lr": lr, "rule": rule, "seeds": list(runs)}
        row |= {"errors": list(values.values()), "diverged": sum(run.diverged for run in runs.values())}
        row |= {"mean": statistics.fmean(known) if whole else None}
        row |= {"sd": statistics.stdev(known) if whole and len(known) > 1 else None}
        return row | paired(values, reached(found.get((REFERENCE, point), {})))


def reached(runs: Mapping[int, RunRecord]) -> dict[int, float | None]:
    """Test score by seed, None where it is not finite."""
    metric: Metric = metric_of(list(runs.values())) if runs else Metric("error")
    return {seed: score(run, metric).test.last_ten for seed, run in runs.items()}


def paired(values: Mapping[int, float | None], reference: Mapping[int, float | None]) -> Row:
    """An arm minus dc-lowrank at the same point, over the seeds that both have a number for."""
    both = [(value, reference.get(seed)) for seed, value in values.items()]
    differences = [value - other for value, other in both if value is not None and other is not None]
    interval = t_interval(differences)
    mean = statistics.fmean(differences) if differences else None
    return {"difference": mean, "interval": None if interval is None else list(interval), "pairs": len(differences)}


def result(comparison: TunedComparison, choices: Sequence[Choice], directory: Path, about: Row) -> Row:
    """All that is known, as JSON has it."""
    budget = {"trials": comparison.budget.trials, "seeds": list(comparison.budget.seeds), "basis": "validation"}
    return {
        "environment": about,
        "recipe": comparison.base.recipe,
        "workers": comparison.base.workers,
        "epochs": comparison.base.epochs,
        "seeds": list(comparison.seeds),
        "budget": budget,
        "reference": REFERENCE,
        "choices": [
            {"arm": choice.arm.name, "trials": [_trial(trial.as_json()) for trial in choice.trials]}
            for choice in choices
        ],
        "rows": Finished(comparison, choices, directory).rows(),
    }


def _trial(plain: Row) -> Row:
    return {name: plain[name] for name in ("lr", "rule", "score", "status")}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of Markdown: errors in percent; below zero is better than dc-lowrank."""
    yield "| rule | point | lr | error, mean ± sd | minus dc-lowrank, 95 % interval | diverged |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in rows:
        keywords = row["rule"].partition("(")[2]
        strength = next((word.strip(" )") for word in keywords.split(",") if word.strip().startswith(STRENGTHS)), "")
        name = f"{row['arm']} ({strength})" if strength else row["arm"]
        error = _number(row["mean"]) + ("" if row["sd"] is None else f" ± {row['sd']:.2f}")
        yield (
            f"| {name} | {row['point']} | {row['lr']:g} | {error} | {_difference(row)} "
            f"| {row['diverged']} of {len(row['seeds'])} |"
        )


STRENGTHS = ("scale=", "ahead=")


def _difference(row: Row) -> str:
    if row["arm"] == REFERENCE or row["difference"] is None:
        return ""
    interval = row["interval"]
    said = "" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
    return f"{row['difference']:+.2f}{said}"


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"


def missing_data(options: argparse.Namespace) -> bool:
    """Whether CIFAR-10 is asked for and not on the disk; nothing is downloaded."""
    if options.quick:
        return False
    place = Path(options.data_dir) if options.data_dir else find_data_directory()
    return not any((place / name).exists() for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz"))


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="digits, one epoch, one learning rate: shows that it runs")
    add("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    add("--workers", type=int, default=32, help="with --quick 4")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the runs that are reported; 0 is for trials")
    add("--jobs", type=int, default=1, help="runs at a time, each in a process of its own")
    add("--stop-after", type=float, default=math.inf, help="minutes after which nothing is begun; a run is kept")
    add("--data-dir", default="", help="folder with CIFAR-10; by default as tardigrad train")
    add("--directory", type=Path, help="of the runs; by default runs/between, with --quick runs/between-quick")
    add("--output", type=Path, help="the result as JSON; by default results/between.json, with --quick none")
    options = parser.parse_args(words)
    options.directory = options.directory or Path("runs/between-quick" if options.quick else "runs/between")
    if not options.quick:
        options.output = options.output or Path("results/between.json")
    return options


def told(outcome: Outcome) -> None:
    """A line of progress for a run that was not there yet."""
    if not outcome.reused:
        config: RunConfig = outcome.config
        words = f"{config.label}, lr {config.lr:g}, seed {config.seed}: {outcome.status}"
        print(f"{words} {outcome.message.strip()}".rstrip(), flush=True)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    if missing_data(options):
        print("skipped: CIFAR-10 is not here; type --data-dir DIR, or --quick for digits", flush=True)
        return
    comparison = comparison_of(options)
    about = environment(comparison.base.replace(threads=1))
    print(f"{comparison.trials()} trials, at most {comparison.most_runs()} runs in all", flush=True)
    deadline = time.time() + 60.0 * options.stop_after
    stages = Stages(comparison, options.directory, options.jobs, told, deadline)
    choices, outcomes = stages.tune()
    runs = {config.directory_name: config for config in final_runs(comparison, choices)}
    outcomes += run_all(list(runs.values()), options.directory, jobs=options.jobs, finished=told, deadline=deadline)
    report(comparison, choices, options, about)
    if failed := sum(outcome.status == "failed" for outcome in outcomes):
        raise SystemExit(f"{failed} runs failed; the same command tries them again")


def report(comparison: TunedComparison, choices: Sequence[Choice], options: argparse.Namespace, about: Row) -> None:
    """Write what is known and print its table."""
    if not choices:
        print("stopped before the last trial; the same command goes on where this one ended", flush=True)
        return
    found = result(comparison, choices, options.directory, about)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(table(found["rows"])), flush=True)


if __name__ == "__main__":
    main()
