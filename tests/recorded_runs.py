"""Small recorded runs for tests of replay and audit, and what a forger would do to their logs."""

import json
import math

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import tardigrad
from tardigrad.tasks.base import ERROR, Split


def noisy_task(bad_sample=None):
    """Two classes, a model with BatchNorm and dropout; a sample may be infinite, so that its gradient is not finite."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=stream)
    y = (x[:, 0] > 0).long()
    if bad_sample is not None:
        x[bad_sample, 0] = math.inf
    train, validation, test = (Split(x[a:b], y[a:b]) for a, b in ((0, 60), (60, 75), (75, 90)))
    return tardigrad.Task(
        name="noisy",
        model=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)),
        loss=functional.cross_entropy,
        metric=ERROR,
        train=train,
        validation=validation,
        test=test,
    )


NOISY = noisy_task()
SETTINGS = {
    "workers": 3, "batch_size": 4, "epochs": 2, "lr": 0.05, "schedule": "step(at=(1,), gamma=0.5)", "measure_every": 3,
    "delay": "gamma(machine_cv=0.6, task_cv=0.5)",
}  # fmt: skip


def record(place, /, *, task=NOISY, rule="dc-asgd-a", momentum=0.9, **settings):
    """Train in the simulator."""
    made = tardigrad.rule(rule, momentum=momentum)
    return tardigrad.train(task, rule=made, directory=place, **{**SETTINGS, **settings})


def lines_of(place):
    """Header and events of a log."""
    return [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]


def write_lines(place, lines):
    (place / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit(place, change):
    """Let ``change`` work on the list of header and events, in place; return what it returns."""
    lines = lines_of(place)
    told = change(lines)
    write_lines(place, lines)
    return told


def number_of(lines, kind, nth=0, **columns):
    """The index in ``lines`` of the nth event of a kind whose columns (by the header's names) have these values."""
    names = lines[0]["events"][kind]
    found = [
        number
        for number, line in enumerate(lines[1:], 1)
        if line[0] == kind and all(line[1 + names.index(name)] == value for name, value in columns.items())
    ]
    return found[nth]


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def swap_commits(lines):
    """Swap two commits, each followed by its worker's pull, and renumber, so that the log is one that could have been.

    The first pull still takes the first samples. Returns the version of the first of the two commits.
    """
    start = next(
        number
        for number in range(len(lines) // 3, len(lines) - 4)
        if [line[0] for line in lines[number : number + 4]] == ["commit", "pull", "commit", "pull"]
        and lines[number][5][0][0] != lines[number + 2][5][0][0]
    )
    first, pull_first, second, pull_second = lines[start : start + 4]
    version, (one, other) = first[2], (first[5][0][0], second[5][0][0])
    lines[start : start + 4] = [
        [*first[:5], second[5], first[6]],
        ["pull", pull_first[1], other, 0, version, pull_first[5]],
        [*second[:5], first[5], second[6]],
        ["pull", pull_second[1], one, 0, version + 1, pull_second[5]],
    ]
    for worker, read, lease in ((other, version, pull_first[5]), (one, version + 1, pull_second[5])):
        part = next(line[5][0] for line in lines[start + 4 :] if line[0] == "commit" and line[5][0][0] == worker)
        part[2], part[3], part[4] = read, lease, lease[2] - lease[1]
    return version


def weights_of(place):
    return safetensors.torch.load_file(place / "weights.safetensors")


def require_same(mine, theirs):
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
