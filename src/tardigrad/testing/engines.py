"""The laws of an engine.

``check_engine`` trains a small task ten times or so, with faults, and names the law that does not hold. With real
processes it takes some seconds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tardigrad.arithmetic import threads
from tardigrad.assembling import resolve
from tardigrad.audit import audit
from tardigrad.config import RunConfig
from tardigrad.errors import WorkerFailed
from tardigrad.leases import epoch_permutation
from tardigrad.records import Failure, Lease
from tardigrad.replaying import replay
from tardigrad.tasks.base import Task
from tardigrad.testing.engine_runs import Bench, Ran, Tape
from tardigrad.testing.laws import keep, require
from tardigrad.testing.leftovers import held_now, left_since

# Three workers that may be one step apart: so each of them comes to every push that the faults name.
_SETTINGS: Mapping[str, Any] = {
    "recipe": RunConfig(task="quadratic(dimension=5, samples=96)"),
    "rule": "dc-asgd-a",
    "workers": 3,
    "batch_size": 8,
    "epochs": 3,
    "lr": 0.05,
    "consistency": "ssp(1)",
}
_IN_STEP = {"consistency": "synchronous", "leases": "static"}  # then nothing depends on who is faster
_KILLED, _RAISED = "kill worker 1 at push 3", "raise in worker 0 at push 4"
_FAULTS = f"{_KILLED}; {_RAISED}; corrupt push 5 of worker 2"


def check_engine(name: str, *, laws: Collection[str] | None = None, **settings: Any) -> None:
    """Raise AssertionError, with a sentence, at the first law that the engine breaks.

    Args:
        name: of a registered engine; or ``"replayed"``: replays of the simulator's runs.
        laws: which to check, out of `ENGINE_LAWS`; all by default.
        **settings: of the runs, such as ``recipe`` (a recipe, configuration or task) and fields of `RunConfig`. By
            default a small quadratic of 36 pushes, 3 workers, ssp(1). The task needs a model without buffers and
            no augmentation, the runs at least 12 pushes of each of three workers.
    """
    with tempfile.TemporaryDirectory(prefix="tardigrad-laws-") as folder:
        bench = Bench(name, Path(folder), {**_SETTINGS, **settings})
        keep(f"the engine {name!r}", ENGINE_LAWS, laws, bench)


# -- what every run keeps ----------------------------------------------------------------------------------------------


def _versions_rise_by_one(bench: Bench) -> None:
    """Commits make the versions 1 to n, in order, and nobody reads one that is not there yet."""
    for ran in _ordinary(bench):
        versions = [commit.version for commit in ran.tape.commits]
        require(versions == list(range(1, len(versions) + 1)), f"the versions are {versions}.")
        for word, version, what in ran.tape.told:
            require(word != "pull" or what[1] == version, f"{what} was read when the version was {version}.")


def _staleness_counts_commits(bench: Bench) -> None:
    """The staleness of a commit is version - 1 - the version that its worker read."""
    for ran in _ordinary(bench):
        read: dict[Any, int] = {}
        for word, _, what in ran.tape.told:
            if word == "pull":
                read[what[0]] = what[1]
            for part in what.contributions if word == "commit" else ():
                key = (part.worker, part.incarnation, part.lease)
                require(read.get(key) == part.read_version, f"{part} names a version that it did not read.")
                right = part.worker != what.worker or what.staleness == what.version - 1 - part.read_version
                require(right, f"commit {what.version} of worker {what.worker} says staleness {what.staleness}.")


def _samples_are_applied_once(bench: Bench) -> None:
    """Every sample of every epoch is part of exactly one commit."""
    epochs, samples = bench.settings["epochs"], len(_task(bench).train)
    for ran in _ordinary(bench):
        parts = [part for commit in ran.tape.commits for part in commit.contributions]
        leases = [part.lease for part in parts if isinstance(part.lease, Lease)]
        done = Counter((lease.epoch, at) for lease in leases for at in range(lease.start, lease.stop))
        due = Counter((epoch, at) for epoch in range(epochs) for at in range(samples))
        require(done == due, f"not once: {sorted((done - due) + (due - done))[:5]}.")


def _its_replay_is_equal(bench: Bench) -> None:
    """The replay of its own log is bitwise equal."""
    for ran in _ordinary(bench):
        found = replay(ran.directory)
        require(found.equal is True, found.verdict)


def _the_audit_finds_nothing(bench: Bench) -> None:
    """The audit of its run directories finds nothing."""
    for ran in _ordinary(bench):
        found = audit(ran.directory)
        require(found.ok, f"the audit says: {found.violations}")


# -- what its weights equal --------------------------------------------------------------------------------------------


def _one_worker_is_plain_sgd(bench: Bench) -> None:
    """One worker takes the steps of torch.optim.SGD, bit for bit."""
    ran = bench.once("one worker", workers=1, rule="asgd")
    with threads(1):
        theirs = _plain_sgd(_task(bench), bench.settings)
    _require_equal(ran, theirs, "one worker ends elsewhere than torch.optim.SGD")


def _plain_sgd(task: Task, settings: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """The loop as one would write it."""
    model = task.make_model(seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["lr"], foreach=False, fused=False)
    for epoch in range(settings["epochs"]):
        order = torch.from_numpy(epoch_permutation(len(task.train), seed, epoch).copy())
        for index in torch.split(order, settings["batch_size"]):
            loss = task.loss(model(task.prepared(task.train.inputs[index])), task.train.targets[index])
            optimizer.zero_grad()
            torch.autograd.backward([loss])
            optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def _synchronous_is_the_simulators(bench: Bench) -> None:
    """With synchronous consistency the weights are the simulator's, bit for bit."""
    simulator = Bench("simulated", bench.folder / "simulated", bench.settings)
    theirs = simulator.once("synchronous", **_IN_STEP).weights
    _require_equal(bench.once("synchronous", **_IN_STEP), theirs, "the simulator ends elsewhere")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def _a_failure_is_an_event(bench: Bench) -> None:
    """A killed worker and one that raises are told of by name, life and version, and come back as a new life."""
    tape = _faulty(bench).tape
    for worker, kind in ((1, "died"), (0, "raised")):
        at, failure = _failure_of(tape, worker)
        require(failure.kind == kind, f"worker {worker} {kind}, but it is told that it {failure.kind}.")
        require(failure.incarnation == 0, f"its life was 0, not {failure.incarnation}.")
        require(failure.version == tape.told[at][1], f"its version is {failure.version}, not {tape.told[at][1]}.")
        require(kind == "raised" or (failure.exit_code or 0) < 0, f"its exit code is {failure.exit_code}.")
        require(kind == "died" or bool(failure.traceback.strip()), "what it raised is not told.")
        follow = [
            (word, what) for word, _, what in tape.told[at + 1 :] if word in ("leave", "join") and what[0] == worker
        ]
        came_back = follow[:2] == [("leave", (worker, 0, "failed")), ("join", (worker, 1))]
        require(came_back, f"after the failure of worker {worker} it is told: {follow[:2]}.")
    lives = {(part.worker, part.incarnation) for commit in tape.commits for part in commit.contributions}
    require(lives >= {(0, 0), (0, 1), (1, 0), (1, 1)}, f"only these lives contributed: {sorted(lives)}.")
    reasons = [result.reason for result in tape.of("reject")]
    require("non-finite" in reasons, f"the corrupted push was not rejected; rejected: {reasons}.")


