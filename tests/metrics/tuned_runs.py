"""Writes tuned comparisons: trial runs of seed 0, reported runs of other seeds at two points, controls."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from fake_runs import CONSISTENCY, RULES, config, evaluations, log_lines, summary, write_plan, write_run

SEEDS = (1, 2, 3, 4, 5)
LRS = (0.05, 0.1, 0.2, 0.4)
RECIPE_LR = 0.2
RULES_HERE = RULES | {"clipping": "clipping(bound=1.0)", "m-synchronous": "asgd"}
CONSISTENCIES = CONSISTENCY | {"m-synchronous": "synchronous(wait_for=6)"}
CONTROLS = ("sign-flipped", "sign-random", "its-length", "its-direction")


@dataclass
class Arm:
    """One algorithm: the chosen rate and rule, and the error per reported seed at its two points.

    ``recipe`` None: its best point is the untouched recipe. A value of 0.9 or more is that of a diverged run.
    """

    lr: float
    best: tuple
    recipe: tuple | None = None
    rule: str = ""
    trials: dict = field(default_factory=dict)  # further trials: rule -> validation error


def write_tuned(root, arms, *, workers=8, controls=None, beside=None, treated="dc-asgd-a", seeds=SEEDS, **fields):
    """Write runs and plan.

    ``controls``: label -> (errors at the treated rule's best point, at the recipe). ``beside``: errors of asgd at the
    treated rule's chosen rate.
    """
    root, spoiling = Path(root), controls or {}
    plan = {"seeds": [0], "trials": len(LRS), "basis": "validation", "choices": []}
    for label, arm in arms.items():
        count = 1 if label == "sequential" else workers
        plan["choices"].append(_write_arm(root, label, arm, workers=count, seeds=seeds, **fields))
    if beside is not None:
        lr = arms[treated].lr
        _write_point(root, "asgd", beside, lr=lr, rule="asgd", workers=workers, seeds=seeds, **fields)
    more = {"tuned": plan}
    if spoiling:
        more["controls"] = {"of": treated, "labels": [*spoiling, "clipping"]}
        for label, points in spoiling.items():
            _write_control(root, label, points, arms[treated], treated, workers=workers, seeds=seeds, **fields)
    write_plan(root, list(arms), workers=[workers], lrs=list(LRS), seeds=list(seeds), recipe_lr=RECIPE_LR, **more)
    return root


def _write_arm(root, label, arm, *, workers, seeds, **fields):
    recipe_rule = RULES_HERE[label]
    rule = arm.rule or recipe_rule
    trials = [_write_trial(root, label, arm, lr=lr, rule=recipe_rule, workers=workers, **fields) for lr in LRS]
    for other, error in arm.trials.items():
        trials.append(_write_trial(root, label, arm, lr=arm.lr, rule=other, error=error, workers=workers, **fields))
    _write_point(root, label, arm.best, lr=arm.lr, rule=rule, workers=workers, seeds=seeds, **fields)
    if arm.recipe is not None:
        _write_point(root, label, arm.recipe, lr=RECIPE_LR, rule=recipe_rule, workers=workers, seeds=seeds, **fields)
    return {
        "label": label, "workers": workers, "lr": arm.lr, "rule": rule, "recipe_rule": recipe_rule, "trials": trials,
    }  # fmt: skip


def _write_trial(root, label, arm, *, lr, rule, workers, error=None, **fields):
    # The further from the chosen rate, the worse; test data of a trial run would be far too good, were it ever shown.
    error = 0.4 + 0.03 * abs(LRS.index(lr) - LRS.index(arm.lr)) if error is None else error
    name = f"trial-{label}-w{workers}-lr{lr:g}-{'' if rule == RULES_HERE[label] else rule.split('lambda0=')[1][:3]}"
    _write(root / name, label, [0.001] * 4, lr=lr, rule=rule, workers=workers, seed=0, validation=error, **fields)
    return {"run": name, "lr": lr, "rule": rule, "score": 100 * error, "status": "finished"}


def rewrite_plan(root, change):
    """Read ``comparison.json``, let ``change`` alter it in place, write it back."""
    file = Path(root) / "comparison.json"
    plan = json.loads(file.read_text())
    change(plan)
    file.write_text(json.dumps(plan))


def _write_point(root, label, errors, *, lr, rule, workers, seeds, **fields):
    for seed, error in zip(seeds, errors, strict=False):
        name = f"{label}-w{workers}-lr{lr:g}-s{seed}-{crc32(rule.encode()) % 1000}"
        _write(root / name, label, _curve(error, seed), lr=lr, rule=rule, workers=workers, seed=seed, **fields)


def _write_control(root, label, points, arm, treated, *, workers, seeds, **fields):
    places = [(arm.lr, arm.rule or RULES_HERE[treated]), (RECIPE_LR, RULES_HERE[treated])]
    for errors, (lr, inner) in zip(points, places, strict=False):
        rule = f"{label}(of={inner!r})"
        _write_point(root, label, errors, lr=lr, rule=rule, workers=workers, seeds=seeds, **fields)


def _curve(error, seed):
    """Four evaluations, of which the last two count; their mean is ``error``."""
    fall = 0.3 if error < 0.5 else 0.02
    return [error + fall, error + fall / 2, error + 0.01, error - 0.01]


def _write(folder, label, test, *, lr, rule, workers, seed, validation=None, **fields):
    diverged = test[-1] > 0.88
    consistency = CONSISTENCIES.get(label, "asynchronous")
    write_run(
        folder,
        config=config(label, workers=workers, lr=lr, seed=seed, rule=rule, consistency=consistency, **fields),
        evaluations=evaluations(
            test, "same" if validation is None else [validation] * len(test), time=160.0 / workers, diverged=diverged
        ),
        summary=summary("diverged" if diverged else "finished", workers=workers),
        log=log_lines(workers=workers, commits=10, ratio=lambda v: 0.1 if label.startswith("dc") else None),
    )


# A comparison like a real one. Means in percent: (chosen rate, best point, untouched recipe).
LEVELS = {
    "sequential": (0.4, 38.0, 40.0),
    "ssgd": (0.4, 47.0, 55.0),
    "m-synchronous": (0.4, 46.2, 53.0),
    "asgd": (0.05, 45.0, 58.0),
    "staleness-lr": (0.2, 44.5, None),
    "dc-asgd-c": (0.05, 44.9, 57.0),
    "dc-asgd-a": (0.1, 43.6, 45.5),
    "dc-asgd": (0.2, 42.8, None),
    "clipping": (0.1, 44.4, 49.0),
}
CONTROL_LEVELS = {
    "sign-flipped": (55.0, 91.0),
    "sign-random": (48.0, 62.0),
    "its-length": (44.4, 46.9),
    "its-direction": (43.9, 51.0),
}


def write_plausible_tuned(root, *, workers=(8, 32), seeds=SEEDS, noise=0.5, **fields):
    """All of it; more workers cost one point more."""
    strong = RULES["dc-asgd-a"].replace("lambda0=2.0", "lambda0=8.0")
    parts = []
    for place, count in enumerate(workers):
        draw = random.Random(count)
        shared = [draw.gauss(0, noise) for _ in seeds]

        def errors(level, draw=draw, shared=shared, place=place):
            if level is None:
                return None
            return tuple(min(0.92, (level + place + s + draw.gauss(0, noise / 2)) / 100) for s in shared)

        arms = {label: Arm(lr, errors(best), errors(recipe)) for label, (lr, best, recipe) in LEVELS.items()}
        if place:
            del arms["sequential"]
        arms["dc-asgd-a"].rule = strong
        arms["dc-asgd-a"].trials = {strong: 0.385}
        controls = {label: (errors(best), errors(recipe)) for label, (best, recipe) in CONTROL_LEVELS.items()}
        parts.append(_one(Path(root), arms, controls, count, seeds, **fields))
    plan = parts[0]
    plan["workers"] = list(workers)
    for other in parts[1:]:
        plan["tuned"]["choices"] += other["tuned"]["choices"]
    write_plan(root, **plan)
    return Path(root)


def _one(root, arms, controls, workers, seeds, **fields):
    write_tuned(root, arms, controls=controls, workers=workers, seeds=seeds, **fields)
    plan = json.loads((root / "comparison.json").read_text())
    return {name: value for name, value in plan.items() if name not in ("format", "recipe")}
