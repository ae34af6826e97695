"""From a configuration to the parts of a run: what is named in it is found, checked and put together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.chaos import expected_pushes, fault_plan
from tardigrad.config import RunConfig
from tardigrad.delays import ComputeTimes, build_delay
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Job, Limits, Meeting, Network
from tardigrad.errors import InvalidArgument, UnsupportedPlatform
from tardigrad.faults import FaultPlan
from tardigrad.imports import import_all
from tardigrad.leases import Leases
from tardigrad.recipes import load_recipe
from tardigrad.rules.base import Rule, make_rule
from tardigrad.schedules import build_schedule
from tardigrad.server import ParameterServer
from tardigrad.shards.server import ShardedServer, require_shardable
from tardigrad.tasks.base import Task
from tardigrad.transports.meeting import parse_address

_LARGE = 1_000_000  # parameters from which a commit is worth a second thread
_MOST_COMMIT_THREADS = 8  # more do not read memory any faster


def resolve(
    recipe: str | RunConfig | Task, *, rule: str | Rule | None = None, **settings: Any
) -> tuple[RunConfig, Task]:
    """The whole configuration and the task it names."""
    config = configure(recipe, rule=rule, **settings)
    return config, recipe if isinstance(recipe, Task) else blueprint_of(config).build_task()


def configure(recipe: str | RunConfig | Task, *, rule: str | Rule | None = None, **settings: Any) -> RunConfig:
    """The whole configuration, every keyword and number written out; no data is read."""
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
    parse_address(config.listen)
    import_all(config.imports)
    if not isinstance(rule, Rule):
        spec, optimizer = resolve_rule(config)
        config = config.replace(rule=spec, optimizer=optimizer)
    require_probes(config)
    if config.shards > 1:
        require_shardable(make_rule(config.rule, optimizer=config.optimizer), probe_every=config.probe_every)
    beside = tuple(make_rule(spec).spec for spec in config.probe_rules)
    return config.replace(threads=chosen_threads(config), probe_rules=beside)


def resolve_rule(config: RunConfig) -> tuple[str, str]:
    """The specs of a configuration's rule and optimizer with every keyword written out."""
    made = make_rule(config.rule, optimizer=config.optimizer)
    return made.spec, made.optimizer_spec


def require_probes(config: RunConfig) -> None:
    """Raise `InvalidArgument` for a rule that follows probes in a run that makes none."""
    if not config.probe_every and make_rule(config.rule).compensation.follows_probes:
        raise InvalidArgument(f"{config.rule} follows probes, and there are none; type --probe-every 50.")


def blueprint_of(config: RunConfig, made: Task | None = None) -> Blueprint:
    """From which worker and evaluator of a configuration are built; ``made``: a task that no name leads to."""
    return Blueprint(
        task=config.task,
        seed=config.seed,
        arithmetic=Arithmetic(config.device, config.precision, config.memory_format, config.cuda_graph, config.wire),
        threads=config.threads,
        recalibrate=config.batchnorm == "recalibrate",
        imports=config.imports,
        data_dir=config.data_dir,
        made=made,
    )


def assemble(config: RunConfig, task: Task, rule: Rule, *, named: bool = True) -> Job:
    """Build the parts of a run; nobody watches it yet.

    Args:
        config: resolved.
        task: that it names, or one of the caller's own.
        rule: that it names.
        named: whether the configuration's word leads to the task, so that other processes can build it.
    """
    engine = ENGINES.load(config.engine)
    blueprint = blueprint_of(config, None if named else task)
    here = blueprint.on("cpu") if engine.has_processes else blueprint
    body = here.build_worker(task)
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
    evaluator, times = here.build_evaluator(task), _compute_times(config)
    faults = faults_of(config, pushes=expected_pushes(samples, config.batch_size, epochs=config.epochs))
    server = server_maker(config)(  # the last: with several shards it starts processes
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
        commit_threads=chosen_commit_threads(config, body.layout.numel),
        measure_every=config.measure_every,
        probe_every=config.probe_every,
        probe_rules=config.probe_rules,
        layout=body.layout,
    )
    return Job(
        server=server,
        body=body,
        evaluator=evaluator,
        times=times,
        network=Network(config.latency, config.bandwidth, config.service, config.wire),
        samples_per_epoch=samples,
        evaluate_every=config.evaluate_every,
        blueprint=blueprint,
        faults=faults,
        limits=Limits(
            config.hang_after, config.first_step, config.max_restarts, config.on_failure, config.digest_every
        ),
        speeds=config.speeds,
    )


def faults_of(config: RunConfig, *, pushes: int) -> FaultPlan:
    """What is to go wrong in a run of which so many pushes are expected; a worker without a link has no fault of it."""
    unlinked = {"local": config.workers, "simulated": 0}.get(config.engine, config.own_workers)
    return fault_plan(config.chaos, workers=config.workers, pushes=pushes, unlinked=unlinked)


def server_maker(config: RunConfig) -> Callable[..., ParameterServer]:
    """What makes the server of a run: one that holds all weights, or one of several shards."""
    if config.shards == 1:
        return ParameterServer
    opening = ENGINES.load(config.engine).opening(config.imports, meeting_of(config, Path()))
    return partial(ShardedServer, shards=config.shards, opening=opening)


def meeting_of(config: RunConfig, directory: Path) -> Meeting:
    """How workers of other machines reach a run that is recorded there."""
    return Meeting(
        directory,
        listen=config.listen,
        secret_file=config.secret_file,
        trusted_network=config.trusted_network,
        reconnect_within=config.reconnect_within,
        own_workers=config.own_workers,
        workers=config.workers,
        shards=config.shards,
        data_dir=config.data_dir,
        address=config.address,
        ray=config.ray,
    )


def chosen_threads(config: RunConfig) -> int:
    """Threads that compute a gradient: those asked for, or so many that real workers do not crowd the cores."""
    if config.threads or not ENGINES.load(config.engine).has_processes:
        return config.threads or 1
    return max(1, len(os.sched_getaffinity(0)) // config.workers)


def chosen_commit_threads(config: RunConfig, parameters: int) -> int:
    """Threads that compute a commit: those asked for; of a large model, so many as have a core that no worker needs."""
    if config.commit_threads or parameters < _LARGE:
        return config.commit_threads or 1
    if not ENGINES.load(config.engine).has_processes:
        return config.threads or 1  # gradients and commits take turns on the same cores
    return max(1, min(_MOST_COMMIT_THREADS, len(os.sched_getaffinity(0)) - config.workers * chosen_threads(config)))


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
