"""A comparison that looks like the real one: seven algorithms, five learning rates, three seeds, 16 workers."""

import random
from pathlib import Path

from fake_runs import config, evaluations, log_lines, summary, write_plan, write_run

LRS = (0.01, 0.03, 0.1, 0.2, 0.3)
# Error in percent after training, by learning rate; 92 stands for a diverged run.
LEVELS = {
    "sequential": (13, 3.0, 1.4, 1.0, 1.0),
    "ssgd": (91, 87, 44, 10, 5),
    "ssgd-linear": (27, 3.2, 92, 92, 92),
    "asgd": (15, 3.2, 14, 92, 92),
    "dc-asgd-c": (15, 3.1, 7.5, 92, 92),
    "dc-asgd-a": (16, 3.0, 2.4, 89, 89),
    "dc-asgd": (16, 3.1, 1.8, 1.3, 1.9),
}
RATIO = {"dc-asgd-c": 1e-3, "dc-asgd-a": 0.3, "dc-asgd": 0.1}


def write_plausible(root, *, workers=(16,), seeds=3, algorithms=tuple(LEVELS), epochs=20):
    """Write all runs below ``root`` and return it."""
    write_plan(root, list(algorithms), workers=list(workers), lrs=list(LRS), seeds=list(range(seeds)), recipe_lr=0.1)
    for label in algorithms:
        for count in (1,) if label == "sequential" else workers:
            for lr, level in zip(LRS, LEVELS[label], strict=True):
                for seed in range(seeds):
                    _write_one(root, label, level, workers=count, lr=lr, seed=seed, epochs=epochs)
    return Path(root)


def _write_one(root, label, level, *, workers, lr, seed, epochs):
    draw = random.Random(f"{label}{workers}{lr}{seed}")
    diverged = level >= 92 or (label == "asgd" and lr == 0.1 and seed == 1)
    length = 3 if diverged else epochs
    end = 0.918 if diverged else min(0.9, level / 100 * draw.uniform(0.85, 1.15))
    # Learning curves fall over a few epochs, the faster the larger the rate.
    pace = 1 + 10 * lr
    test = [min(0.92, end + (0.9 - end) * 0.45 ** (e * pace) + draw.gauss(0, 0.03) * end) for e in range(1, length)] + [
        end
    ]
    scale = RATIO.get(label)
    ratio = (
        None if scale is None else lambda v: None if v % 5 else scale * draw.lognormvariate(0, 0.6) * (1 + 9 * 0.98**v)
    )
    per_epoch = 80.0 / workers * (3.4 if label.startswith("ssgd") else 1.0)
    write_run(
        Path(root) / f"{label}-w{workers}-lr{lr:g}-s{seed}",
        config=config(label, workers=workers, lr=lr, seed=seed, epochs=epochs),
        evaluations=evaluations(test, [v * draw.uniform(0.9, 1.1) for v in test], time=per_epoch, diverged=diverged),
        summary=summary("diverged" if diverged else "finished", workers=workers, time=per_epoch * length),
        log=log_lines(workers=workers, commits=800, ratio=ratio) if seed == 0 and ratio else (),
    )
