"""Read a run directory with nothing but JSON behind it: what was trained, how late the gradients were, how it went.

Type: python examples/read_a_run.py runs/digits/NAME (without an argument a short run is trained first)
"""

import sys
from collections import defaultdict
from statistics import fmean

from tardigrad.metrics.runs import load_run


def train():
    """Train four unequal workers for a few epochs and return where that is recorded."""
    import tardigrad

    run = tardigrad.train(
        "quadratic", rule="dc-asgd-c", workers=4, speeds=(1, 1, 2, 4), delay="exponential", lr=0.05, evaluate_every=5
    )
    return run.directory


run = load_run(sys.argv[1] if len(sys.argv) > 1 else train())
print(f"{run.config['rule']}, {run.workers} workers, learning rate {run.lr:g}: {run.status}")

late = defaultdict(list)
for _, _time, version, _lr, _live, contributions, _ratio in run.events("commit"):
    for worker, _incarnation, read_version, *_ in contributions:
        late[worker].append(version - 1 - read_version)  # this is the staleness
for worker, staleness in sorted(late.items()):
    print(f"worker {worker}: {len(staleness):>3} commits, mean staleness {fmean(staleness):.1f}, most {max(staleness)}")

metric = run.metric
for record in run.evaluations:
    value = metric.scale * record["test"][metric.name]
    print(f"epoch {record['epoch']:.1f}, {record['time']:5.1f} s of virtual time: {metric.axis} {value:.3g}")
