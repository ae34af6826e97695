"""The laws of a consistency.

``check_consistency`` drives a parameter server through scripts of arrivals: workers that pull, push, push gradients
that are not finite, leave, return and are restored from a state, in any order that the consistency permits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from tardigrad.consistency import Consistency, build_consistency
from tardigrad.errors import ProtocolError
from tardigrad.leases import Leases
from tardigrad.records import Commit, Held, PushResult, Rejected
from tardigrad.rules.base import make_rule
from tardigrad.seeding import random_stream
from tardigrad.server import ParameterServer
from tardigrad.testing.laws import require

_SAMPLES, _EPOCHS = 10, 2


def check_consistency(
    make: str | Callable[[], Consistency],
    *,
    workers: int = 3,
    bound: int | None = None,
    scripts: Iterable[Sequence[int]] | None = None,
) -> None:
    """Raise AssertionError, with a sentence, at the first law that the consistency breaks.

    The laws: an accepted push is part of exactly one commit; versions rise by one; contributions are in worker order;
    who has pushed is released in the end, and nobody waits for a worker that left or has no samples left; with leases
    every sample is applied once or listed as lost; a restored state lets the same workers read; and the bound.

    Args:
        make: a spec such as ``"ssp(2)"``, or a function that makes a new consistency (one serves one server).
        workers: how many take part at first, >= 1; one more joins and leaves.
        bound: no worker starts a step having completed more than this many more than a live one has; None: no bound.
        scripts: what happens, as lists of integers >= 0, each choosing among the events possible at its moment; by
            default 20 drawn from seeds.
    """
    new: Callable[[], Consistency] = partial(build_consistency, make) if isinstance(make, str) else make
    for script in default_scripts() if scripts is None else scripts:
        for policy in (None, "dynamic", "static"):
            drive = _Drive(new, workers, bound, policy)
            try:
                drive.play(script)
                drive.drain()
            except AssertionError as error:
                told = f"leases={policy}, script={list(script)}, last events: {', '.join(drive.told[-10:])}"
                raise AssertionError(f"{new().spec}: {error} ({told})") from error


def default_scripts(count: int = 20, length: int = 60) -> list[list[int]]:
    """Scripts drawn from seeds: the same ones every time."""
    streams = [random_stream(0, "arrival script", number) for number in range(count)]
    return [[int(draw) for draw in stream.integers(0, 10_000, size=length)] for stream in streams]


class _Drive:
    """One server, and what its workers do.

    Every push carries its number as its loss, so that the contributions of a commit say which pushes they are.
    """

    def __init__(self, make: Callable[[], Consistency], workers: int, bound: int | None, policy: str | None) -> None:
        self._make, self._workers, self._policy = make, workers, policy
        self._bound = bound if policy is None else None  # a worker without samples takes no steps, and binds nobody
        self.server = self._new_server()
        self.told: list[str] = []
        self._pulled: set[int] = set()
        self._owed: dict[int, int] = {}  # number of an accepted push that no commit has had yet -> its worker
        self._completed = dict.fromkeys(range(workers), 0)
        self._pushes = 0
        self._failed = False

    def _new_server(self) -> ParameterServer:
        leases = None
        if self._policy is not None:
            leases = Leases(_SAMPLES, 1, epochs=_EPOCHS, workers=self._workers, policy=self._policy)
        return ParameterServer(
            [torch.zeros(1)], make_rule("asgd"), lr=1.0, workers=self._workers, consistency=self._make(), leases=leases
        )

    def play(self, script: Sequence[int]) -> None:
        """Let each number choose one of the events that are possible when its turn comes."""
        for number in script:
            chosen, event = divmod(number, 10)
            if event == 0:
                self._come_or_go(chosen % (self._workers + 1))
            elif event == 1:
                self._restore()
            else:
                self._progress(chosen, fail=event == 2)
            self._require_no_deadlock()

    def drain(self) -> None:
        """Everyone that is left goes on in turn, first here, then there, until each has made three more steps.

        With leases, until every sample is settled.
        """
        if not self.server.live:
            self._come_or_go(0)
        goal = {worker: self._completed[worker] + 3 for worker in self.server.live}
        for turn in range(20 * (self._workers + 1) + 2 * _SAMPLES * _EPOCHS):
            for worker in self.server.ready():
                self._pull(worker)
            for worker in _rotated(sorted(self._pulled), turn):
                self._push(worker)
            self._require_no_deadlock()
            if self._finished(goal):
                break
        require(self._finished(goal), f"not everyone was released in the end: {self._behind(goal)}.")
        require(not self._owed, f"pushes {self._owed} were accepted and never committed.")

    def _finished(self, goal: dict[int, int]) -> bool:
        leases = self.server.leases
        if leases is None:
            return all(self._completed[worker] >= steps for worker, steps in goal.items())
        return leases.applied + leases.lost_samples == _SAMPLES * _EPOCHS

    def _behind(self, goal: dict[int, int]) -> str:
        if self.server.leases is not None:
            return f"{self.server.leases.applied} of {_SAMPLES * _EPOCHS} samples applied"
        return f"completed steps {self._completed}, of {goal}"

    def _progress(self, number: int, *, fail: bool) -> None:
        """A worker that may read does, or one that has read pushes, or reads again."""
        ready, pulled = self.server.ready(), sorted(self._pulled)
        require(not set(ready) & self._pulled, f"{ready} may read, though {pulled} hold outstanding pulls.")
        events = [("pull", worker) for worker in ready] + [("push", worker) for worker in pulled]
        if not events:
            return
        action, worker = events[number // 2 % len(events)]
        if action == "pull" or number % 10 == 1:
            self._pull(worker)
        else:
            self._push(worker, fail=fail and not self._failed)

    def _pull(self, worker: int) -> None:
        self.told.append(f"pull {worker}")
        live = [self._completed[other] for other in self.server.live]
        lead = self._completed[worker] - min(live)
        require(
            self._bound is None or lead <= self._bound, f"worker {worker} starts a step {lead} ahead of the slowest."
        )
        snapshot = self.server.pull(worker)
        if self.server.leases is None or snapshot.lease is not None:
            self._pulled.add(worker)
        self._note(None)

    def _push(self, worker: int, *, fail: bool = False) -> None:
        self.told.append(f"push {worker}" + (" not finite" if fail else ""))
        self._pulled.discard(worker)
        self._failed = fail
        number, before = self._pushes, self.server.version
        self._pushes += 1
        result = self.server.push(worker, [torch.full((1,), torch.nan if fail else 1.0)], loss=float(number))
        require(result.accepted != fail or isinstance(result, Rejected), f"push {number} gave {result}.")
        if result.accepted:
            self._owed[number] = worker
        if isinstance(result, Held):
            require(worker not in self.server.ready(), f"worker {worker} may read while its push waits.")
            require(result.version == before == self.server.version, "a push that waits changed the version.")
        self._note(result)

    def _note(self, result: PushResult | None) -> None:
        """Book the commit that a push made, or that was waiting for somebody who left or found no samples."""
        commit = result if isinstance(result, Commit) else self.server.settle()
        if commit is None:
            return
        require(commit.version == self.server.version, f"the commit is of version {commit.version}.")
        workers = [part.worker for part in commit.contributions]
        require(workers == sorted(workers), f"contributions of {workers} are not in worker order.")
        for part in commit.contributions:
            number = int(part.loss or 0.0)
            require(self._owed.pop(number, None) == part.worker, f"push {number} is committed, but was not owed.")
            self._completed[part.worker] += 1

    def _come_or_go(self, worker: int) -> None:
        if worker in self.server.live:
            self.told.append(f"leave {worker}")
            self.server.leave(worker)
            self._pulled.discard(worker)
        else:
            self.told.append(f"join {worker}")
            others = [self._completed[other] for other in self.server.live]
            self.server.join(worker)
            self._completed[worker] = min(others, default=0)
        self._note(None)

    def _restore(self) -> None:
        """Go on with a new server that was given the old one's state; the workers begin by pulling."""
        try:
            state = self.server.state_dict()
        except ProtocolError:  # a round is under way
            return
        self.told.append("restore")
        restored = self._new_server()
        for server in (restored, self.server):
            server.load_state_dict(state)
        require(restored.ready() == self.server.ready(), "the state, restored, lets other workers read.")
        same = restored.consistency.state_dict() == self.server.consistency.state_dict()
        require(same, "the state, restored and taken again, is another.")
        self.server = restored
        self._pulled.clear()

    def _require_no_deadlock(self) -> None:
        if not self.server.live or self._pulled or self.server.ready():
            return
        leases = self.server.leases
        over = leases is not None and leases.applied + leases.lost_samples == _SAMPLES * _EPOCHS
        require(over, f"nobody may read and nobody computes: live {self.server.live}, owed {self._owed}.")


def _rotated(workers: list[int], turn: int) -> list[int]:
    """The same workers, beginning elsewhere in each turn, so that each is first at times."""
    first = turn % max(1, len(workers))
    return workers[first:] + workers[:first]
