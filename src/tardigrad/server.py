"""The parameter server: versions, backups, consistency, leases and the order of a commit.

No thread, clock, socket or file inside: an engine serialises the calls and carries what travels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tardigrad.admission import Fruitless, is_finite, refusal, require_in_turn, require_made_with
from tardigrad.backups import Backups, Memory
from tardigrad.buffers import BufferStore
from tardigrad.commit.base import Part
from tardigrad.commit.choice import AUTO, ChosenPath
from tardigrad.commit.groups import ParameterGroup
from tardigrad.consistency import Consistency, build_consistency
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.hyperparameters import require_choice, require_integer, require_number
from tardigrad.layout import FlatLayout
from tardigrad.leases import Leases
from tardigrad.participants import Participants
from tardigrad.records import Commit, Facts, Held, Lease, Push, PushResult, Rejected, RejectReason, Snapshot
from tardigrad.rules.base import Rule
from tardigrad.schedules import LearningRate, rates_at
from tardigrad.waiting import WaitingPushes, contributions_of


class ParameterServer:
    """Weights that workers pull, and to which they push gradients.

    Args:
        weights: float32 or float64 tensors of one dtype and device; copied.
        rule: what a late gradient becomes and the step it makes; see `tardigrad.rule`.
        lr: learning rate >= 0, or a function from samples applied so far to it, or to one for each group.
        workers: how many workers take part at first, numbered from 0.
        consistency: ``"asynchronous"``, ``"ssp(2)"``, ``"synchronous"``, ``"synchronous(wait_for=6)"``.
        max_staleness: pushes older than this many commits are treated by ``on_stale``; None: no bound.
        on_stale: ``"reject"``, or ``"reweight"``: scaled by max_staleness / staleness.
        leases: hands out samples; None where the caller chooses its own.
        buffers: the model's buffers by name (BatchNorm statistics).
        batchnorm: which buffers an evaluation uses: ``"mean"``, ``"latest"`` or ``"recalibrate"``.
        commit_path: ``"exact"``, ``"compiled"``, or ``"auto"``: compiled where the run is long enough to repay it.
        commit_threads: that one commit may use, >= 1.
        groups: of parameters with settings of their own, in the order of the weights; none: all are one.
        measure_every: measure ||compensation|| / ||gradient|| at every so many commits; 0: never.
        probe_every: judge a late gradient that brings ``again``, the first in every so many commits; 0: never.
        probe_rules: specs of rules that are judged beside ``rule``.
        layout: of the flat buffer; by default the weights in the order given.

    Raises:
        InvalidArgument: for a value outside its range.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        rule: Rule,
        *,
        lr: LearningRate,
        workers: int = 1,
        consistency: str | Consistency = "asynchronous",
        max_staleness: int | None = None,
        on_stale: str = "reject",
        leases: Leases | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        batchnorm: str = "mean",
        commit_path: str = AUTO,
        commit_threads: int = 1,
        groups: Sequence[ParameterGroup] = (),
        measure_every: int = 0,
        probe_every: int = 0,
        probe_rules: Sequence[str] = (),
        layout: FlatLayout | None = None,
    ) -> None:
        if not isinstance(rule, Rule):
            raise InvalidArgument(f"rule={rule!r} is not a rule; make one with tardigrad.rule('dc-asgd-a').")
        if not callable(lr):
            require_number("server", "lr", lr, low=0.0, high=math.inf, include_high=False)
        self.layout = layout or FlatLayout.of(list(weights))
        self.rule, self.version = rule, 0
        self.consistency, self.leases = build_consistency(consistency), leases
        if max_staleness is not None:
            require_integer("server", "max_staleness", max_staleness, low=0)
        self.max_staleness = max_staleness
        self.on_stale = require_choice("server", "on_stale", on_stale, ("reject", "reweight"))
        self._lr, self.samples_applied = lr, 0
        self._measure_every = require_integer("server", "measure_every", measure_every, low=0)
        self._flat = self.layout.pack(list(weights))
        self.commits = ChosenPath(
            commit_path, rule, self.layout,
            threads=require_integer("server", "commit_threads", commit_threads, low=1), groups=groups, leases=leases,
            probe_every=require_integer("server", "probe_every", probe_every, low=0), probe_rules=probe_rules,
        )  # fmt: skip
        self.backups = Backups(compared=self.commits.reads_backup)
        self.buffers = BufferStore(buffers or {}, batchnorm)
        self.participants = Participants(self.consistency, leases)
        self._waiting, self._fruitless = WaitingPushes(), Fruitless()
        for worker in range(require_integer("server", "workers", workers, low=1)):
            self.join(worker)
        if leases is not None and leases.members != set(self.live):
            raise InvalidArgument(f"leases are for {len(leases.members)} workers, the server has {workers}.")

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The learning rate at the samples applied so far, before any scaling by the consistency; the first group's."""
        return self.rates[0]

    @property
    def rates(self) -> tuple[float, ...]:
        """The same of every group, where each has its own."""
        return rates_at(self._lr, self.samples_applied)

    @property
    def live(self) -> list[int]:
        """Workers taking part, in order."""
        return self.participants.live

    @property
    def flat(self) -> Tensor:
        """The current weights as one buffer in the server's layout. Read it, never write it."""
        return self._flat

    def weights(self) -> list[Tensor]:
        """A copy of the current weights, shaped as given."""
        return self.layout.views(self._flat.clone())

    def read_version(self, worker: int) -> int:
        """The version this worker last pulled; 0 before its first pull."""
        return self.backups.version_of(worker)

    def wants_probe(self, worker: int) -> bool:
        """Whether this worker's next push is to bring ``again``: late, at a probe, and a commit of its own."""
        late = self.version - self.read_version(worker)
        return not self.consistency.barrier and self.commits.wants_probe(self.version, staleness=late)

    def ready(self) -> list[int]:
        """Workers that may read now, hold no outstanding pull, and for whom there is something to compute."""
        return self.participants.ready()

    def pull(self, worker: int, *, copy: bool = True) -> Snapshot:
        """Hand out the current weights and, where leases are used, the samples to compute next.

        The backup is taken here, as in the paper's Algorithm 2. Pulling again refreshes it, and keeps the lease.

        Args:
            worker: a live worker.
            copy: give the caller weights of its own; an engine that only reads them may do without.

        Raises:
            ProtocolError: when the consistency makes this worker wait; see `ready`.
        """
        self.participants.start(worker)
        flat = self.backups.hand_out(worker, self.version, self._flat, copy=copy)
        buffers = self.buffers.hand_out(worker, self.participants, copy=copy)
        return self._snapshot(worker, flat, buffers, shaped=copy)

    def outstanding(self, worker: int, buffers: Mapping[str, Tensor]) -> Snapshot:
        """What this worker's last pull handed out, not copied; for an engine that goes on ``under_way``."""
        return self._snapshot(worker, self.backups.of(worker), buffers, shaped=False)

    # -- writing ---------------------------------------------------------------------------------------------

    def push(
        self,
        worker: int,
        grads: Tensor | Sequence[Tensor],
        *,
        lease: Lease | None = None,
        seq: int | None = None,
        samples: int | None = None,
        loss: float | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        again: Tensor | Sequence[Tensor] | None = None,
    ) -> PushResult:
        """Hand in a gradient computed on this worker's last pull (or on w_0 before its first).

        Args:
            worker: a live worker.
            grads: tensors shaped as the weights, or one flat tensor; the mean over the batch.
            lease: the samples behind it; by default those of the worker's last pull.
            seq: number of the push in this worker's life; a number not above the last is refused as a repeat.
            samples: how many samples, to weigh contributions; by default the lease's, else 1.
            loss: mean loss of the batch, for the record.
            buffers: model buffers after the forward pass.
            again: the same samples' gradient at the server's weights of now, for a probe; see `wants_probe`.

        Raises:
            GradientError: for a gradient that does not fit the weights. Nothing was changed.
            Diverged: when the weights are no longer finite.
        """
        record = self.participants.record(worker)
        held = lease or record.lease
        count = samples if samples is not None else held.samples if held else 1
        push = Push(
            worker, self.layout.pack_gradient(grads), held, require_integer("push", "samples", count, low=1),
            incarnation=record.incarnation, sequence=seq, loss=loss, buffers=buffers or {},
            again=None if again is None else self.layout.pack_gradient(again),
        )  # fmt: skip
        return self.receive(push)

    def receive(self, push: Push, *, lasting: bool = False) -> PushResult:
        """Take in a push whose gradient is already one flat buffer in the server's layout.

        With ``lasting`` its tensors stay as they are until this worker pulls again, and need not be copied to wait.
        """
        record = self.participants.record(push.worker)
        refused = refusal(push, record)
        if refused is not None:
            return self._rejected(push, refused, keep_lease=True)
        require_in_turn(push, record, waits=push.worker in self._waiting, has_read=push.worker in self.backups)
        self.buffers.require_known(push.buffers)
        read = self.read_version(push.worker)
        staleness = self.version - read
        self.participants.pushed(push.worker)
        if push.sequence is not None:
            record.sequence = push.sequence
        if not is_finite(push):
            self._fruitless.another(self._flat, version=self.version, live=len(self.participants))
            return self._rejected(push, "non-finite")
        self._fruitless.number = 0
        if self.consistency.is_late(push.worker, read, self.version):
            return self._rejected(push, "late")
        if self.max_staleness is not None and staleness > self.max_staleness and self.on_stale == "reject":
            return self._rejected(push, "stale")
        self.participants.unpark(push.worker)
        self.consistency.arrive(push.worker)
        self._waiting.add(push, read)
        record.waiting = True
        commit = self.settle(worker=push.worker)
        if commit is not None:
            return commit
        if not lasting:
            self._waiting.own(push.worker)
        return Held(self.version, push.worker, staleness)

    def exchange(
        self, worker: int, grads: Tensor | Sequence[Tensor], **keywords: Any
    ) -> tuple[PushResult, Snapshot | None]:
        """A push (same keywords) and, where this worker is released at once, its next pull; else None."""
        result = self.push(worker, grads, **keywords)
        return result, self.pull(worker) if self.participants.is_ready(worker) else None

    def settle(self, *, worker: int | None = None) -> Commit | None:
        """Apply the commit that is due, if any.

        `push` does this by itself. An engine calls it after a worker has left or has found no lease, since the
        others of a synchronous round may have been waiting for that worker only.
        """
        due = self.consistency.due()
        if not due:
            return None
        commit = self._apply(self._waiting.take(due), due[-1] if worker is None else worker)
        self.consistency.committed(due)
        for member in due:
            self.participants.released(member)
        return commit

    def join(self, worker: int) -> int:
        """A worker takes part from now on, beginning with a pull; return its incarnation (0, + 1 for each return).

        At version 0 its backup is w_0 at once, so that a push before its first pull has a meaning.
        """
        incarnation = self.participants.join(worker)
        self.buffers.forget(worker)
        if self.version == 0:
            self.backups.begin(worker, self._flat)
        return incarnation

    def leave(self, worker: int) -> None:
        """A worker takes part no longer: its lease goes back, a push of it that waits still counts."""
        self.participants.leave(worker)
        if worker not in self._waiting:
            self.backups.drop(worker)

    def rest(self, worker: int) -> Commit | None:
        """A worker waits for samples: nobody waits for it until it reads or pushes again. Return a commit due now."""
        self.participants.rest(worker)
        return self.settle()

    def keep_in(self, worker: int, down: Memory, up: Memory) -> None:
        """Keep this worker's backup in ``down.flat`` until it is dropped; gradients of it will lie in ``up.flat``."""
        self.backups.keep_in(worker, down.flat)

    def prepare(self, *, mirrored: bool = False) -> None:
        """Make the commit path ready, once, which may take seconds; the first commit does it if nobody has.

        ``mirrored``: backups have places of their own, which commits write.
        """
        self.commits.prepare(mirrored=mirrored, several=self.consistency.barrier, measure=self._measure_every > 0)

    def close(self) -> None:
        """Nothing will be committed any more; what can be read stays."""

    # -- inside ----------------------------------------------------------------------------------------------

    def _snapshot(self, worker: int, flat: Tensor, buffers: Mapping[str, Tensor], *, shaped: bool) -> Snapshot:
        record, weights = self.participants.record(worker), self.layout.views(flat) if shaped else []
        return Snapshot(self.read_version(worker), weights, record.lease, flat, buffers, record.incarnation)

    def _apply(self, entries: Sequence[tuple[Push, int]], worker: int) -> Commit:
        self.prepare()
        total = sum(push.samples for push, _ in entries)
        factor = self.consistency.lr_factor(len(entries))
        rates, live = tuple(rate * factor for rate in self.rates), max(1, len(self.participants))
        parts = [self._part(push, read, rates, total, live) for push, read in entries]
        absent = tuple(sorted(set.intersection(*(set(push.absent) for push, _ in entries))))
        measure = self._measure_every > 0 and self.version % self._measure_every == 0
        placed = [push.worker for push, _ in entries if self.backups.place_of(push.worker) is not None]
        mirrors = [self.backups.of(worker) for worker in placed]
        ratio, quality = self.commits.apply(self._flat, parts, measure=measure, mirrors=mirrors, absent=absent)
        staleness = self.version - next(read for push, read in entries if push.worker == worker)
        self.version += 1
        for member in placed:
            self.backups.wrote(member, self.version)
        for push, _ in entries:
            self._close(push)
        return Commit(self.version, worker, staleness, contributions_of(entries), rates[0], live, ratio, quality)

    def _part(self, push: Push, read: int, rates: tuple[float, ...], total: int, live: int) -> Part:
        staleness, each = self.version - read, rates if len(rates) > 1 else ()
        facts = Facts(staleness, rates[0], self.version, live, self.version, total, rates=each)
        backup = self.backups.of(push.worker) if self.commits.reads_backup else self._flat
        weight = push.samples / total
        if self.max_staleness is not None and staleness > self.max_staleness:
            weight *= self.max_staleness / staleness
        return Part(push.worker, push.gradient, backup, facts, weight, push.again)

    def _close(self, push: Push) -> None:
        """Book a committed push: its samples, its lease and its buffers."""
        self.samples_applied += push.samples
        if self.leases is not None and isinstance(push.lease, Lease):
            self.leases.finish(push.lease)
        self.buffers.commit(push.worker, push.buffers)
        if not self.participants.lives(push.worker, push.incarnation):
            self.buffers.forget(push.worker)  # an earlier life's: the latest, but not what a new life begins with
        if push.worker not in self.participants:
            self.backups.drop(push.worker)

    def _rejected(self, push: Push, reason: RejectReason, *, keep_lease: bool = False) -> Rejected:
        lost = not keep_lease and self.participants.hand_back(push.lease, reason)
        self.participants.park(push.worker)
        staleness = self.version - self.read_version(push.worker)
        return Rejected(self.version, push.worker, staleness, reason, push.lease, lost)

    # -- state -----------------------------------------------------------------------------------------------

    def state_dict(self, *, under_way: bool = False) -> dict[str, Any]:
        """The whole state, copied: what is needed to continue bit for bit.

        Leases handed out but not finished count as returned, and no worker holds an outstanding pull. With
        ``under_way`` leases stay with their workers, whose snapshots `outstanding` makes again, and pushes wait.
        """
        if self._waiting and not under_way:
            raise ProtocolError("a synchronous round is under way; take the state after its commit, or under_way=True.")
        return {
            "version": self.version,
            "samples_applied": self.samples_applied,
            "weights": self._flat.clone(),
            "backups": self.backups.state_dict(),
            "path": self.commits.state_dict(),
            "buffers": self.buffers.state_dict(),
            "consistency": self.consistency.state_dict(),
            "leases": None if self.leases is None else self.leases.state_dict(under_way=under_way),
            "workers": self.participants.state_dict(under_way=under_way),
            "waiting": self._waiting.state_dict(),
            "fruitless": self._fruitless.number if under_way else 0,
            "made_with": self._made_with(),
        }

    def _made_with(self) -> dict[str, str]:
        """What a state belongs to."""
        made = {"weights": self.layout.hash, "rule": self.rule.spec, "optimizer": self.rule.optimizer_spec}
        groups = [(each.stop, each.lr_factor, each.optimizer) for each in self.commits.path.stretches]
        return made | {"consistency": self.consistency.spec} | ({"groups": repr(groups)} if len(groups) > 1 else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, into a server made with the same arguments."""
        require_made_with(state["made_with"], self._made_with())
        self.version, self.samples_applied = state["version"], state["samples_applied"]
        self._flat.copy_(state["weights"])
        self.backups.load_state_dict(state["backups"], like=self._flat)
        self.commits.load_state_dict(state["path"])
        self.buffers.load_state_dict(state["buffers"])
        self.consistency.load_state_dict(state["consistency"])
        if self.leases is not None and state["leases"] is not None:
            self.leases.load_state_dict(state["leases"])
        self.participants.load_state_dict(state["workers"])
        self._waiting.load_state_dict(state["waiting"], device=self.layout.device)
        self._fruitless.number = state["fruitless"]

    def bytes_held(self) -> dict[str, int]:
        """Bytes held now: weights, backups, rule state, and copies of gradients that wait for their round."""
        sizes = self._flat.nbytes, self.backups.bytes_held(), self.commits.state_bytes(), self._waiting.bytes_held()
        return dict(zip(("weights", "backups", "state", "held"), sizes, strict=True))
