"""`run`: a user's own training script, run by every worker, the server in this process; or alone, as plain PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.assembling import chosen_commit_threads, faults_of, meeting_of, require_platform, server_maker
from tardigrad.chaos import describe
from tardigrad.checkpoint import read_checkpoint
from tardigrad.commit.groups import ParameterGroup
from tardigrad.config import RunConfig
from tardigrad.directories import lives, may_go_on
from tardigrad.durable import write_json
from tardigrad.engines import SCRIPT_ENGINES
from tardigrad.engines.base import Evaluation, Limits, Observer, Stage
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.nursery import prepare_for_scripts
from tardigrad.errors import InvalidArgument, SessionError
from tardigrad.launched import Roll, find_launch
from tardigrad.leases import Leases
from tardigrad.ledger import Ledger
from tardigrad.lineup import DEFAULTS, PUSHES, Lineup, lined_up, require_settings
from tardigrad.lineup import SETTINGS as SETTINGS
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.presence import require_nobody
from tardigrad.rules.base import Rule, make_rule
from tardigrad.saving import Saving
from tardigrad.session.alone import AloneSession
from tardigrad.session.link import Prepared
from tardigrad.session.randomness import seed_generators
from tardigrad.session.scripts import Script, guard, launch_variables_removed
from tardigrad.stores import bring
from tardigrad.training import (
    as_begun,
    fresh_directory,
    make_ready,
    opened,
    recorder_of,
    require_room,
    run_engine,
    tell,
    watched,
)

_PREPARED = ("rule", "optimizer", "lr", "batch_size")  # settings that what the script prepares completes


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """A run of a script that has ended.

    Attributes:
        directory: where it is recorded; None without an engine.
        config: the resolved configuration; None without an engine.
        evaluations: in order.
        summary: status, staleness, rejections, memory and more, as in summary.json; empty without an engine.
    """

    directory: Path | None
    config: RunConfig | None
    evaluations: list[Evaluation]
    summary: dict[str, Any]
    _state: Mapping[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """The final weights and buffers by name; ``model.load_state_dict(..., strict=False)`` takes it.

        What did not travel, such as frozen parameters, is not in it.
        """
        return dict(self._state)


def run(
    main: Callable[..., Any],
    *,
    args: Sequence[Any] = (),
    engine: str | None = "local",
    rule: str | Rule = "dc-asgd",
    directory: str | Path | None = None,
    observers: Sequence[Observer] = (),
    stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> ScriptRun:
    """Run a training script: every worker calls ``main(session, *args)`` in a process of its own.

    A directory that holds a run of the same script which was stopped, or killed after a checkpoint, goes on from
    there: every worker begins its script anew, with the epoch that the run has come to.

    Args:
        main: a function at the top of a file. It builds model, optimizer and DataLoader, hands them to
            ``session.prepare``, and trains as usual; see `tardigrad.session.session.Session`.
        args: what ``main`` takes after the session; picklable.
        engine: ``"local"``: workers on this machine; ``"joined"``: workers that join from anywhere, by ``tardigrad
            join``; ``"ray"``: a Ray actor for each, on one machine or a cluster; None: plain PyTorch, ``main`` in this
            process.
        rule: what a late gradient becomes, such as ``"dc-asgd"`` or ``"dc-asgd-a(lambda0=4)"``.
        directory: where to record; by default a new one below ``runs/``.
        observers: told of every pull, commit, rejection and evaluation.
        stop: asked after every push; True: write a checkpoint and raise `Stopped`.
        **settings: those of `SETTINGS`, such as workers=4, consistency="ssp(2)", seed=0; most of them are those of
            `tardigrad.RunConfig`. Learning rate, epochs and so on are the script's own. Beside them:
            batch_size, in place of the DataLoader's: one number, one for each worker, or ``"by-speed"``;
            evaluate: ``"first"``, on the first worker, or ``"beside"``, in a process that does nothing else;
            group: processes that are a worker and compute parts of its batches, as in DistributedDataParallel.

    Raises:
        InvalidArgument, SessionError: a setting or a script that cannot be run; nothing was written.
        WorkerFailed: the script raised before it had prepared anything; the message holds its traceback.
        Diverged, Stopped, AllWorkersLost: as `tardigrad.train`.
    """
    guard()
    require_platform()
    override = _overrides[-1]
    override.reached = True
    given = {"engine": engine, "rule": rule, "directory": directory, **settings, **override.settings}
    watching, stop = (*observers, *override.observers), stop or override.stop
    found = _run(main, args, given, watching, stop)
    override.runs.append(found)
    return found


def _run(
    main: Callable[..., Any],
    args: Sequence[Any],
    given: dict[str, Any],
    observers: Sequence[Observer],
    stop: Callable[[], bool] | None,
) -> ScriptRun:
    """One run, its settings as they hold."""
    require_settings(given)
    engine, directory = given.pop("engine"), given.pop("directory")
    if engine is None:
        _require_alone()
        return _alone(main, args, seed=given.get("seed", DEFAULTS.seed), device=given.get("device", "cpu"))
    if engine not in SCRIPT_ENGINES.names():
        known = ", ".join(map(repr, SCRIPT_ENGINES.names()))
        raise InvalidArgument(f"engine={engine!r} runs no script; type one of {known}, or engine=None for one process.")
    script = Script.of(main, args)
    launch = find_launch() if engine == "local" else None
    if launch is None:
        return _hosted(script, given | {"engine": engine}, directory, observers, stop)
    launch.meet()
    if launch.rank.number == 0:
        roll = Roll(launch, stop)
        with launch.with_secret(launch.settings(given)) as settings:
            return _hosted(script, settings, directory, [*observers, launch.herald(), roll], roll.stop)
    with launch_variables_removed():
        launch.work(script, given)
    return ScriptRun(None, None, [], {}, {})


def _hosted(
    script: Script,
    given: Mapping[str, Any],
    directory: str | Path | None,
    observers: Sequence[Observer],
    stop: Callable[[], bool] | None,
) -> ScriptRun:
    """One run whose server is this process."""
    config, lineup = lined_up(given, name=Path(script.path).stem)
    place = Path(directory) if directory is not None else fresh_directory(config)
    with launch_variables_removed():
        return _host(script, config, lineup, place, observers, stop)


@dataclass(slots=True)
class Override:
    """Settings that take the place of a script's own, and what came of them.

    Attributes:
        settings: see `run`.
        observers: told of everything, beside the script's own.
        stop: asked after every push, where the script gives none.
        reached: whether `run` was called.
        runs: those that have ended.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    observers: Sequence[Observer] = ()
    stop: Callable[[], bool] | None = None
    reached: bool = False
    runs: list[ScriptRun] = field(default_factory=list)


