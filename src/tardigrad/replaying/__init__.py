"""`replay`: a recorded run computed again from its log, bit for bit; or its schedule under another rule."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import safetensors.torch
import torch

from tardigrad.arithmetic import threads
from tardigrad.checkpoint import Checkpoint, read_checkpoint
from tardigrad.config import RunConfig, file_name
from tardigrad.directories import create_directory
from tardigrad.durable import write_json
from tardigrad.engines.base import Job, Observer
from tardigrad.engines.replayed import ReplayedEngine
from tardigrad.errors import Diverged, InvalidArgument, ReplayError
from tardigrad.lineup import SCRIPT
from tardigrad.logs import read_events
from tardigrad.recording import Recorder
from tardigrad.replaying.finding import Replayed as Replayed
from tardigrad.replaying.finding import TensorDifference, compare_end, named
from tardigrad.replaying.reopening import RecordedRun, reopen
from tardigrad.replaying.scripts import replay_script
from tardigrad.rules.base import Rule, make_rule
from tardigrad.segments import CURRENT
from tardigrad.tasks.base import Task
from tardigrad.training import recorder_of

_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.json")


def replay(
    run: str | Path,
    *,
    rule: str | Rule | None = None,
    optimizer: str | None = None,
    start: str | Path | int | None = None,
    until: int | None = None,
    save: str | Path | None = None,
    directory: str | Path | None = None,
    observers: Sequence[Observer] = (),
    task: Task | None = None,
    data_dir: str | None = None,
) -> Replayed:
    """Compute a recorded run again, in one process and as its log says, and compare it bit for bit.

    Works on a run that has ended, and on any other up to where its log goes. Under another rule or optimizer the
    schedule stays (who read and pushed when, which samples, what was rejected) and the weights become others: what
    if? Then nothing is compared, and the replay is recorded as a run of its own.

    Args:
        run: its directory.
        rule: another rule: a spec such as ``"dc-asgd-a(lambda0=4)"``, or what `tardigrad.rule` made.
        optimizer: another optimizer's spec.
        start: a checkpoint of the run, its file or its version, to begin from.
        until: end after the commit that makes this version.
        save: a .safetensors file for the weights and buffers at the end, by name.
        directory: where to record; under another rule by default beside the run, named after the rule.
        observers: told of everything, as by `tardigrad.train`.
        task: of a run whose task no name leads to.
        data_dir: folder with data sets, where it is another one than the run's.

    Returns:
        What was found.

    Raises:
        ReplayError: the run cannot be replayed, or not here; or its log is not one that a run can have written.
        RunDirectoryError: a file is missing or damaged, or ``directory`` holds something else.
        InvalidArgument: for an unknown rule or a value outside its range; nothing was written.
    """
    since = perf_counter()
    recorded = reopen(Path(run), data_dir=data_dir)
    if recorded.config.task == SCRIPT:
        if rule is not None or optimizer is not None or start is not None or directory is not None:
            raise InvalidArgument(
                "the run of a script is replayed as it was, from its beginning: leave out rule, optimizer, start "
                "(--from) and directory."
            )
        return replay_script(recorded, until=until, save=save, observers=observers)
    made = _rule_of(recorded.config, rule, optimizer)
    what_if = (made.spec, made.optimizer_spec) != (recorded.config.rule, recorded.config.optimizer)
    if start is not None and (what_if or directory is not None):
        raise InvalidArgument(
            "a replay that is recorded, or is under another rule, begins at version 0; leave out start (--from)."
        )
    checkpoint = None if start is None else _checkpoint(recorded.place, start)
    for words in recorded.cautions:
        warnings.warn(words, stacklevel=2)
    with threads(1), torch.random.fork_rng(devices=_cuda_devices(recorded.config)):
        job, task = recorded.job(made, task)
        recorder = _recorder(recorded, made, job, task, _place(recorded, made, directory, what_if=what_if))
        watched = replace(job, observers=(*observers,) if recorder is None else (recorder, *observers))
        engine = _engine(recorded, watched, checkpoint, until, evaluates=recorder is not None)
        diverged = _run(engine, recorder)
    if until is not None and not diverged and job.server.version < until:
        raise ReplayError(f"the log of {recorded.place} ends at version {job.server.version}, before {until}.")
    if save is not None:
        safetensors.torch.save_file(named(job.server), Path(save))
    if diverged and not what_if:
        diverged = _own_divergence(engine, diverged)
    tensors = (
        None
        if what_if or diverged or until is not None
        else compare_end(recorded.place, recorded.summary, job.server, engine.parting)
    )
    return _found(recorded, engine, recorder, tensors, diverged, what_if=what_if, seconds=perf_counter() - since)


def _rule_of(config: RunConfig, rule: str | Rule | None, optimizer: str | None) -> Rule:
    if isinstance(rule, Rule):
        if optimizer is not None:
            raise InvalidArgument("a rule that was made has its optimizer: give tardigrad.rule its keywords instead.")
        return rule
    return make_rule(rule or config.rule, optimizer=optimizer or config.optimizer)


def _checkpoint(place: Path, start: str | Path | int) -> Checkpoint:
    """A checkpoint by its version, or by its file, which may lie anywhere beside its own run's files."""
    if str(start).isdigit():
        directory, version = place, int(str(start))
    else:
        found = _CHECKPOINT.fullmatch(Path(str(start)).name)
        if found is None:
            raise InvalidArgument(f"{str(start)!r} is neither the version of a checkpoint nor checkpoint-VERSION.json.")
        directory, version = Path(str(start)).parent, int(found[1])
    checkpoint = read_checkpoint(directory, version=version)
    if checkpoint is None:
        raise ReplayError(f"{directory} holds no checkpoint of version {version}. A run that has finished keeps none.")
    return checkpoint


