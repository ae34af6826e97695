"""`train`: from a recipe to a finished run in its directory; `resume`: a run that was stopped or killed goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.assembling import assemble, blueprint_of, configure, meeting_of
from tardigrad.assembling import chosen_threads as chosen_threads
from tardigrad.assembling import resolve as resolve
from tardigrad.assembling import resolve_rule as resolve_rule
from tardigrad.chaos import describe
from tardigrad.checkpoint import read_checkpoint, remove_checkpoints
from tardigrad.config import RunConfig, file_name
from tardigrad.directories import create_directory, cut_back, lives, may_go_on, require_usable
from tardigrad.engines import ENGINES
from tardigrad.engines.base import BasicEngine, Evaluation, Observer, Stage
from tardigrad.errors import (
    AllWorkersLost,
    Diverged,
    RunDirectoryError,
    ShardLost,
    Stopped,
    TardigradError,
    WorkerFailed,
)
from tardigrad.integrations.tensorboard import event_files
from tardigrad.logs import read_header
from tardigrad.presence import require_nobody
from tardigrad.recording import Recorder
from tardigrad.rules.base import Rule, make_rule
from tardigrad.saving import Saving
from tardigrad.server import ParameterServer
from tardigrad.specs import parse_spec
from tardigrad.steering import Steering
from tardigrad.stores import bring, require_same
from tardigrad.tasks.base import Metric, Task


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
        AllWorkersLost, WorkerFailed: with real workers; a checkpoint was written.
        ShardLost: with several shards; the run goes on from its last checkpoint.
    """
    config = configure(recipe, rule=rule, **settings)
    engine_class = ENGINES.load(config.engine)
    engine_class.prepare(blueprint_of(config))
    task = recipe if isinstance(recipe, Task) else blueprint_of(config).build_task()
    made = rule if isinstance(rule, Rule) else make_rule(config.rule, optimizer=config.optimizer)
    with threads(1), torch.random.fork_rng(devices=_cuda_devices(config)), ExitStack() as begun:
        place = Path(directory) if directory is not None else fresh_directory(config)
        if engine_class.has_processes:
            require_nobody(place)
        tell(observers, bring(config.store, place, config.computes))
        require_room(place)
        job = assemble(as_begun(config, place), task, made, named=not isinstance(recipe, Task))
        begun.callback(job.server.close)
        make_ready(job.server, observers, mirrored=engine_class.has_processes)
        state = opened(place, config)
        life = 0 if state is None else lives(place) + 1
        recorder = recorder_of(place, config, task.metric, job, None if state is None else state["recorder"])
        with watched(place, recorder, state, observers, steered=engine_class.has_processes) as (steering, watching):
            meeting = meeting_of(config, place)
            engine = engine_class(replace(job, observers=watching, steering=steering, life=life, meeting=meeting))
            if state is None and job.faults.faults:
                recorder.noted(0.0, f"chaos: {describe(job.faults)}")
            if state is not None:
                engine.load_state_dict(state.pop("engine"))  # its tensors are copied, and not kept any longer
            summary = run_engine(engine, recorder, Saving(engine, recorder, config, stop))
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


def as_begun(config: RunConfig, place: Path) -> RunConfig:
    """The configuration with the commit path that the run in this directory took, if there is one: it keeps to it."""
    if not may_go_on(place):
        return config
    header = read_header(place)
    return config.replace(commit_path=header["commit_path"], commit_threads=header.get("commit_threads", 1))


def make_ready(server: ParameterServer, observers: Sequence[Observer], *, mirrored: bool) -> None:
    """Compile what commits need, which takes seconds, and say so."""
    if server.commits.path.name == "compiled":
        for observer in observers:
            observer.noted(0.0, "compiling the commit: seconds, and fewer the next time")
    server.prepare(mirrored=mirrored)


def tell(observers: Sequence[Observer], words: str) -> None:
    """Tell those who watch what was done before the run begins; nothing where there are no words."""
    for observer in observers if words else ():
        observer.noted(0.0, words)