_overrides = [Override()]  # the last one holds


@contextmanager
def overriding(
    settings: Mapping[str, Any], *, observers: Sequence[Observer] = (), stop: Callable[[], bool] | None = None
) -> Iterator[Override]:
    """While this lasts `run` takes these settings over its caller's, and tells these observers too."""
    _overrides.append(Override(dict(settings), observers, stop))
    try:
        yield _overrides[-1]
    finally:
        _overrides.pop()


def _require_alone() -> None:
    """Say so where a launcher has started several of these: each would train the whole, and alone."""
    launch = find_launch()
    if launch is not None:
        raise InvalidArgument(
            f"{launch.name} has started {launch.rank.of} processes, and with engine=None each of them would train the "
            "whole alone. To make one run of them leave engine=None out, or type tardigrad run --engine local before "
            f"the script; to train in this one process start it without {launch.marks}."
        )


def _alone(main: Callable[..., Any], args: Sequence[Any], *, seed: int, device: str) -> ScriptRun:
    """The script in this process, as plain PyTorch."""
    seed_generators(seed)
    session = AloneSession(seed=seed, device=device)
    with launch_variables_removed():
        main(session, *args)
    return ScriptRun(None, None, [], {}, session.state_dict())


def _host(
    script: Script,
    config: RunConfig,
    lineup: Lineup,
    place: Path,
    observers: Sequence[Observer],
    stop: Callable[[], bool] | None,
) -> ScriptRun:
    """Start the workers, build the server from what the first of them prepares, and train."""
    require_nobody(place)
    prepare_for_scripts()
    engine_class = SCRIPT_ENGINES.load(config.engine)
    tell(observers, bring(config.store, place, _settled(config)))
    require_room(place)
    casting = engine_class.casting(meeting_of(config, place), observers, stop)
    with ExitStack() as begun:
        cast = cast_of(script, config, _next_lives(place, config, lineup), lineup, casting=casting)
        begun.callback(cast.dismiss)
        prepared, first = cast.first()
        config = completed(config, prepared, lineup)
        stage, ledger = stage_of(as_begun(config, place), prepared)
        begun.callback(stage.server.close)
        make_ready(stage.server, observers, mirrored=True)
        state = opened(place, config)
        life = 0 if state is None else lives(place) + 1
        recorder = recorder_of(place, config, None, stage, None if state is None else state["recorder"])
        if state is None:
            _remember(place, script, lineup)
        with watched(place, recorder, state, observers, steered=True) as (steering, watching):
            meeting = meeting_of(config, place)
            stage = replace(stage, observers=watching, steering=steering, life=life, meeting=meeting)
            engine = engine_class(stage, cast, prepared, first, ledger, by_speed=lineup.by_speed)
            if state is None and stage.faults.faults:
                recorder.noted(0.0, f"chaos: {describe(stage.faults)}")
            if state is not None:
                engine.load_state_dict(state.pop("engine"))
            with threads(1):
                summary = run_engine(engine, recorder, Saving(engine, recorder, config, stop))
    server = stage.server
    named = dict(zip(server.layout.names, server.weights(), strict=True)) | server.buffers.combined(server.live)
    return ScriptRun(place, config, recorder.evaluations, summary, named)