def _place(recorded: RecordedRun, rule: Rule, directory: str | Path | None, *, what_if: bool) -> Path | None:
    """Where to record; None: nowhere."""
    if directory is not None or not what_if:
        return None if directory is None else Path(directory)
    base = recorded.place if recorded.place.name not in ("", "..") else recorded.place.resolve()
    number = 1
    part = rule.optimizer_spec if rule.spec == recorded.config.rule else rule.spec
    place = base.with_name(f"{base.name}-under-{file_name(part.partition('(')[0])}")
    name = place.name
    while place.exists():
        number += 1
        place = place.with_name(f"{name}-{number}")
    return place


def _recorder(recorded: RecordedRun, rule: Rule, job: Job, task: Task, place: Path | None) -> Recorder | None:
    """What writes the replay as a run of its own; None where nothing is to be written."""
    if place is None:
        return None
    config = recorded.config.replace(
        rule=rule.spec, optimizer=rule.optimizer_spec, engine="replayed", label=_label(recorded.config, rule)
    )
    create_directory(place)
    recorder = recorder_of(place, config, task.metric, job, None)
    file = place / "environment.json"
    origin = {"run": str(recorded.place), "engine": recorded.engine}
    write_json(file, json.loads(file.read_text()) | {"replayed": origin})
    return recorder


def _label(config: RunConfig, rule: Rule) -> str:
    """What tables call the replay: under another optimizer its rule's name would be the run's own."""
    if rule.spec != config.rule:
        return ""
    return config.label if rule.optimizer_spec == config.optimizer else f"{config.shown}, {rule.optimizer_spec}"


def _engine(
    recorded: RecordedRun, job: Job, checkpoint: Checkpoint | None, until: int | None, *, evaluates: bool
) -> ReplayedEngine:
    """An engine that stands where the replay begins."""
    versions = recorded.evaluated | {0} if evaluates else frozenset()
    position = 0 if checkpoint is None else checkpoint.growing[CURRENT]
    engine = ReplayedEngine(job, read_events(recorded.place, start=position), until=until, evaluate_at=versions)
    if checkpoint is not None:
        engine.load_state_dict(checkpoint.state["engine"])
    return engine


def _run(engine: ReplayedEngine, recorder: Recorder | None) -> str:
    """Replay to the end; return why it ended before, empty if it did not. What is recorded is whole in any case."""
    server = engine.job.server
    status, message, diverged = "interrupted", "ended by an error or by hand", ""
    try:
        engine.run()
        status, message = "finished", "the whole log was replayed"
    except Diverged as error:
        status, message = "diverged", str(error)
        diverged = message
    finally:
        if recorder is not None:
            recorder.save_weights(server.flat, server.buffers.combined(server.live))
            how = engine.job.body.computation
            recorder.finish(status, message=message, memory=server.bytes_held(), gradients=how)
    return diverged


def _own_divergence(engine: ReplayedEngine, diverged: str) -> str:
    """Empty if the run diverged there as well; else why the replay did, which is noted as a difference."""
    if engine.only_words_left():
        return ""
    engine.parting.check("end", "goes on", "diverged", version=engine.job.server.version)
    return diverged


def _found(
    recorded: RecordedRun,
    engine: ReplayedEngine,
    recorder: Recorder | None,
    tensors: list[TensorDifference] | None,
    diverged: str,
    *,
    what_if: bool,
    seconds: float,
) -> Replayed:
    parting = engine.parting
    different = tensors or [TensorDifference(name) for name in parting.tensors]
    return Replayed(
        run=recorded.place,
        equal=None if what_if else not parting.differences,
        version=engine.job.server.version,
        commits=parting.commits,
        pushes=parting.pushes,
        digests=parting.digests,
        compared_end=tensors is not None,
        interval=None if what_if else parting.interval,
        agrees_until=parting.agrees_until,
        equal_again=None if what_if else parting.equal_again,
        computed_otherwise=None if what_if else parting.computed_otherwise,
        differences=() if what_if else tuple(parting.differences.values()),
        tensors=() if what_if else tuple(different),
        cautions=tuple(recorded.cautions),
        diverged=diverged,
        seconds=seconds,
        directory=None if recorder is None else recorder.directory,
        evaluations=() if recorder is None else tuple(recorder.evaluations),
        _server=engine.job.server,
    )


def _cuda_devices(config: RunConfig) -> list[int]:
    return [torch.device(config.device).index or 0] if config.device.startswith("cuda") else []