def _a_failure_ends_the_run_if_asked(bench: Bench) -> None:
    """With on_failure="raise" a failure ends the run with what the worker raised."""
    if bench.replays:
        return  # a replay obeys: the run that it replays has ended
    for name, chaos, worker in (("kill", _KILLED, 1), ("raise", _RAISED, 0)):
        try:
            bench.run(f"ends after a {name}", chaos=chaos, on_failure="raise")
        except WorkerFailed as error:
            require(error.failure.worker == worker, f"the error names worker {error.failure.worker}, not {worker}.")
            trace = error.failure.traceback.strip()
            require(trace in str(error), f"the error does not show what was raised: {error}")
        else:
            raise AssertionError(f"the run ended as if nothing had happened to worker {worker}.")


# -- what is left and what goes on -------------------------------------------------------------------------------------


def _nothing_is_left_behind(bench: Bench) -> None:
    """No process, thread, segment, descriptor or file is left by a run that ended, or that was stopped."""
    _faulty(bench)  # what is started once and kept is there now
    for name, run in (("to its end", bench.run), ("stopped", _run_and_stop(bench))):
        with _own_temporary_folder(bench.folder / f"temporary {name}") as temporary:
            before = held_now()
            run(f"left {name}", chaos=_FAULTS)
            found = left_since(before) + [path.name for path in temporary.iterdir() if "pymp-" not in path.name]
        require(not found, f"a run {name} leaves {', '.join(found)}.")
    names = sorted(path.name for path in (bench.folder / "left to its end").iterdir())
    odd = [name for name in names if name.endswith(".tmp") or name.startswith((".", "checkpoint", "status", "request"))]
    require(not odd, f"a run that has ended leaves {', '.join(odd)} in its directory.")


