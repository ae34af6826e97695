"""`run`: a user's own training script, run by every worker, the server in this process; or alone, as plain PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.assembling import chosen_commit_threads, configure, require_platform
from tardigrad.chaos import describe, fault_plan
from tardigrad.commit.groups import ParameterGroup
from tardigrad.config import RunConfig
from tardigrad.directories import lives, may_go_on
from tardigrad.durable import write_json
from tardigrad.engines.base import Evaluation, Limits, Observer, Stage
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.nursery import prepare
from tardigrad.engines.local.scripted import ScriptEngine
from tardigrad.errors import InvalidArgument, SessionError
from tardigrad.hyperparameters import require_integer
from tardigrad.leases import Leases
from tardigrad.ledger import Ledger
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.presence import require_nobody
from tardigrad.rules.base import Rule, make_rule
from tardigrad.saving import Saving
from tardigrad.server import ParameterServer
from tardigrad.session.alone import AloneSession
from tardigrad.session.link import Prepared
from tardigrad.session.randomness import seed_generators
from tardigrad.session.scripts import Script, guard, launch_variables_removed
from tardigrad.training import as_begun, fresh_directory, make_ready, opened, recorder_of, run_engine, watched

SCRIPT = "script"
"""What the task of a script's run is called in its configuration."""
BY_SPEED = "by-speed"
"""In place of batch sizes: as large as their workers are fast, so that all step equally often."""
_PLAIN = (
    "workers", "rule", "consistency", "max_staleness", "on_stale", "leases", "batchnorm", "commit_path",
    "commit_threads", "seed", "measure_every", "threads", "device", "checkpoint_every", "checkpoints_kept",
    "digest_every", "hang_after", "first_step", "max_restarts", "on_failure", "chaos", "label",
)  # fmt: skip
SETTINGS = (*_PLAIN, "batch_size", "directory", "engine", "group")
"""What `run` and ``tardigrad run`` take; everything else stands in the script."""
_PUSHES = 100  # that faults are drawn over where nobody knows how many there will be
_OF_THE_SCRIPT = {
    "lr": "the optimizer", "optimizer": "the optimizer", "schedule": "a scheduler given to session.prepare",
    "warmup": "a scheduler given to session.prepare", "epochs": "session.epochs", "task": "the script itself",
    "precision": "torch.autocast", "augment": "the data set",
}  # fmt: skip
_SCRIPT = RunConfig(
    task=SCRIPT, engine="local", workers=2, hang_after=600.0, first_step=600.0, epochs=0, evaluate_every=1.0
)


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
        engine: ``"local"``: workers on this machine; None: plain PyTorch, ``main`` in this process.
        rule: what a late gradient becomes, such as ``"dc-asgd"`` or ``"dc-asgd-a(lambda0=4)"``.
        directory: where to record; by default a new one below ``runs/``.
        observers: told of every pull, commit, rejection and evaluation.
        stop: asked after every push; True: write a checkpoint and raise `Stopped`.
        **settings: those of `SETTINGS`, such as workers=4, consistency="ssp(2)", seed=0, batch_size=[128, 64] or
            ``"by-speed"``, group=2: every worker is so many processes that compute parts of its batches, as in
            DistributedDataParallel; see `tardigrad.RunConfig`. Learning rate, epochs and so on are the script's own.

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
    engine, directory = given.pop("engine"), given.pop("directory")
    if engine is None:
        return _alone(main, args, seed=given.get("seed", _SCRIPT.seed), device=given.get("device", "cpu"))
    if engine != "local":
        raise InvalidArgument(f"engine={engine!r} runs no script; type engine='local', or engine=None for one process.")
    script = Script.of(main, args)
    group = require_integer("tardigrad.run", "group", given.pop("group", 1), low=1)
    config, sizes = script_config(script, given, group)
    place = Path(directory) if directory is not None else fresh_directory(config)
    with launch_variables_removed():
        return _host(script, config, sizes, group, place, observers, stop)


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


