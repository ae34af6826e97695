"""Every choice that matters, in words: what stands under the final table.

A line per choice. Where algorithms differ in it, each value is followed by who has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tardigrad.errors import InvalidArgument
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import counted, listing, points, rate
from tardigrad.metrics.runs import RunRecord
from tardigrad.metrics.scores import LAST
from tardigrad.metrics.tuned import Tuning
from tardigrad.specs import format_spec, parse_spec

Config = Mapping[str, Any]
_MEAN = f"mean of the last {LAST} evaluations (at most the last half)"


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice and what was chosen: one line, or one per value where algorithms differ."""

    name: str
    lines: tuple[str, ...]


def choices(comparison: Comparison) -> list[Choice]:
    """All choices of a comparison or of a single run, the training's first, then the machine's."""
    runs = comparison.runs
    found = [Choice("Learning rate", (_learning_rate(comparison),))]
    found += [Choice(name, _by_algorithm(comparison, words)) for name, words in _TRAINING]
    found.append(Choice("Seeds", (_seeds(comparison),)))
    found += [Choice(name, _distinct(runs, words)) for name, words in _MACHINE]
    return [choice for choice in found if choice.lines]


def _learning_rate(c: Comparison) -> str:
    if c.tuning is not None:
        return _tuned(c, c.tuning)
    if len(c.lrs) == 1:
        return f"{rate(c.lrs[0])} for all; nothing was chosen."
    tried = f"Tried: {listing([rate(lr) for lr in c.lrs])}."
    better = "smallest" if c.metric.lower_is_better else "largest"
    how = {
        "validation": f"Chosen for each algorithm and worker count: {better} validation {c.metric.name}, {_MEAN}, "
        "mean over seeds. Test data took no part.",
        "training loss": f"Chosen for each algorithm and worker count by the training loss, {_MEAN}, "
        "because there is no validation data. Test data took no part.",
        "nothing": "None was chosen: there is neither validation data nor a training loss.",
    }[c.basis]
    recipe = f" Unchanged recipe: {rate(c.recipe_lr)}, {c.recipe_lr_source}." if c.recipe_lr is not None else ""
    window = (
        f" A rate is tolerated up to {points(c.tolerance, c.metric)} above the chosen one's mean, without divergence."
    )
    return f"{tried} {how}{recipe}{window}"


def _tuned(c: Comparison, tuning: Tuning) -> str:
    """What was tried for every algorithm alike, by what it was chosen, and with which seeds."""
    better = "smallest" if c.metric.lower_is_better else "largest"
    seeds = listing([str(seed) for seed in tuning.plan.trial_seeds])
    tried = {len(choice.trials) for choice in tuning.plan.choices}
    each = f"{min(tried)} to {max(tried)}" if len(tried) > 1 else f"{min(tried, default=0)}"
    return (
        f"Tuned for each algorithm and worker count with {each} settings tried (trial seeds: {seeds}), learning rates "
        f"first, then a rule's own strength or finer rates. Chosen: {better} validation {c.metric.name}, {_MEAN}. "
        f"Test data took no part. Untouched recipe: {rate(c.recipe_lr)}, {c.recipe_lr_source}."
    )


def _seeds(c: Comparison) -> str:
    seeds = listing([str(seed) for seed in c.seeds])
    if len(c.seeds) == 1:
        return f"{seeds}: one only, so there is no spread."
    return f"{seeds}. ± is the standard deviation over them; differences are paired by seed, with Student-t intervals."


def _by_algorithm(c: Comparison, words: Callable[[Config], str]) -> tuple[str, ...]:
    """One text where all agree, else each text and who has it."""
    who: dict[str, list[str]] = defaultdict(list)
    several = len(c.worker_counts) > 1
    for series in c.series:
        name = f"{series.label} ({counted(series.workers, 'worker')})" if several else series.label
        for text in dict.fromkeys(words(s.run.config) for cell in series.cells for s in cell.scores):
            who[text].append(name)
    if len(who) == 1:
        return tuple(who)
    return tuple(f"{_shorter(names, c)}: {text}" for text, names in who.items())


def _shorter(names: Sequence[str], c: Comparison) -> str:
    """``asgd`` instead of ``asgd (8 workers) and asgd (32 workers)`` where that is all there is of it."""
    plain = dict.fromkeys(name.rpartition(" (")[0] or name for name in names)
    if len(c.worker_counts) == 1:
        return listing(names)
    whole = {label: sum(s.label == label for s in c.series) for label in plain}
    have = {label: sum(name.rpartition(" (")[0] == label for name in names) for label in plain}
    if all(whole[label] == have[label] for label in plain):
        return listing(list(plain))
    return listing(names)


def _distinct(runs: Sequence[RunRecord], words: Callable[[Config], str], *, most: int = 3) -> tuple[str, ...]:
    """The texts of all runs' environments, each once."""
    texts = [text for text in dict.fromkeys(words(run.environment) for run in runs) if text]
    return tuple(texts[:most]) + ((f"and {len(texts) - most} more",) if len(texts) > most else ())


def _rule(config: Config) -> str:
    name, options = _parsed(config.get("rule"))
    return format_spec(
        name, {key: value for key, value in options.items() if key not in ("damped", "clip_compensation")}
    )


