"""How large compensations are in a run's first commits, and what one epoch costs under each rule.

    python benchmarks/compensation_at_the_start.py [--quick] [--recipe cifar10-resnet20] [--workers 8] [--commits 100]
        [--epochs 1] [--jobs 2] [--seed 0] [--device cuda] [--output results/bench/compensation-at-the-start.json]

At the start weights move fastest and gradients are largest, so that is where a compensation can outgrow its gradient.
For each arm ||compensation|| / ||gradient|| is measured at every one of the first commits, and the run goes on for
whole epochs, for seconds an epoch, the server's memory and the error after it. A run that diverges is a result: it is
told with the commit at which it ended. --output writes all of it with hardware, versions and command as JSON, and the
ratios as a picture of the same name. The recipe's data has to be there; see `tardigrad doctor`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

import tardigrad
from tardigrad.config import RunConfig
from tardigrad.engines.base import Evaluation, Observer
from tardigrad.environment import environment
from tardigrad.errors import Diverged, Stopped
from tardigrad.recipes import load_recipe
from tardigrad.records import Commit

ARMS: dict[str, dict[str, Any]] = {
    "asgd": {"rule": "asgd"},
    "staleness-lr": {"rule": "staleness-lr"},
    "dc-asgd-c": {"rule": "dc-asgd-c"},
    "dc-asgd-a": {"rule": "dc-asgd-a"},
    "dc-asgd-a, damped": {"rule": "dc-asgd-a(damped=True)"},
    "dc-asgd": {"rule": "dc-asgd"},
    "dc-asgd-a, clipped at 1": {"rule": "dc-asgd-a(clip_compensation=1.0)"},
    "dc-asgd-a, one epoch of warm-up": {"rule": "dc-asgd-a", "warmup": 1.0},
}
LOOKS = {  # colour-blind safe (Okabe and Ito); the dashes tell the forms of one rule apart in print
    "asgd": ("#d55e00", "-"),
    "staleness-lr": ("#767676", "-"),
    "dc-asgd-c": ("#e69f00", "-"),
    "dc-asgd-a": ("#009e73", "-"),
    "dc-asgd-a, damped": ("#56b4e9", "--"),
    "dc-asgd": ("#b0508c", "-"),
    "dc-asgd-a, clipped at 1": ("#0072b2", "-."),
    "dc-asgd-a, one epoch of warm-up": ("#222222", ":"),
}


class Watch(Observer):
    """Notes the first commits' ratios, and what was evaluated last."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.ratios: list[float | None] = []
        self.last: dict[str, Any] = {}

    def committed(self, time: float, commit: Commit) -> None:
        """One number; None where it is not finite."""
        ratio = commit.compensation_ratio
        if len(self.ratios) < self.wanted:
            self.ratios.append(ratio if ratio is not None and math.isfinite(ratio) else None)

    def evaluated(self, evaluation: Evaluation) -> None:
        """The record as it stands in evaluations.jsonl."""
        self.last = evaluation.as_json()

    def enough(self) -> bool:
        """Whether the first commits are over."""
        return len(self.ratios) >= self.wanted


