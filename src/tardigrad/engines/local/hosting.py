"""What every engine of scripts does: processes that run the user's own program, their slots, and what they are handed.

A worker asks for samples ahead (its loader does), hands in gradients and waits until it may go on. The server applies
a gradient from where it lies in shared memory, in one pass that also writes the worker's next weights, exactly as for
the built-in tasks; only who decides when differs.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, ClassVar

from tardigrad.buffers import copy_into
from tardigrad.engines.base import Stage
from tardigrad.engines.clock import Evaluations
from tardigrad.engines.local.base import ProcessEngine
from tardigrad.engines.local.casting import Cast
from tardigrad.engines.local.membership import ScriptLives, require_alike
from tardigrad.engines.local.mischief import bring_about, hold_up
from tardigrad.engines.local.seat import Seat
from tardigrad.errors import ProtocolError
from tardigrad.ledger import Ledger
from tardigrad.records import Bundle, Commit, Lease, Push, PushResult, Rejected, Snapshot
from tardigrad.session.encoding import prepared_of, released_content, tree_bytes
from tardigrad.session.link import Prepared, Released
from tardigrad.transports.requests import memory_with
from tardigrad.transports.slots import FAULTS, SlotLayout

_STATE_EVERY = 5.0  # seconds between two handings in of the user's own state, which a checkpoint holds


class ScriptHost(ProcessEngine[Seat]):
    """Workers that run a script as processes on this machine.

    Args:
        job: server and observers; the server leases nothing itself.
        cast: the processes, started.
        prepared: what the first of them handed over, which all others must.
        first: that worker's seat.
        ledger: of the leases; None: each worker has a stream of its own.
    """

    goes_on_by: ClassVar[str] = "tardigrad run --directory {} SCRIPT"
    _lives: ScriptLives

    def __init__(
        self,
        job: Stage,
        cast: Cast,
        prepared: Prepared,
        first: Seat,
        ledger: Ledger | None,
    ) -> None:
        super().__init__(job)
        self._cast, self._prepared, self._first, self._ledger = cast, prepared, first, ledger
        self._stations = dict(cast.seats)
        self._lives = ScriptLives(job, self._tell_commit, ledger)
        self._clock = Evaluations(job)
        self._layout = SlotLayout.of(prepared.layout, prepared.buffers)
        self._gradients: dict[int, int] = {}  # releases of each worker, over all its lives
        self._user_state: Mapping[str, Any] = {}  # the last that was handed in
        self._found_state: Mapping[str, Any] = {}  # that of the checkpoint this run was taken up from
        self._state_at = perf_counter()
        self._resumed = False
        self._judged_beside = cast.judged_beside
        self._planned: int | None = None

    @property
    def computation(self) -> str:
        """By the user's own program."""
        return "script"

    # -- the beginning and the end ---------------------------------------------------------------------------

    def _begin(self) -> None:
        for seat in self._stations.values():
            self._listen(seat)
        if self._resumed:
            self._lives.begin_anew(self.now)
        self._seated(self._first)

    def _is_over(self) -> bool:
        return not self._stations

    def _conclude(self) -> None:
        self._lives.conclude(self.now, self._planned)

    def _close(self) -> None:
        super()._close()
        for seat in self._stations.values():
            seat.close()
        self._cast.dismiss()

    def _start(self, worker: int) -> None:
        incarnation = self.job.server.participants.record(worker).incarnation
        seat = self._stations[worker] = self._cast.start(worker, incarnation, now=self.now)
        self._listen(seat)

    def _drop(self, worker: int) -> None:
        pass  # what it held goes back when it leaves

    def _forget(self, station: Seat) -> None:
        station.close()
        self._stations.pop(station.worker, None)
        self._cast.seats.pop(station.worker, None)

    def _applied(self, now: float, commit: Commit) -> None:
        self._clock.committed(now, commit)

    def _tell_commit(self, now: float, commit: Commit) -> None:
        if self._ledger is not None:
            for part in commit.contributions:
                if isinstance(part.lease, Bundle):
                    self._ledger.committed(part.lease)
        super()._tell_commit(now, commit)

    def _lost(self, station: Seat) -> None:
        if not station.finished:
            super()._lost(station)
            return
        self._stop(station, at_once=station.hung)
        self._forget(station)

    # -- questions and answers -------------------------------------------------------------------------------

    def _read(self, station: Seat) -> None:
        if station.end is None:  # stopped meanwhile
            return
        try:
            word, content, descriptors = station.end.receive()
        except (EOFError, OSError):
            self._lost(station)
            return
        except ProtocolError as error:
            self._garbled(station, error)
            return
        try:
            self._asked(station, word, content, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    @abstractmethod
    def _asked(self, seat: Seat, word: str, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """A worker asks something; the descriptors are closed afterwards."""

    def _prepared_too(self, seat: Seat, content: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """A worker has prepared: what the first one had, or the run ends."""
        require_alike(f"worker {seat.worker}", self._prepared, prepared_of(content, os.dup(descriptors[0])))
        self._seated(seat)

    def _seated(self, seat: Seat) -> None:
        """Its slots are there, and it waits for its first weights."""
        self.job.server.keep_in(seat.worker, *seat.furnish(self._layout))
        seat.wants = "welcome"
        seat.waits(self.now)

    def _taken_in(self, seat: Seat, content: Mapping[str, Any]) -> tuple[Push, PushResult, list[Lease]]:
        """Apply a gradient from where it lies; of one that is refused the leases come back, those given up told."""
        assert seat.up is not None
        leases, absent = tuple(Lease(*plain) for plain in content["leases"]), tuple(content["absent"])
        if any(not 0 <= number < len(self._prepared.layout.shapes) for number in absent):
            raise ProtocolError(f"worker {seat.worker} names tensors that there are not: {absent}.")
        bundle = None if self._ledger is None else self._ledger.pushed(seat.worker, leases)
        push = Push(
            worker=seat.worker,
            gradient=seat.up.flat,
            lease=bundle,
            samples=content["samples"],
            incarnation=seat.incarnation,
            norm=content["norm"],
            loss=content["loss"],
            buffers=seat.up.buffers,
            absent=absent,
        )
        seat.pushed(content["seconds"], self.now)
        result, lost = self.job.server.receive(push, lasting=True), []
        seat.wants, seat.refused = "release", ""
        if isinstance(result, Rejected):
            seat.refused = result.reason
            if self._ledger is not None and bundle is not None:
                lost = self._ledger.refused(bundle, usable=result.reason != "non-finite")
                result = replace(result, lost=len(lost) == len(leases))
        return push, result, lost

    def _ended(self, seat: Seat) -> Commit | None:
        """A script has come to its end: nobody waits for its worker, which stays one of those whose buffers count."""
        now = self.now
        seat.ends_now(now)
        if self._ledger is not None:
            self._ledger.leave(seat.worker)
        for observer in self.job.observers:
            observer.completed(now, seat.worker, seat.incarnation)
        due = self.job.server.rest(seat.worker)
        seat.answer("ok")
        return due

    def _told(self, now: float, seat: Seat, push: Push, result: PushResult, lost: Sequence[Lease]) -> None:
        """Tell of a push, and of the leases that came back if it was refused."""
        self._tell(now, push, result)
        if isinstance(result, Rejected) and isinstance(push.lease, Bundle):
            self._tell_returned(now, seat, push.lease.leases, lost, result.reason)

    # -- going on --------------------------------------------------------------------------------------------

    def _go_on(self, seat: Seat, word: str, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Answer, and expect the next gradient in time."""
        seat.computes(self.now, self.job.limits)
        seat.answer(word, content, descriptors)

    def _release(self, seat: Seat) -> Snapshot:
        """Hand out weights, and with them what may go wrong on purpose."""
        snapshot = self.job.server.pull(seat.worker, copy=False)
        self._gradients[seat.worker] = number = self._gradients.get(seat.worker, 0) + 1
        hold_up(self.job.faults, seat, number)
        fault = self.job.faults.due(seat.worker, number)
        words = fault.kind if fault is not None and fault.kind in FAULTS else ""
        released = released_content(self._released(seat, snapshot, words))
        wanted, seat.wants = seat.wants, ""
        if wanted == "welcome":
            self._welcome(seat, snapshot, released)
        else:
            self._go_on(seat, "released", released)
        if fault is not None:
            bring_about(fault, seat, self._timers, now=self.now)
        return snapshot

    def _welcome(self, seat: Seat, snapshot: Snapshot, released: Mapping[str, Any]) -> None:
        assert seat.down is not None
        assert seat.up is not None
        copy_into(seat.down.buffers, snapshot.buffers)
        epoch = 0 if self._ledger is None else self._ledger.leases.reached
        descriptors = [seat.down.descriptor, seat.up.descriptor]
        if self._found_state:
            descriptors.append(memory_with(tree_bytes(self._found_state)))
        self._go_on(seat, "welcome", {"epoch": epoch, "released": released}, descriptors)
        for lying in descriptors[2:]:
            os.close(lying)

    def _lend_buffers(self, seat: Seat) -> None:
        """Put the model buffers that an evaluation uses where the worker finds them."""
        assert seat.down is not None
        server = self.job.server
        copy_into(seat.down.buffers, server.buffers.combined(server.live))

    def _released(self, seat: Seat, snapshot: Snapshot | None, fault: str) -> Released:
        server = self.job.server
        lowest = seat.worker == min(server.live)  # one that has come to its end stays first: what is done once is done
        first = lowest and not self._judged_beside
        wants_state = lowest and self.job.steering is not None and perf_counter() - self._state_at > _STATE_EVERY
        refused, seat.refused = seat.refused, ""
        version = server.read_version(seat.worker) if snapshot is None else snapshot.version
        return Released(version, server.samples_applied, server.rates, refused, first, fault, wants_state)

    def _tell_returned(
        self, now: float, seat: Seat, leases: Sequence[Lease], lost: Sequence[Lease], reason: str
    ) -> None:
        for observer in self.job.observers:
            observer.returned(now, seat.worker, seat.incarnation, leases, lost, reason)

    # -- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The server's, the leases', and the user's own; the scripts begin anew from there."""
        return {
            "server": self.job.server.state_dict(under_way=True),
            "ledger": None if self._ledger is None else self._ledger.state_dict(),
            "clock": self._clock.state_dict(),
            "now": self.now,
            "gradients": dict(self._gradients),
            "lives": self._lives.state_dict(),
            "planned": self._planned,
            "user": dict(self._user_state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave: every worker begins another life there, and its samples come back."""
        self.job.server.load_state_dict(state["server"])
        if self._ledger is not None:
            self._ledger.load_state_dict(state["ledger"])
        self._clock.load_state_dict(state["clock"])
        self._lives.load_state_dict(state["lives"])
        self._gradients = {int(worker): number for worker, number in state["gradients"].items()}
        self._user_state = self._found_state = state["user"]
        self._planned = state["planned"]
        self._base, self._since = state["now"], perf_counter()
        self._resumed = True