def cast_of(
    script: Script,
    config: RunConfig,
    lives_of: Mapping[int, int],
    lineup: Lineup,
    *,
    casting: Callable[..., Cast] = Cast,
) -> Cast:
    """The workers' processes, started.

    Args:
        script, config, lineup: of the run.
        lives_of: which life of each worker begins.
        casting: what makes them; see `ScriptEngine.casting`.
    """
    return casting(
        script,
        lives_of,
        workers=config.workers,
        seed=config.seed,
        threads=config.threads,
        device=config.device,
        limits=limits_of(config),
        group=lineup.group,
        judged_beside=lineup.evaluate == "beside",
        wire=config.wire,
    )


def limits_of(config: RunConfig) -> Limits:
    """When a worker counts as failed, and what follows."""
    return Limits(config.hang_after, config.first_step, config.max_restarts, config.on_failure, config.digest_every)


def _settled(config: RunConfig) -> dict[str, Any]:
    """What decides what is computed, as far as it is known before the script has prepared; see `completed`."""
    return {name: value for name, value in config.computes.items() if name not in _PREPARED}


def completed(config: RunConfig, prepared: Prepared, lineup: Lineup) -> RunConfig:
    """The configuration with what the script has prepared written out."""
    if lineup.evaluate == "beside" and prepared.samples is None:
        raise InvalidArgument("a stream has no epochs after which a process beside could evaluate: leave out evaluate.")
    group = prepared.groups[0]
    spec = make_rule(config.rule, optimizer=group.optimizer)
    batch = prepared.batch_size if lineup.of_leases is None else lineup.of_leases
    return config.replace(rule=spec.spec, optimizer=spec.optimizer_spec, lr=group.lr, batch_size=batch)


def stage_of(config: RunConfig, prepared: Prepared) -> tuple[Stage, Ledger | None]:
    """The server for what was prepared, and the ledger of its leases; nobody watches yet."""
    rule = make_rule(config.rule, optimizer=config.optimizer)
    groups = [ParameterGroup(each.tensors, 1.0, OPTIMIZERS.build(each.optimizer)) for each in prepared.groups]
    ledger = None
    if prepared.samples is not None:
        leases = Leases(
            prepared.samples, config.batch_size, workers=config.workers, policy=config.leases, seed=config.seed
        )
        ledger = Ledger(leases)
    pushes = PUSHES if prepared.samples is None else max(2, prepared.samples // prepared.batch_size)
    faults = faults_of(config, pushes=pushes)
    server = server_maker(config)(
        prepared.weights,
        rule,
        lr=_rates(prepared),
        workers=config.workers,
        consistency=config.consistency,
        max_staleness=config.max_staleness,
        on_stale=config.on_stale,
        buffers=prepared.buffers,
        batchnorm=config.batchnorm,
        commit_path=config.commit_path,
        commit_threads=chosen_commit_threads(config, prepared.layout.numel),
        groups=groups if len(groups) > 1 else (),
        measure_every=config.measure_every,
        layout=prepared.layout,
    )
    samples = prepared.samples or 1
    return Stage(server=server, samples_per_epoch=samples, faults=faults, limits=limits_of(config)), ledger


def _rates(prepared: Prepared) -> Callable[[int], Sequence[float]]:
    """Samples applied -> the learning rate of each group."""
    if prepared.schedule is not None:
        return prepared.schedule.at
    rates = tuple(group.lr for group in prepared.groups)
    return lambda samples: rates


def _next_lives(place: Path, config: RunConfig, lineup: Lineup) -> dict[int, int]:
    """Which life of which worker begins: the first of each, or of a run that goes on the next of those it had."""
    if not may_go_on(place):
        return dict.fromkeys(range(config.workers), 0)
    known = json.loads((place / "environment.json").read_text())
    if "script" not in known:
        raise SessionError(f"{place} holds a run of a task, not of a script; name another directory.")
    for name, value in lineup.as_json().items():
        if known[name] != value:
            raise InvalidArgument(
                f"{place} holds a run with {name}={known[name]}, not {value}: it goes on as it began."
            )
    found = read_checkpoint(place)
    assert found is not None
    workers = found.state["engine"]["server"]["workers"]
    return {int(worker): int(workers["lives"][worker]) for worker in workers["records"] or workers["lives"]}


def _remember(place: Path, script: Script, lineup: Lineup) -> None:
    """Say in the run's environment which script it is of, for a replay."""
    file = place / "environment.json"
    write_json(file, json.loads(file.read_text()) | {"script": script.as_json(), **lineup.as_json()})