def _damping(config: Config) -> str:
    options = _parsed(config.get("rule"))[1]
    if "damped" not in options:
        return "nothing to damp"
    return "on, E / (1 + lr E) in place of the curvature estimate E" if options["damped"] else "off"


def _clipping(config: Config) -> str:
    options = _parsed(config.get("rule"))[1]
    if "clip_compensation" not in options:
        return "nothing to clip"
    bound = options["clip_compensation"]
    return (
        "off" if bound is None else f"on, the compensation is at most {bound:g} times its gradient in each coordinate"
    )


def _warmup(config: Config) -> str:
    epochs = config.get("warmup") or 0
    return f"linear over {counted_epochs(epochs)}" if epochs else "none"


def counted_epochs(epochs: float) -> str:
    """``1 epoch``, ``2.5 epochs``."""
    return f"{epochs:g} epoch" if epochs == 1 else f"{epochs:g} epochs"


def _batch(config: Config) -> str:
    size = config.get("batch_size")
    if isinstance(size, list):
        return f"{', '.join(map(str, size))} samples, worker by worker"
    return f"{size} samples per worker and push"


def _length(config: Config) -> str:
    every = config.get("evaluate_every")
    tail = f", evaluated every {counted_epochs(float(every))}" if every else ""
    return f"{counted_epochs(float(config.get('epochs', 0)))}{tail}"


def _consistency(config: Config) -> str:
    if config.get("workers") == 1:
        return "one worker, so nothing is ever late"
    bound = config.get("max_staleness")
    stale = "" if bound is None else f", at most {bound} commits stale ({config.get('on_stale')} beyond)"
    return f"{config.get('consistency')}{stale}"


def _leases(config: Config) -> str:
    known = {
        "dynamic": "dynamic: whoever asks next gets the next samples",
        "static": "static: each worker has a random part of every epoch, as in the paper",
    }
    return known.get(str(config.get("leases")), str(config.get("leases")))


def _batchnorm(config: Config) -> str:
    known = {
        "mean": "mean of the live workers' latest statistics",
        "latest": "the statistics that arrived last",
        "recalibrate": "recalibrated on training data before each evaluation",
    }
    return known.get(str(config.get("batchnorm")), str(config.get("batchnorm")))


def _delays(config: Config) -> str:
    if config.get("engine") not in ("simulated", "replayed"):
        return "as they came: real workers"
    speeds = config.get("speeds") or [1.0]
    told = [str(config.get("delay"))]
    told.append("workers of equal speed" if len(set(speeds)) == 1 else f"speeds {', '.join(f'{s:g}' for s in speeds)}")
    chance = config.get("straggler_probability") or 0
    told.append(f"stragglers {chance:g} x {config.get('straggler_factor'):g}" if chance else "no stragglers")
    told.append(_network(config))
    service = config.get("service") or 0
    told.append(f"the server takes {service:g} s a push" if service else "the server takes no time")
    return ", ".join(told)


def _network(config: Config) -> str:
    latency, bandwidth = config.get("latency") or 0, config.get("bandwidth")
    if not latency and not bandwidth:
        return "the network takes no time"
    return f"latency {latency:g} s" + (f" and {bandwidth:g} bytes/s" if bandwidth else "")


def _engine(config: Config) -> str:
    return f"{config.get('engine')}, commit path {config.get('commit_path')}"


def _parsed(spec: Any) -> tuple[str, Mapping[str, Any]]:
    try:
        parsed = parse_spec(str(spec))
    except InvalidArgument:
        return str(spec), {}
    return parsed.name, parsed.kwargs


def _versions(environment: Config) -> str:
    names = ("tardigrad", "python", "torch", "numpy")
    told = [f"{name} {environment[name]}" for name in names if environment.get(name)]
    commit = environment.get("commit")
    return ", ".join([*told, f"source {commit}"] if commit else told)


def _hardware(environment: Config) -> str:
    told = [str(environment[name]) for name in ("cpu", "platform") if environment.get(name)]
    told += [counted(environment[f"{name}s"], name) for name in ("core", "thread") if environment.get(f"{name}s")]
    told += [f"device {environment['device']}"] if environment.get("device") else []
    told += [f"CUDA {environment['cuda']}"] if environment.get("cuda") else []
    return ", ".join(told)


_TRAINING: tuple[tuple[str, Callable[[Config], str]], ...] = (
    ("Task", lambda config: f"{config['task']}" + (f", recipe {config['recipe']}" if config.get("recipe") else "")),
    ("Rule", _rule),
    ("Damping", _damping),
    ("Clipping of the compensation", _clipping),
    ("Optimizer", lambda config: str(config.get("optimizer"))),
    ("Schedule", lambda config: str(config.get("schedule"))),
    ("Warm-up", _warmup),
    ("Batch", _batch),
    ("Length", _length),
    ("Consistency", _consistency),
    ("Sample leases", _leases),
    ("BatchNorm statistics", _batchnorm),
    ("Delays", _delays),
    ("Engine", _engine),
)
_MACHINE: tuple[tuple[str, Callable[[Config], str]], ...] = (
    ("Versions", _versions),
    ("Hardware", _hardware),
    ("Command", lambda environment: str(environment.get("command") or "")),
)
