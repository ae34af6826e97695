"""From a configuration to the parts of a run: what is named in it is found, checked and put together."""

from __future__ import annotations

import sys
from typing import Any

import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.config import RunConfig
from tardigrad.data.places import data_directory
from tardigrad.delays import ComputeTimes, build_delay
from tardigrad.engines.base import Job, Network
from tardigrad.errors import InvalidArgument, UnsupportedPlatform
from tardigrad.evaluation import Evaluator
from tardigrad.imports import import_all
from tardigrad.leases import Leases
from tardigrad.recipes import load_recipe
from tardigrad.rules.base import Rule, make_rule
from tardigrad.schedules import build_schedule
from tardigrad.server import ParameterServer
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import Task
from tardigrad.worker import Worker


def resolve(
    recipe: str | RunConfig | Task, *, rule: str | Rule | None = None, **settings: Any
) -> tuple[RunConfig, Task]:
    """The whole configuration and the task it names."""
    require_platform()
    if isinstance(recipe, Task):
        config = RunConfig(task=recipe.name, recipe=recipe.name)
    else:
        config = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if isinstance(rule, Rule):
        settings |= {"rule": rule.spec, "optimizer": rule.optimizer_spec}
    elif rule is not None:
        settings["rule"] = rule
    config = config.replace(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    require_device(config.device)
    import_all(config.imports)
    task = recipe if isinstance(recipe, Task) else build_task(config)
    if not isinstance(rule, Rule):
        spec, optimizer = resolve_rule(config)
        config = config.replace(rule=spec, optimizer=optimizer)
    return config, task


def resolve_rule(config: RunConfig) -> tuple[str, str]:
    """The specs of a configuration's rule and optimizer with every keyword written out."""
    made = make_rule(config.rule, optimizer=config.optimizer)
    return made.spec, made.optimizer_spec


def build_task(config: RunConfig) -> Task:
    """The task a configuration names."""
    with data_directory(config.data_dir):
        task = TASKS.build(config.task)
    if not isinstance(task, Task):
        raise InvalidArgument(f"task {config.task!r} is not a Task; see tardigrad.tasks.base.")
    return task


def assemble(config: RunConfig, task: Task, rule: Rule) -> Job:
    """Build the parts of a run; nobody watches it yet."""
    task = task.to(config.device)
    arithmetic = Arithmetic(config.device, config.precision, config.memory_format, config.cuda_graph)
    body = Worker(task, seed=config.seed, arithmetic=arithmetic)
    samples = len(task.train)
    schedule = build_schedule(config.schedule, warmup=config.warmup)
    leases = Leases(
        samples,
        config.batch_size,
        epochs=config.epochs,
        workers=config.workers,
        policy=config.leases,
        seed=config.seed,
    )
    server = ParameterServer(
        body.weights,
        rule,
        lr=lambda applied: config.lr * schedule.factor(applied / samples),
        workers=config.workers,
        consistency=config.consistency,
        max_staleness=config.max_staleness,
        on_stale=config.on_stale,
        leases=leases,
        buffers=body.buffers,
        batchnorm=config.batchnorm,
        commit_path=config.commit_path,
        measure_every=config.measure_every,
        layout=body.layout,
    )
    recalibrate = config.batchnorm == "recalibrate"
    return Job(
        server=server,
        body=body,
        evaluator=Evaluator(task, seed=config.seed, recalibrate=recalibrate, arithmetic=arithmetic),
        times=_compute_times(config),
        network=Network(config.latency, config.bandwidth, config.service),
        samples_per_epoch=samples,
        evaluate_every=config.evaluate_every,
    )


def require_platform() -> None:
    """Raise `UnsupportedPlatform` anywhere but on Linux."""
    if sys.platform != "linux":
        raise UnsupportedPlatform(
            f"Tardigrad runs on Linux, with CPU or CUDA; this is {sys.platform}. "
            "On Windows use WSL 2, on macOS a Linux container."
        )


def require_device(name: str) -> None:
    """Raise `InvalidArgument` unless this is a device that is here: cpu, cuda, cuda:0 and so on."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidArgument(f"device {name!r} is not one of cpu, cuda, cuda:0, cuda:1 and so on.") from None
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgument(
            f"device {name!r} is not supported; type --device cpu, or --device cuda with an NVIDIA GPU."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidArgument(
            f"device {name!r} is not here: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs. "
            "Type --device cpu, or see tardigrad doctor."
        )


def _compute_times(config: RunConfig) -> ComputeTimes:
    size = config.batch_size
    return ComputeTimes(
        build_delay(config.delay),
        workers=config.workers,
        seed=config.seed,
        reference=size if isinstance(size, int) else max(size),
        speeds=config.speeds,
        straggler_probability=config.straggler_probability,
        straggler_factor=config.straggler_factor,
    )