def _run_and_stop(bench: Bench) -> Callable[..., object]:
    def run(name: str, **settings: Any) -> None:
        bench.run_in_parts(name, version=10, **settings)

    return run


def _a_stopped_run_goes_on(bench: Bench) -> None:
    """A run that is stopped and taken up again is as good as one that was not: every law holds, bit for bit."""
    whole = bench.once("synchronous", **_IN_STEP)
    parts, _ = bench.run_in_parts("synchronous in parts", version=5, **_IN_STEP)
    _require_equal(parts, whole.weights, "under synchronous consistency a stopped run ends elsewhere than a whole one")
    parts, stopped = bench.run_in_parts("in parts", version=10, chaos=_FAULTS)
    found = replay(parts.directory)
    require(found.equal is True, f"a run that was stopped and went on: {found.verdict}")
    require(audit(parts.directory).ok, f"a run that was stopped and went on: {audit(parts.directory).violations}")
    if bench.trains_with == "simulated":
        _require_equal(parts, _faulty(bench).weights, "a stopped run ends elsewhere than a whole one")
    if bench.replays:
        checkpoint = next(stopped.glob("checkpoint*.json"))
        found = replay(parts.directory, start=checkpoint)
        require(found.equal is True, f"from a checkpoint: {found.verdict}")


ENGINE_LAWS: dict[str, Callable[[Bench], None]] = {
    "versions rise by one": _versions_rise_by_one,
    "staleness counts commits": _staleness_counts_commits,
    "samples are applied once": _samples_are_applied_once,
    "one worker is plain SGD": _one_worker_is_plain_sgd,
    "synchronous is the simulator's": _synchronous_is_the_simulators,
    "its replay is equal": _its_replay_is_equal,
    "a failure is an event": _a_failure_is_an_event,
    "a failure ends the run if asked": _a_failure_ends_the_run_if_asked,
    "nothing is left behind": _nothing_is_left_behind,
    "a stopped run goes on": _a_stopped_run_goes_on,
    "the audit finds nothing": _the_audit_finds_nothing,
}
"""The laws by name."""


# -- runs --------------------------------------------------------------------------------------------------------------


def _faulty(bench: Bench) -> Ran:
    """A worker is killed, one raises, one pushes what is not finite."""
    return bench.once("faulty", chaos=_FAULTS)


def _ordinary(bench: Bench) -> list[Ran]:
    """Runs that together show most of what an engine does."""
    return [_faulty(bench), bench.once("synchronous", **_IN_STEP)]


def _task(bench: Bench) -> Task:
    return resolve(bench.settings["recipe"])[1]


def _failure_of(tape: Tape, worker: int) -> tuple[int, Failure]:
    """Where on the tape the first failure of this worker is told, and the failure."""
    for at, (word, _, what) in enumerate(tape.told):
        if word == "fail" and what.worker == worker:
            return at, what
    raise AssertionError(f"the failure of worker {worker} was not told; told were {tape.of('fail')}.")


def _require_equal(ran: Ran, theirs: Mapping[str, Tensor], sentence: str) -> None:
    for name, tensor in theirs.items():
        require(torch.equal(ran.weights[name], tensor), f"{sentence}, in {name}.")


@contextmanager
def _own_temporary_folder(folder: Path) -> Iterator[Path]:
    """Within, this process puts temporary files into this folder, where those of other programs do not matter."""
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
