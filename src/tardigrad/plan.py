"""`--dry-run`: what would be run, the memory it needs, and whether a link would carry it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from tardigrad.assembling import blueprint_of, chosen_commit_threads, configure
from tardigrad.buffers import persistent_buffers
from tardigrad.chaos import expected_pushes
from tardigrad.commit.base import not_elementwise
from tardigrad.commit.choice import make_path
from tardigrad.config import RunConfig
from tardigrad.consistency import Consistency, build_consistency
from tardigrad.data.unread import without_data
from tardigrad.delays import build_delay
from tardigrad.engines import ENGINES
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_number
from tardigrad.layout import FlatLayout
from tardigrad.memory import Memory, local_memory, pushes_of_a_round, simulated_memory, total
from tardigrad.records import Push
from tardigrad.rules.base import Rule, make_rule
from tardigrad.seeding import random_stream
from tardigrad.server import ParameterServer
from tardigrad.tasks.base import Task
from tardigrad.traffic import Traffic, advice, bytes_per_second, described

_SAMPLE = 2**21  # elements that a commit is timed on
_WINDOW_SAMPLE = 2**27  # bytes of the gradients that one with a window is timed on: more than any cache holds
_DRAWS = 200  # delays that a mean is told from
_MOST_ASKED = 64  # workers whose delays are drawn; the rest are taken to be like them


@dataclass(frozen=True, slots=True)
class Subject:
    """What is planned for: a resolved configuration, and what of its model counts. Data that is large is not read."""

    config: RunConfig
    rule: Rule
    consistency: Consistency
    layout: FlatLayout
    buffers: Mapping[str, Tensor]
    pushes: int

    @classmethod
    def of(cls, config: RunConfig) -> Subject:
        """Of this configuration."""
        resolved = configure(config)
        task = _task(resolved)
        model = task.make_model(resolved.seed)
        rule = make_rule(resolved.rule, optimizer=resolved.optimizer)
        consistency = build_consistency(resolved.consistency)
        pushes = expected_pushes(len(task.train), resolved.batch_size, epochs=resolved.epochs)
        return cls(resolved, rule, consistency, FlatLayout.of_model(model), persistent_buffers(model), pushes)

    @property
    def has_processes(self) -> bool:
        """Whether its workers are processes."""
        return bool(ENGINES.load(self.config.engine).has_processes)


def memory_needed(subject: Subject) -> Memory:
    """What a run needs at most."""
    config, consistency = subject.config, subject.consistency
    workers = config.workers
    judged = [make_rule(spec) for spec in config.probe_rules] if config.probe_every else None
    if subject.has_processes:
        return local_memory(
            subject.rule,
            subject.layout,
            workers=workers,
            consistency=consistency,
            buffers=subject.buffers,
            on_cuda=config.device != "cpu",
            judged=judged,
        )
    return simulated_memory(subject.rule, subject.layout, workers=workers, consistency=consistency, judged=judged)


def traffic_of(subject: Subject, *, link: str = "", step_seconds: float | None = None) -> tuple[Traffic, str]:
    """What travels in a run, and where the time of a commit is known from.

    Args:
        subject: of the plan.
        link: of a worker and of the server, such as ``1Gbit/s``; empty: the configuration's bandwidth.
        step_seconds: that a gradient takes; None: the means of the configuration's delay.

    Raises:
        InvalidArgument: for real workers without ``step_seconds``: their delays are known when they have run.
    """
    config, layout = subject.config, subject.layout
    commit, source = _commit_seconds(subject)
    slowest_decides = config.consistency.startswith("ssp") or pushes_of_a_round(subject.consistency, config.workers) > 1
    traffic = Traffic(
        size=layout.numel * layout.dtype.itemsize,
        steps=_steps(subject, step_seconds),
        commit=commit,
        link=bytes_per_second(link) if link else config.bandwidth,
        latency=config.latency,
        tied=slowest_decides,
    )
    return traffic, source


def print_plan(runs: Sequence[RunConfig], *, link: str = "", step_seconds: float | None = None) -> None:
    """Print one run's configuration, or the names of several; the memory of the largest; and of one the traffic.

    Traffic is told where a link is given (``link``, or the run's own bandwidth) or the seconds of a step are.
    """
    subjects = [Subject.of(config) for config in {_size(config): config for config in runs}.values()]
    asked = link or step_seconds is not None or runs[0].bandwidth < math.inf
    found = traffic_of(subjects[0], link=link, step_seconds=step_seconds) if asked and len(runs) == 1 else None
    if len(runs) == 1:
        for name, value in subjects[0].config.as_json().items():
            print(f"{name:<22} {value}")
    else:
        for config in runs:
            print(config.directory_name)
        print(f"\n{len(runs)} runs")
    largest = max((memory_needed(subject) for subject in subjects), key=_everything)
    print(f"\nmemory{' of the largest run' if len(runs) > 1 else ''}, MiB at most; {_mebibytes(largest.copy)} a copy")
    print("\n".join(_table(largest)))
    if found is not None:
        _print_traffic(subjects[0], *found)


def _print_traffic(subject: Subject, traffic: Traffic, source: str) -> None:
    size = subject.config.batch_size
    faster = "; ".join(_faster(subject))
    print("\n" + "\n".join(described(traffic, about_commit=source)))
    batch = size if isinstance(size, int) else max(size)
    print("\n" + "\n  ".join(advice(traffic, batch=batch, faster_commit=faster)))
    if traffic.link < math.inf:
        print("\n" + _where(subject, traffic))


def _faster(subject: Subject) -> list[str]:
    """What to type for a commit that takes less time."""
    words = [] if _is_compiled(subject) or not_elementwise(subject.rule) else ["--commit-path compiled"]
    if subject.rule.compensation.window_plan is not None:
        words.append("fewer gradients in the rule's window")
    return [*words, "--commit-threads 2, where cores are idle"]


def _table(memory: Memory) -> list[str]:
    """The rows of every part, and their sums."""
    lines = [_row(part.name, part.bytes, part.words) for part in memory.server]
    lines.append(_row("server in all", total(memory.server), ""))
    lines += [_row(part.name, part.bytes, part.words) for part in memory.beside]
    if memory.worker:
        lines.append("in each worker's process:")
        lines += [_row(part.name, part.bytes, part.words) for part in memory.worker]
    return [*lines, "not counted: activations of a batch, the data set, PyTorch itself"]


def _row(name: str, size: int, words: str) -> str:
    return f"  {name:<16} {_mebibytes(size):>10}  {words}".rstrip()


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _where(subject: Subject, traffic: Traffic) -> str:
    """What of this is there today."""
    service = max(traffic.commit, traffic.size / traffic.link)
    simulate = f"--bandwidth {traffic.link:g} --service {service:.3g}"
    if subject.has_processes:
        return f"Here no link is used: local workers share memory. Simulate one: --engine simulated {simulate}"
    return f"With workers on other machines: tardigrad serve. To simulate them on this link: {simulate}"


def _task(config: RunConfig) -> Task:
    """The task, without its data where it can be built so."""
    try:
        with without_data():
            return blueprint_of(config).build_task()
    except RuntimeError:  # it computes with its data; or it is wrong, which is said now
        return blueprint_of(config).build_task()


def _steps(subject: Subject, given: float | None) -> list[float]:
    """Mean seconds that each worker takes for a gradient."""
    config = subject.config
    if given is not None:
        seconds = require_number(
            "dry run", "step_seconds", given, low=0.0, high=math.inf, include_low=False, include_high=False
        )
        return [seconds / speed for speed in config.speeds or [1.0] * config.workers]
    if subject.has_processes:
        raise InvalidArgument(
            "how long a real worker takes for a gradient is not known before it has run: add --step-seconds 0.5, the "
            "'step' that tardigrad status shows of a run like this."
        )
    delay, luck = build_delay(config.delay), 1.0 + config.straggler_probability * (config.straggler_factor - 1.0)
    means = []
    for worker in range(min(config.workers, _MOST_ASKED)):
        draw = delay.draws_of(worker, random_stream(config.seed, "delay", worker))
        means.append(luck * statistics.fmean(draw() for _ in range(_DRAWS)))
    speeds = config.speeds or [1.0] * config.workers
    return [means[worker % _MOST_ASKED] / speeds[worker] for worker in range(config.workers)]


def _commit_seconds(subject: Subject) -> tuple[float, str]:
    """Seconds of one exchange on the server, and where they are known from."""
    config, rule, layout = subject.config, subject.rule, subject.layout
    if config.service:
        return config.service, "the run's --service"
    if _is_compiled(subject):
        streams, speed = streams_of(rule), _memory_speed()
        about = f"compiled: {streams} streams of the weights at this machine's {speed / 1e9:.2g} GB/s"
        return streams * layout.size * layout.dtype.itemsize / speed, about
    return _exact_seconds(subject), "exact: timed here on made-up gradients"


def _is_compiled(subject: Subject) -> bool:
    """Whether the commit path will be the compiled one; ``auto`` finds out at a run's start whether it works here."""
    path = make_path(subject.config.commit_path, subject.rule, subject.layout, commits=subject.pushes)
    return path.name == "compiled"


def streams_of(rule: Rule) -> int:
    """How often an exchange reads or writes a buffer as large as the weights.

    Gradient and weights are read, weights and the worker's next snapshot written; a backup that the rule reads is one
    more, every tensor of state two. A rule that needs numbers over the whole vector has read what it reads before.
    """
    repair, compared = rule.compensation, int(rule.compensation.reads_backup)
    own = len(repair.state_spec())
    before = repair.read_passes * (1 + 2 * compared + own)
    return before + 4 + compared + 2 * (own + len(rule.optimizer.state_spec()))


def _memory_speed() -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    source, target = torch.ones(2**24), torch.zeros(2**24)
    seconds = []
    for _ in range(5):
        since = perf_counter()
        target.copy_(source)
        seconds.append(perf_counter() - since)
    return 2.0 * source.numel() * source.element_size() / min(seconds)


def _exact_seconds(subject: Subject) -> float:
    """Seconds of an exchange by the exact path: timed on a part of the buffer where its time is linear in the size."""
    rule, layout = subject.rule, subject.layout
    plan = rule.compensation.window_plan
    if plan is not None:
        row = plan.rows_for(subject.config.workers) * layout.dtype.itemsize
        part = min(layout.size, max(1, _WINDOW_SAMPLE // row))
        solving = _timed(subject, [_made(1, layout)])  # what takes as long for any size: a system of so many equations
        rest = _timed(subject, [_made(part, layout)]) - solving
        return solving + max(0.0, rest) * layout.size / part
    if {rule.compensation.scope, rule.optimizer.scope} == {"element"}:
        part = min(layout.size, _SAMPLE)
        return _timed(subject, [_made(part, layout)]) * layout.size / part
    return _timed(subject, [torch.full(shape, 0.01, dtype=layout.dtype) for shape in layout.shapes])


def _made(size: int, layout: FlatLayout) -> Tensor:
    return torch.full((size,), 0.01, dtype=layout.dtype)


def _timed(subject: Subject, made: Sequence[Tensor]) -> float:
    """Seconds of an exchange of these weights, at the least: others may be busy now."""
    threads = chosen_commit_threads(subject.config, subject.layout.numel)
    workers = max(2, subject.config.workers)
    server = ParameterServer(made, subject.rule, lr=1e-3, workers=workers, commit_path="exact", commit_threads=threads)
    for worker in range(2 if subject.has_processes else 0):
        server.backups.keep_in(worker, server.flat.clone())
    gradient, seconds = server.flat.clone(), []
    for turn in range(8):  # two workers in turn: every gradient is one commit late
        if turn == 2:
            _fill_window(server)
        since = perf_counter()
        server.receive(Push(turn % 2, gradient, norm=1.0))
        server.pull(turn % 2, copy=False)
        seconds.append(perf_counter() - since)
    return min(seconds[2:])


def _fill_window(server: ParameterServer) -> None:
    """Write to every gradient in the rule's window: memory that nobody wrote to is read from one page of zeros."""
    state = server.commits.state_dict()
    if "window" in state:
        state["window"]["rows"].fill_(0.01)
        server.commits.load_state_dict(state)


def _everything(memory: Memory) -> int:
    return total(memory.server) + total(memory.beside)


def _size(config: RunConfig) -> tuple[object, ...]:
    return config.rule, config.optimizer, config.workers, config.consistency, config.engine, config.task
