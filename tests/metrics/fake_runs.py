"""Writes run directories whose numbers are known, so that what is read back can be checked."""

import functools
import json
import math
import random
from pathlib import Path

RULES = {
    "sequential": "asgd",
    "ssgd": "asgd",
    "ssgd-linear": "asgd",
    "asgd": "asgd",
    "staleness-lr": "staleness-lr(power=1.0)",
    "dc-asgd-c": "dc-asgd-c(lambda0=0.04, clip_compensation=None, damped=False)",
    "dc-asgd-a": "dc-asgd-a(lambda0=2.0, mean_square_decay=0.95, clip_compensation=None, damped=False)",
    "dc-asgd": "dc-asgd(lambda0=8.0, mean_square_decay=0.95, clip_compensation=None, damped=True)",
}
CONSISTENCY = {"ssgd": "synchronous", "ssgd-linear": "synchronous(lr_scaling='linear')"}
METRIC = {"name": "error", "scale": 100.0, "unit": "%", "lower_is_better": True}
ENVIRONMENT = {
    "tardigrad": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6", "platform": "Linux",
    "cpu": "Example CPU", "cores": 2, "threads": 1, "device": "cpu", "cuda": None, "commit": "abc1234",
    "command": "tardigrad compare digits --seeds 3", "started": "2026-01-02T03:04:05",
}  # fmt: skip


def config(label="asgd", *, workers=16, lr=0.1, seed=0, **fields):
    """A resolved configuration as training writes it."""
    whole = {
        "format": 1, "recipe": "digits", "label": label, "task": "digits", "rule": RULES.get(label, label),
        "optimizer": "sgd(momentum=0.0, weight_decay=0.0)", "lr": lr, "schedule": "step(at=(12,), gamma=0.1)",
        "warmup": 0.0, "workers": workers, "batch_size": 16, "epochs": 20,
        "consistency": CONSISTENCY.get(label, "asynchronous"), "max_staleness": None, "on_stale": "reject",
        "leases": "dynamic", "batchnorm": "mean", "delay": "exponential(mean=1.0)", "speeds": [1.0] * workers,
        "straggler_probability": 0.0, "straggler_factor": 1.0, "latency": 0.0, "bandwidth": None, "service": 0.0,
        "engine": "simulated", "commit_path": "exact", "seed": seed, "evaluate_every": 1.0, "measure_every": 10,
        "threads": 1, "device": "cpu",
    }  # fmt: skip
    assert set(fields) <= set(whole), set(fields) - set(whole)
    return whole | fields


def evaluations(test, validation=None, *, time=10.0, diverged=False, metric="error"):
    """Version 0 at chance, then one record per epoch; values as stored (0.02 is 2 %)."""
    records = [_record(0, 0.9, 0.9, time=time, metric=metric)]
    for epoch, value in enumerate(test, 1):
        other = value if validation == "same" else (validation[epoch - 1] if validation else None)
        records.append(_record(epoch, value, other, time=time, metric=metric))
    if diverged:
        records[-1]["diverged"] = True
    return records


def _record(epoch, test, validation, *, time, metric):
    loss = None if test is None else 2.3 * test
    record = {
        "version": 90 * epoch, "samples": 1257 * epoch, "epoch": float(epoch), "time": time * epoch,
        "wall": 0.1 * epoch, "lr": 0.1, "train": {"loss": loss}, "test": {"loss": loss, metric: test},
    }  # fmt: skip
    if validation is not None:
        record["validation"] = {"loss": 2.3 * validation, metric: validation}
    return record


