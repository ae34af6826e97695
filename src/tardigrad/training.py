"""`train`: from a recipe to a finished run in its directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tardigrad.config import RunConfig, file_name
from tardigrad.delays import ComputeTimes, build_delay
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Engine, Evaluation, Job, Network, Observer
from tardigrad.errors import Diverged, InvalidArgument, UnsupportedPlatform
from tardigrad.evaluation import Evaluator
from tardigrad.imports import import_all
from tardigrad.leases import Leases
from tardigrad.recipes import load_recipe
from tardigrad.recording import Recorder, create_directory
from tardigrad.rules.base import Rule, make_rule
from tardigrad.schedules import build_schedule
from tardigrad.server import ParameterServer
from tardigrad.specs import parse_spec
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import Task
from tardigrad.worker import Worker


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended.

    Attributes:
        directory: where it is recorded.
        config: the resolved configuration.
        evaluations: in order; the first is of the initial weights.
        summary: status, staleness, rejections, memory and more, as in summary.json.
    """

    directory: Path
    config: RunConfig
    evaluations: list[Evaluation]
    summary: dict[str, Any]
    _server: ParameterServer

    def weights(self) -> list[Tensor]:
        """A copy of the final weights, in the order of the model's parameters."""
        return self._server.weights()

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the final weights and buffers by name; ``model.load_state_dict(..., strict=False)`` takes it."""
        named = dict(zip(self._server.layout.names, self.weights(), strict=True))
        return named | self._server.buffers.combined(self._server.live)


def train(
    recipe: str | RunConfig | Task,
    *,
    rule: str | Rule | None = None,
    directory: str | Path | None = None,
    observers: Sequence[Observer] = (),
    **settings: Any,
) -> Run:
    """Train, and record the run.

    Args:
        recipe: a registered recipe ("digits"), a whole configuration, or a task of your own.
        rule: a spec such as ``"dc-asgd-a(lambda0=4)"``, or what `tardigrad.rule` made (its optimizer included).
        directory: where to record; by default a new one below ``runs/``.
        observers: told of every pull, commit, rejection and evaluation.
        **settings: any field of `RunConfig`, such as workers=16, lr=0.1, seed=0.

    Returns:
        The finished run.

    Raises:
        InvalidArgument: for an unknown name or a value outside its range; nothing was written.
        Diverged: when the weights are no longer finite; the run is recorded up to there.
    """
    config, task = resolve(recipe, rule=rule, **settings)
    made = rule if isinstance(rule, Rule) else make_rule(config.rule, optimizer=config.optimizer)
    with _threads(config.threads), torch.random.fork_rng(devices=_cuda_devices(config)):
        engine_class = ENGINES.load(config.engine)
        job = assemble(config, task, made)
        place = Path(directory) if directory is not None else _fresh_directory(config)
        create_directory(place)
        watch, recorder = _Evaluations(), _recorder(place, config, task, job)
        engine = engine_class(replace(job, observers=(watch, recorder, *observers)))
        summary = _run(engine, recorder)
    return Run(place, config, watch.records, summary, job.server)


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
    task = TASKS.build(config.task)
    if not isinstance(task, Task):
        raise InvalidArgument(f"task {config.task!r} is not a Task; see tardigrad.tasks.base.")
    return task


def assemble(config: RunConfig, task: Task, rule: Rule) -> Job:
    """Build the parts of a run; nobody watches it yet."""
    task = task.to(config.device)
    body = Worker(task, seed=config.seed, device=config.device)
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
        evaluator=Evaluator(task, seed=config.seed, recalibrate=recalibrate, device=config.device),
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


class _Evaluations(Observer):
    """Keeps the evaluations."""

    def __init__(self) -> None:
        self.records: list[Evaluation] = []

    def evaluated(self, evaluation: Evaluation) -> None:
        self.records.append(evaluation)


def _run(engine: Engine, recorder: Recorder) -> dict[str, Any]:
    """Run to the end; whatever the end is, it is recorded."""
    status, message = "interrupted", "ended by an error or by hand"
    try:
        engine.run()
        status, message = "finished", "every sample was applied or is listed as lost"
    except Diverged as error:
        status, message = "diverged", str(error)
        error.add_note(f"The run is recorded in {recorder.directory}.")
        raise
    finally:
        server = engine.job.server
        recorder.save_weights(server.flat, server.buffers.combined(server.live))
        summary = recorder.finish(status, message=message, memory=server.bytes_held())
    return summary


def _recorder(place: Path, config: RunConfig, task: Task, job: Job) -> Recorder:
    metric = task.metric
    described = {
        "name": metric.name if metric else "loss",
        "unit": metric.unit if metric else "",
        "scale": metric.scale if metric else 1.0,
        "lower_is_better": metric.lower_is_better if metric else True,
    }
    layout, samples = job.server.layout, job.samples_per_epoch
    return Recorder(place, config, layout=layout, samples_per_epoch=samples, metric=described)


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


def _fresh_directory(config: RunConfig) -> Path:
    """A directory below runs/ that does not exist yet."""
    recipe = parse_spec(config.recipe or config.task).name
    base = Path("runs") / file_name(recipe)
    place, number = base / config.directory_name, 1
    while place.exists():
        number += 1
        place = base / f"{config.directory_name}-{number}"
    return place


def _cuda_devices(config: RunConfig) -> list[int]:
    if not config.device.startswith("cuda"):
        return []
    return [torch.device(config.device).index or 0]


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with so many threads, and put the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