def require_room(place: Path) -> None:
    """Raise `RunDirectoryError` where a run can neither begin nor go on; asked before anything is started."""
    if not may_go_on(place):
        require_usable(place)


def opened(place: Path, config: RunConfig) -> dict[str, Any] | None:
    """Make the directory ready: cut back to its last checkpoint, whose state is returned; None: the run begins."""
    found = read_checkpoint(place) if may_go_on(place) else None
    if found is None:
        create_directory(place)
        return None
    require_same(config.computes, found.state["config"], place)
    cut_back(place, found.growing)
    return found.state


def run_engine(engine: BasicEngine, recorder: Recorder, saving: Saving) -> dict[str, Any]:
    """Run to the end, which is recorded whatever it is, or until it is stopped.

    Where shards do not hold the weights of one version any more, it is as if this process had been killed.
    """
    server, left = engine.job.server, None
    status, message = "interrupted", "ended by an error or by hand"
    try:
        if not engine.run(saving.pause):
            status = "stopped"
            raise Stopped(recorder.directory, server.version)
        left = _left_by(server)
        status, message = "finished", "every sample was applied or is listed as lost"
    except Diverged as error:
        status, message = "diverged", str(error)
        error.add_note(f"The run is recorded in {recorder.directory}.")
        raise
    except (AllWorkersLost, WorkerFailed) as error:
        saving.save()
        status = "stopped"
        error.add_note(f"Its state is saved; when the cause is gone: {engine.goes_on_by.format(recorder.directory)}")
        raise
    except ShardLost as error:
        status = "stopped"  # as if this process had been killed
        error.add_note(f"If there is one: {engine.goes_on_by.format(recorder.directory)}")
        raise
    finally:
        try:
            saving.finish()
            if status in ("interrupted", "diverged"):
                with suppress(TardigradError):
                    left = _left_by(server)
            if left is None:
                recorder.close()
            else:
                recorder.save_weights(left[0], server.buffers.combined(server.live))
                summary = recorder.finish(status, message=message, memory=left[1], gradients=engine.computation)
            if left is not None and status != "interrupted":
                if not saving.asked_for:
                    remove_checkpoints(recorder.directory)
                saving.keep_end()
        finally:
            server.close()
    return summary


def _left_by(server: ParameterServer) -> tuple[Tensor, dict[str, int]]:
    """The last weights, and the bytes held. Raises TardigradError where shards do not hold them any more."""
    return server.flat, server.bytes_held()


def recorder_of(
    place: Path, config: RunConfig, metric: Metric | None, job: Stage, state: Mapping[str, Any] | None
) -> Recorder:
    """What records a run in its directory; ``state``: of its last checkpoint, None where it begins."""
    described = {
        "name": metric.name if metric else "loss",
        "unit": metric.unit if metric else "",
        "scale": metric.scale if metric else 1.0,
        "lower_is_better": metric.lower_is_better if metric else True,
    }
    path = job.server.commits.path
    return Recorder(
        place,
        config,
        layout=job.server.layout,
        samples_per_epoch=job.samples_per_epoch,
        metric=described,
        commits=(path.name, path.threads, path.made_by),
        state=state,
    )


@contextmanager
def watched(
    place: Path,
    recorder: Recorder,
    state: Mapping[str, Any] | None,
    observers: Sequence[Observer],
    *,
    steered: bool,
) -> Iterator[tuple[Steering | None, list[Observer]]]:
    """Those who watch a run: its record, where it is steered its status, where it is installed TensorBoard."""
    steering = Steering(place) if steered else None
    events = event_files(place, samples=0 if state is None else state["engine"]["server"]["samples_applied"])
    own = [each for each in (recorder, steering, events) if each is not None]
    try:
        yield steering, [*own, *observers]
    finally:
        if steering is not None:
            steering.close()
        if events is not None:
            events.close()


def fresh_directory(config: RunConfig) -> Path:
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