def summary(status="finished", *, workers=16, time=200.0, metric=METRIC, message=""):
    """What a run writes last."""
    asynchronous = workers > 1
    histogram = {str(w): _geometric(workers, seed=w) if asynchronous else {"0": 100} for w in range(workers)}
    counts = [(int(k), n) for per in histogram.values() for k, n in per.items()]
    mean = sum(k * n for k, n in counts) / sum(n for _, n in counts)
    return {
        "status": status, "message": message, "version": 1800, "samples": 25140, "epoch": 20.0, "time": time,
        "wall": 1.7, "commits": 1800, "rejected": {}, "lost_samples": 0,
        "staleness": {"mean": mean, "max": max(k for k, _ in counts), "histogram": histogram},
        "compensation_ratio": {"mean": 0.1, "max": 2.0}, "metric": metric, "parameters": 38282,
        "memory": {"weights": 153128, "backups": 2450048, "state": 2450048, "total": 5053224},
    }  # fmt: skip


@functools.cache
def _geometric(workers, *, seed):
    draw, counts = random.Random(seed), {}
    for _ in range(400):
        k = int(math.log(1.0 - draw.random()) / math.log(1.0 - 1.0 / workers))
        counts[str(k)] = counts.get(str(k), 0) + 1
    return counts


def log_lines(*, workers=16, commits=400, ratio=None):
    """A header, then a pull and a commit per step; ``ratio(version)`` gives the compensation ratio or None."""
    header = {"format": 1, "task": "digits", "workers": workers, "seed": 0, "engine": "simulated", "events": {}}
    lines = [header]
    for version in range(1, commits + 1):
        worker = version % workers
        lines.append(["pull", float(version), worker, 0, version - 1, [0, 0, 16]])
        part = [worker, 0, max(0, version - workers), [0, 0, 16], 16, 0.5]
        lines.append(["commit", version + 0.5, version, 0.1, workers, [part], ratio(version) if ratio else None])
    return lines


def write_run(folder, *, config, evaluations, summary=None, environment=ENVIRONMENT, log=()):
    """Write the five files; ``summary=None`` leaves an unfinished run."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in evaluations))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (log or log_lines(commits=20))))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


NEW_EVENTS = [
    ["held", 0.5, 2, 0, 0, [0, 0, 16], 16, 0.5, 1.25],
    ["fail", 0.6, 1, 0, 0, "died", -9, ""],
    ["leave", 0.6, 1, 0, "failed"],
    ["join", 0.7, 1, 1],
    ["note", 0.7, "words"],
    ["digest", 0, {"weight": "00"}],
]


def write_local(folder, *, seed, failures=None):
    """A run with real workers, as training writes it now."""
    header, *lines = log_lines(commits=20, ratio=lambda version: 0.5)
    ended = summary() | {"failures": failures or {}, "restarts": sum((failures or {}).values())}
    write_run(
        folder,
        config=config("dc-asgd-a", seed=seed, engine="local"),
        evaluations=[record | {"seconds": 0.25} for record in evaluations([0.5, 0.3, 0.2], "same")],
        summary=ended | {"evaluations": {"number": 4, "seconds": 1.0}, "digest": "0" * 16},
        log=[header | {"format": 2, "engine": "local"}, *NEW_EVENTS, *lines],
    )


def write_cell(root, label, *, lr=0.1, workers=16, test=(0.02,), validation="same", diverged=(), length=12, **fields):
    """One run per seed, constant at ``test[seed]``, so that every mean is known."""
    for seed, value in enumerate(test):
        values = [value] * length
        other = values if validation == "same" else [validation[seed]] * length if validation else None
        write_run(
            Path(root) / f"{label}-w{workers}-lr{lr:g}-s{seed}",
            config=config(label, workers=workers, lr=lr, seed=seed, **fields),
            evaluations=evaluations(values, other, time=160.0 / workers, diverged=seed in diverged),
            summary=summary("diverged" if seed in diverged else "finished", workers=workers),
        )


def write_plan(root, algorithms, **fields):
    """``comparison.json`` as a comparison writes it."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / "comparison.json").write_text(
        json.dumps({"format": 1, "recipe": "digits", "algorithms": algorithms, **fields})
    )