def script_config(script: Script, given: Mapping[str, Any], group: int = 1) -> tuple[RunConfig, Any]:
    """The configuration of a script's run, as far as it is known before the script has prepared; and batch sizes.

    Those given are of a process; those of the configuration are of a lease, which a ``group`` of them computes.
    """
    settings = dict(given)
    for name in settings:
        if name in _OF_THE_SCRIPT:
            raise InvalidArgument(f"tardigrad.run: {name} is the script's own: {_OF_THE_SCRIPT[name]} says it.")
        if name not in SETTINGS:
            raise InvalidArgument(f"tardigrad.run has no setting {name!r}. It has: {', '.join(SETTINGS)}.")
    sizes = settings.pop("batch_size", None)
    rule = settings.pop("rule", None)
    if isinstance(rule, Rule):
        rule = rule.spec
    config = configure(_SCRIPT.replace(recipe=Path(script.path).stem), rule=rule, **settings)
    if group > 1 and not settings.get("threads"):
        config = config.replace(threads=max(1, config.threads // group))
    fault_plan(config.chaos, workers=config.workers, pushes=_PUSHES)
    if sizes is not None and sizes != BY_SPEED:
        of_leases = tuple(size * group for size in sizes) if isinstance(sizes, Sequence) else sizes * group
        config = config.replace(batch_size=of_leases)
        Leases(1, config.batch_size, workers=config.workers)  # what it cannot take is refused before anything starts
    return config, sizes


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
    sizes: Any,
    group: int,
    place: Path,
    observers: Sequence[Observer],
    stop: Callable[[], bool] | None,
) -> ScriptRun:
    """Start the workers, build the server from what the first of them prepares, and train."""
    require_nobody(place)
    prepare()
    cast = cast_of(script, config, _next_lives(place, config, group), group)
    try:
        prepared, first = cast.first()
        config = completed(config, prepared, sizes)
        stage, ledger = stage_of(as_begun(config, place), prepared)
        make_ready(stage.server, observers, mirrored=True)
        state = opened(place, config)
        life = 0 if state is None else lives(place) + 1
        recorder = recorder_of(place, config, None, stage, None if state is None else state["recorder"])
        if state is None:
            _remember(place, script, sizes, group)
        with watched(place, recorder, state, observers, steered=True) as (steering, watching):
            stage = replace(stage, observers=watching, steering=steering, life=life)
            engine = ScriptEngine(stage, cast, prepared, first, ledger, by_speed=sizes == BY_SPEED)
            if state is None and stage.faults.faults:
                recorder.noted(0.0, f"chaos: {describe(stage.faults)}")
            if state is not None:
                engine.load_state_dict(state.pop("engine"))
            with threads(1):
                summary = run_engine(engine, recorder, Saving(engine, recorder, config, stop))
    finally:
        cast.dismiss()
    server = stage.server
    named = dict(zip(server.layout.names, server.weights(), strict=True)) | server.buffers.combined(server.live)
    return ScriptRun(place, config, recorder.evaluations, summary, named)


def cast_of(script: Script, config: RunConfig, lives_of: Mapping[int, int], group: int) -> Cast:
    """The workers' processes, started, a ``group`` of them for each; ``lives_of``: which life of each begins."""
    seed, threads_of, limits = config.seed, config.threads, limits_of(config)
    return Cast(script, lives_of, seed=seed, threads=threads_of, device=config.device, limits=limits, group=group)


def limits_of(config: RunConfig) -> Limits:
    """When a worker counts as failed, and what follows."""
    return Limits(config.hang_after, config.first_step, config.max_restarts, config.on_failure, config.digest_every)


def completed(config: RunConfig, prepared: Prepared, sizes: Any) -> RunConfig:
    """The configuration with what the script has prepared written out."""
    group = prepared.groups[0]
    spec = make_rule(config.rule, optimizer=group.optimizer)
    batch = config.batch_size if sizes not in (None, BY_SPEED) else prepared.batch_size
    return config.replace(rule=spec.spec, optimizer=spec.optimizer_spec, lr=group.lr, batch_size=batch)


def stage_of(config: RunConfig, prepared: Prepared) -> tuple[Stage, Ledger | None]:
    """The server for what was prepared, and the ledger of its leases; nobody watches yet."""
    rule = make_rule(config.rule, optimizer=config.optimizer)
    groups = [ParameterGroup(each.tensors, 1.0, OPTIMIZERS.build(each.optimizer)) for each in prepared.groups]
    server = ParameterServer(
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
    ledger = None
    if prepared.samples is not None:
        leases = Leases(
            prepared.samples, config.batch_size, workers=config.workers, policy=config.leases, seed=config.seed
        )
        ledger = Ledger(leases)
    pushes = _PUSHES if prepared.samples is None else max(2, prepared.samples // prepared.batch_size)
    faults = fault_plan(config.chaos, workers=config.workers, pushes=pushes)
    samples = prepared.samples or 1
    return Stage(server=server, samples_per_epoch=samples, faults=faults, limits=limits_of(config)), ledger


def _rates(prepared: Prepared) -> Callable[[int], Sequence[float]]:
    """Samples applied -> the learning rate of each group."""
    if prepared.schedule is not None:
        return prepared.schedule.at
    rates = tuple(group.lr for group in prepared.groups)
    return lambda samples: rates


def _next_lives(place: Path, config: RunConfig, group: int) -> dict[int, int]:
    """Which life of which worker begins: the first of each, or of a run that goes on the next of those it had."""
    if not may_go_on(place):
        return dict.fromkeys(range(config.workers), 0)
    known = json.loads((place / "environment.json").read_text()).get("group", 1)
    if known != group:
        raise InvalidArgument(f"{place} holds a run with group={known}, not {group}: it goes on as it began.")
    from tardigrad.checkpoint import read_checkpoint

    found = read_checkpoint(place)
    if found is None or "ledger" not in found.state["engine"]:
        raise SessionError(f"{place} holds a run of a task, not of a script; name another directory.")
    known = found.state["engine"]["server"]["workers"]
    living = known["records"] or known["lives"]
    return {int(worker): int(known["lives"][worker]) for worker in living}


def _remember(place: Path, script: Script, sizes: Any, group: int) -> None:
    """Say in the run's environment which script it is of, for a replay."""
    file = place / "environment.json"
    known = json.loads(file.read_text())
    write_json(file, known | {"script": script.as_json(), "by_speed": sizes == BY_SPEED, "group": group})