def measured(name: str, base: RunConfig, commits: int, stop_early: bool) -> dict[str, Any]:
    """One arm: the first commits' ratios, and where whole epochs are asked for their cost and the error after them."""
    torch.set_num_threads(1)
    watch = Watch(commits)
    config = base.replace(**ARMS[name], measure_every=1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        status, message, summary = "finished", "", {}
        try:
            stop = watch.enough if stop_early else None
            summary = tardigrad.train(config, directory=place, observers=[watch], stop=stop).summary
        except Stopped:
            status = "stopped"
        except Diverged as error:
            status, message = "diverged", str(error).split(". Remedies")[0]
            summary = json.loads((place / "summary.json").read_text())
    finite = [ratio for ratio in watch.ratios if ratio is not None]
    row = {
        "rule": config.rule,
        "warmup": config.warmup,
        "status": status,
        "message": message,
        "largest": max(finite, default=None),
        "largest at commit": watch.ratios.index(max(finite)) + 1 if finite else None,
        "ratios": watch.ratios,
    }
    return row | (_whole(summary, watch.last) if summary else {})


def _whole(summary: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    done = summary["epoch"]
    return {
        "epochs": done,
        "seconds an epoch": round(summary["wall"] / done, 3) if done else None,
        "server bytes": summary["memory"],
        **{split: last[split] for split in ("train", "validation", "test") if split in last},
    }


def every_arm(
    base: RunConfig, commits: int, jobs: int, stop_early: bool, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """All arms, ``jobs`` at a time; told as they come."""
    results = {}
    work = _in_turn(base, commits, stop_early) if jobs == 1 else _side_by_side(base, commits, stop_early, jobs)
    for name, row in work:
        results[name] = row
        say(f"{name}: {row['status']}; largest {_shown(row['largest'])}; {_shown(row.get('seconds an epoch'))} s")
    return {name: results[name] for name in ARMS}


def _in_turn(base: RunConfig, commits: int, stop_early: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ARMS:
        yield name, measured(name, base, commits, stop_early)


def _side_by_side(base: RunConfig, commits: int, stop_early: bool, jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(measured, name, base, commits, stop_early): name for name in ARMS}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(scores: dict[str, Any]) -> str:
    error = scores.get("error")
    return "-" if error is None else f"{100.0 * error:.1f} %"


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """One row per arm; a ratio is of the compensation's norm to the gradient's."""
    print(f"\n{'':34}{'largest':>10}{'at':>6}{'median':>10}{'last':>10}", end="")
    print(f"{'ended':>10}{'s an epoch':>12}{'server MB':>11}{'validation':>12}{'test':>9}")
    for name, row in results.items():
        finite = sorted(ratio for ratio in row["ratios"] if ratio is not None)
        middle, last = (finite[len(finite) // 2], row["ratios"][-1]) if finite else (None, None)
        where = row["largest at commit"] or "-"
        print(f"{name:34}{_shown(row['largest']):>10}{where:>6}{_shown(middle):>10}{_shown(last):>10}", end="")
        memory = f"{row['server bytes']['total'] / 1e6:.1f}" if "server bytes" in row else "-"
        errors = [_percent(row.get(split, {})) for split in ("validation", "test")]
        print(f"{row['status']:>10}{_shown(row.get('seconds an epoch')):>12}{memory:>11}{errors[0]:>12}{errors[1]:>9}")


def draw(results: dict[str, dict[str, Any]], commits: int, title: str, path: Path) -> None:
    """One line for each arm that compensates, on a logarithmic axis; a cross where it diverged."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for name, row in results.items():
        points = [(number + 1, ratio) for number, ratio in enumerate(row["ratios"]) if ratio]
        if not points:
            continue
        colour, dashes = LOOKS[name]
        diverged = row["status"] == "diverged" and len(row["ratios"]) < commits
        label = f"{name} (diverged at {len(row['ratios'])})" if diverged else name
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=1.6, label=label)
        if diverged:
            axes.plot(*points[-1], marker="x", markersize=9, markeredgewidth=2.2, color=colour)
    axes.axhline(1.0, color="#767676", linewidth=1.0)
    axes.annotate(
        "as long as its gradient", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(-2, 4),
        textcoords="offset points", ha="right", color="#767676", fontsize=9,
    )  # fmt: skip
    axes.set(yscale="log", xlabel="commit", ylabel="‖compensation‖ / ‖gradient‖", xlim=(0, None))
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=160)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quadratic, a dozen commits: shows that it runs")
    parser.add_argument("--recipe", default="cifar10-resnet20")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--commits", type=int, default=100, help="measured from the start; 0: none")
    parser.add_argument("--epochs", type=int, default=1, help="trained whole; 0: only the first commits")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time, each in a process of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path, help="write JSON here, and the picture beside it")
    options = parser.parse_args(words)
    if options.quick:
        options.recipe, options.commits, options.epochs = "quadratic", 12, 1
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    base = load_recipe(options.recipe)
    base = base.replace(
        workers=options.workers, seed=options.seed, device=options.device, epochs=options.epochs or base.epochs
    )
    stop_early = options.epochs == 0
    about = environment(base)
    results = every_arm(base, options.commits, options.jobs, stop_early, lambda line: print(line, flush=True))
    print_table(results)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"environment": about, "jobs": options.jobs, "config": base.as_json(), "arms": results}
        options.output.write_text(json.dumps(content, indent=1) + "\n")
        title = f"The first {options.commits} commits: {options.recipe}, {options.workers} workers, lr {base.lr:g}"
        draw(results, options.commits, title, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
