"""`train`: from a recipe to a finished run in its directory; `resume`: a run that was stopped or killed goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from tardigrad.assembling import assemble
from tardigrad.assembling import resolve as resolve
from tardigrad.assembling import resolve_rule as resolve_rule
from tardigrad.checkpoint import Checkpoint, read_checkpoint, remove_checkpoints, write_checkpoint
from tardigrad.config import RunConfig, file_name
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Engine, Evaluation, Job, Observer
from tardigrad.errors import Diverged, RunDirectoryError, Stopped
from tardigrad.recording import GROWING, Recorder, create_directory, cut_back, may_go_on
from tardigrad.rules.base import Rule, make_rule
from tardigrad.server import ParameterServer
from tardigrad.specs import parse_spec
from tardigrad.tasks.base import Task


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
    stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Run:
    """Train, and record the run.

    A directory that holds a run of the same configuration which was stopped, or killed after a checkpoint
    (``checkpoint_every``), goes on from there: bit for bit as if nothing had happened.

    Args:
        recipe: a registered recipe ("digits"), a whole configuration, or a task of your own.
        rule: a spec such as ``"dc-asgd-a(lambda0=4)"``, or what `tardigrad.rule` made (its optimizer included).
        directory: where to record; by default a new one below ``runs/``.
        observers: told of every pull, commit, rejection and evaluation; of a run that goes on, of the rest.
        stop: asked after every push; True: write a checkpoint and raise `Stopped`.
        **settings: any field of `RunConfig`, such as workers=16, lr=0.1, seed=0.

    Returns:
        The finished run.

    Raises:
        InvalidArgument: for an unknown name or a value outside its range; nothing was written.
        RunDirectoryError: the directory holds a finished run, files of others, a run of another configuration, or
            no checkpoint that can be used; it was left as it was.
        Diverged: when the weights are no longer finite; the run is recorded up to there.
        Stopped: because ``stop`` said so.
    """
    config, task = resolve(recipe, rule=rule, **settings)
    made = rule if isinstance(rule, Rule) else make_rule(config.rule, optimizer=config.optimizer)
    with _threads(config.threads), torch.random.fork_rng(devices=_cuda_devices(config)):
        engine_class = ENGINES.load(config.engine)
        job = assemble(config, task, made)
        place = Path(directory) if directory is not None else _fresh_directory(config)
        state = _prepare(place, config)
        recorder = _recorder(place, config, task, job, None if state is None else state["recorder"])
        engine = engine_class(replace(job, observers=(recorder, *observers)))
        if state is not None:
            engine.load_state_dict(state.pop("engine"))  # its tensors are copied, and not kept any longer
        summary = _run(engine, recorder, _Checkpoints(engine, recorder, config, stop))
    return Run(place, config, recorder.evaluations, summary, job.server)


def resume(
    directory: str | Path,
    *,
    observers: Sequence[Observer] = (),
    stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Run:
    """Go on with a run that was stopped, or killed after a checkpoint, from what its directory says.

    A run of a task or rule that no name leads to goes on by `train`, with the arguments it was begun with.

    Args:
        directory: of the run.
        observers: told of the rest.
        stop: as for `train`.
        **settings: fields of `RunConfig` that change nothing of what is computed: data_dir, checkpoint_every, label.

    Raises:
        RunDirectoryError: there is no such run, it has ended, or it has no checkpoint that can be used.
        Diverged, Stopped: as `train`.
    """
    place = Path(directory)
    return train(stopped_config(place), directory=place, observers=observers, stop=stop, **settings)


def stopped_config(directory: Path) -> RunConfig:
    """The configuration of a run that can go on; `RunDirectoryError` for any other directory."""
    if not may_go_on(directory):
        raise RunDirectoryError(
            f"{directory} holds no run that can go on: one that has not ended and has a checkpoint. A run writes one "
            "when it is stopped, and with --checkpoint-every MINUTES now and then."
        )
    return RunConfig.from_json(json.loads((directory / "config.json").read_text()))


class _Checkpoints:
    """Writes checkpoints between two pushes: every so many minutes, and when the run is to be stopped."""

    def __init__(self, engine: Engine, recorder: Recorder, config: RunConfig, stop: Callable[[], bool] | None) -> None:
        self._engine, self._recorder, self._config, self._stop = engine, recorder, config, stop
        self._seconds = 60.0 * config.checkpoint_every
        self._since = perf_counter()

    @property
    def pause(self) -> Callable[[], bool] | None:
        """What the engine asks after each push; None where there is nothing to ask."""
        return self._due if self._stop is not None or self._seconds else None

    def _due(self) -> bool:
        stopped = self._stop is not None and self._stop()
        if stopped or (self._seconds and perf_counter() - self._since >= self._seconds):
            self._write()
        return stopped

    def _write(self) -> None:
        engine, recorder = self._engine, self._recorder
        state = {
            "config": self._config.as_json(),
            "engine": engine.state_dict(),
            "recorder": recorder.state_dict(),
        }
        write_checkpoint(recorder.directory, state, version=engine.job.server.version, growing=GROWING)
        self._since = perf_counter()


def _prepare(place: Path, config: RunConfig) -> dict[str, Any] | None:
    """Make the directory ready: cut back to its last checkpoint, whose state is returned; None: the run begins."""
    found = read_checkpoint(place) if may_go_on(place) else None
    if found is None:
        create_directory(place)
        return None
    _require_same(config, found)
    cut_back(place, found.lengths)
    return found.state


def _require_same(config: RunConfig, found: Checkpoint) -> None:
    """Refuse to go on with a configuration that computes something else."""
    mine, theirs = config.computes, RunConfig.from_json(found.state["config"]).computes
    others = [f"{name}={theirs[name]!r}, not {mine[name]!r}" for name in mine if mine[name] != theirs[name]]
    if others:
        raise RunDirectoryError(
            f"{found.path.parent} holds a stopped run with {', '.join(others)}. Name another directory, or go on with "
            "the settings it was begun with."
        )


def _run(engine: Engine, recorder: Recorder, checkpoints: _Checkpoints) -> dict[str, Any]:
    """Run to the end, which is recorded whatever it is, or until it is stopped."""
    server = engine.job.server
    status, message = "interrupted", "ended by an error or by hand"
    try:
        if not engine.run(checkpoints.pause):
            status = "stopped"
            raise Stopped(recorder.directory, server.version)
        status, message = "finished", "every sample was applied or is listed as lost"
    except Diverged as error:
        status, message = "diverged", str(error)
        error.add_note(f"The run is recorded in {recorder.directory}.")
        raise
    finally:
        if status == "stopped":
            recorder.close()
        else:
            recorder.save_weights(server.flat, server.buffers.combined(server.live))
            how = engine.job.body.computation
            summary = recorder.finish(status, message=message, memory=server.bytes_held(), gradients=how)
        if status in ("finished", "diverged"):
            remove_checkpoints(recorder.directory)
    return summary


def _recorder(place: Path, config: RunConfig, task: Task, job: Job, state: Mapping[str, Any] | None) -> Recorder:
    metric = task.metric
    described = {
        "name": metric.name if metric else "loss",
        "unit": metric.unit if metric else "",
        "scale": metric.scale if metric else 1.0,
        "lower_is_better": metric.lower_is_better if metric else True,
    }
    layout, samples = job.server.layout, job.samples_per_epoch
    return Recorder(place, config, layout=layout, samples_per_epoch=samples, metric=described, state=state)


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
