"""The replay of a script's run: its program runs again in as many processes, and the log says whose turn it is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import safetensors.torch

from tardigrad.arithmetic import threads
from tardigrad.engines.base import Observer
from tardigrad.engines.local.nursery import prepare_for_scripts
from tardigrad.engines.local.obeying import ObeyingEngine
from tardigrad.errors import Diverged, ReplayError, SessionError
from tardigrad.lineup import Lineup
from tardigrad.logs import read_events
from tardigrad.replaying.finding import Replayed, TensorDifference, compare_end, named
from tardigrad.replaying.reopening import RecordedRun
from tardigrad.running import cast_of, stage_of
from tardigrad.session.scripts import Script, guard, launch_variables_removed


def replay_script(
    recorded: RecordedRun, *, until: int | None, save: str | Path | None, observers: Sequence[Observer]
) -> Replayed:
    """Run a recorded script again as its log says, and compare; see `tardigrad.replay`.

    Raises:
        ReplayError: the script is not there or has changed, was called with what no record can hold, or asks for
            something else than it did.
    """
    guard()
    since = perf_counter()
    cautions = [*recorded.cautions, *_own_cautions(recorded)]
    for words in cautions:
        warnings.warn(words, stacklevel=3)
    try:
        script = Script.from_json(recorded.environment["script"])
        with script.in_place(), launch_variables_removed(), threads(1):
            engine, diverged = _replayed(script, recorded, until, observers)
    except SessionError as error:
        raise ReplayError(f"{recorded.place} cannot be replayed here: {error}") from error
    server = engine.job.server
    if until is not None and not diverged and server.version < until:
        raise ReplayError(f"the log of {recorded.place} ends at version {server.version}, before {until}.")
    if save is not None:
        safetensors.torch.save_file(named(server), Path(save))
    tensors = (
        None
        if diverged or until is not None
        else compare_end(recorded.place, recorded.summary, engine.job.server, engine.parting)
    )
    return _found(recorded, engine, tensors, cautions, diverged, seconds=perf_counter() - since)


def _replayed(
    script: Script, recorded: RecordedRun, until: int | None, observers: Sequence[Observer]
) -> tuple[ObeyingEngine, str]:
    """The engine after the replay, and why it ended before the log's end; empty if it did not."""
    header = recorded.header
    config = recorded.config.replace(
        chaos="", shards=1, commit_path=header["commit_path"], commit_threads=header.get("commit_threads", 1)
    )
    prepare_for_scripts()
    lineup = Lineup.from_json(recorded.environment)
    cast = cast_of(script, config, dict.fromkeys(range(config.workers), 0), lineup)
    try:
        prepared, first = cast.first()
        stage, ledger = stage_of(config, prepared)
        if stage.server.layout.hash != header["layout"]:
            raise SessionError("its model is not the one that was trained")
        stage = replace(stage, observers=tuple(observers))
        engine = ObeyingEngine(stage, cast, prepared, first, ledger, read_events(recorded.place, start=0), until=until)
        return engine, _run(engine)
    finally:
        cast.dismiss()


def _run(engine: ObeyingEngine) -> str:
    try:
        engine.run()
    except Diverged as error:
        if not engine.only_words_left():
            engine.parting.check("end", "goes on", "diverged", version=engine.job.server.version)
            return str(error)
    return ""


def _own_cautions(recorded: RecordedRun) -> list[str]:
    if not recorded.environment.get("resumed"):
        return []
    return [
        "The run was taken up again from a checkpoint: what the script had kept there with session.save_with is not in "
        "the log, and its replay begins those lives without it."
    ]


def _found(
    recorded: RecordedRun,
    engine: ObeyingEngine,
    tensors: list[TensorDifference] | None,
    cautions: Sequence[str],
    diverged: str,
    *,
    seconds: float,
) -> Replayed:
    parting = engine.parting
    return Replayed(
        run=recorded.place,
        equal=not parting.differences,
        version=engine.job.server.version,
        commits=parting.commits,
        pushes=parting.pushes,
        digests=parting.digests,
        compared_end=tensors is not None,
        interval=parting.interval,
        agrees_until=parting.agrees_until,
        equal_again=parting.equal_again,
        computed_otherwise=parting.computed_otherwise,
        differences=tuple(parting.differences.values()),
        tensors=tuple(tensors or [TensorDifference(name) for name in parting.tensors]),
        cautions=tuple(cautions),
        diverged=diverged,
        seconds=seconds,
        directory=None,
        evaluations=(),
        _server=engine.job.server,
    )
