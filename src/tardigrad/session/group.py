"""A worker that is a group of processes: its leader talks to the server, and tells the others what was answered.

Every process of a group runs the same program. So each asks the same questions at the same points, and the leader,
process 0, puts each of them to the server once, when all have asked it: to the server a group is one worker. Words go
over pairs of sockets between the leader and each other process; *down* is memory that all of them see. Gradients do not
come this way; see `tardigrad.session.averaging`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from tardigrad.errors import SessionError
from tardigrad.records import Lease
from tardigrad.session.link import Prepared, Released, Welcome
from tardigrad.session.local import LocalLink
from tardigrad.transports.requests import Wire

_COMPARED: dict[str, tuple[str, ...] | None] = {
    "prepare": None,  # everything
    "epochs": ("number",),
    "take": ("epoch", "wait"),
    "order": ("epoch",),
    "push": ("leases", "samples", "absent"),
    "refresh": ("evaluation",),
    "count": (),
    "meet": (),
    "finish": (),
}
"""What all processes of a group ask together, and what of each question must not differ between them."""
_PATIENCE = 1.0  # seconds in which the end of another process shows


class GroupedLink(LocalLink):
    """One process of a group.

    Args:
        wire: to the server, of the leader; to the leader, of the others.
        rank: this process of the group, from 0; 0 is the leader.
        group: how many processes it has, >= 2.
        worker, workers, incarnation, seed: see `Link`; of the whole group.
    """

    def __init__(
        self, wire: Wire, *, rank: int, group: int, worker: int, workers: int, incarnation: int, seed: int
    ) -> None:
        super().__init__(wire, worker=worker, workers=workers, incarnation=incarnation, seed=seed)
        self.rank, self.group = rank, group

    def count(self, samples: int) -> list[int]:
        """Tell the others how many samples this process's part has, >= 0; return what each says."""
        return list(self._asked("count", {"samples": samples})[0]["samples"])

    def meet(self, device: torch.device) -> tuple[FileStore, str]:
        """Meet the others; return the store by which they find each other, and what carries tensors between them.

        Args:
            device: where this process computes.

        Returns:
            The store, and ``"nccl"`` where each has a GPU of its own, else ``"gloo"``.
        """
        content, descriptors = self._asked("meet", {"device": str(device)})
        kept = descriptors[0]  # for good: the store opens it anew at every word
        return FileStore(f"/proc/self/fd/{kept}", -1), content["backend"]

    def others(self) -> list[Wire]:
        """The wires to those processes whose end this one notices."""
        return [self._wire]

    def bereft(self, error: BaseException) -> bool:
        """Whether an error in this process may be due to the end of another, which is what is to be told then."""
        if not isinstance(error, RuntimeError | SystemExit):
            return False
        return bool(_ended(self.others(), _PATIENCE))


class LeaderLink(GroupedLink):
    """The process of a group that talks to the server.

    Args:
        members: wires to the others, in their order.
        wire, worker, workers, incarnation, seed: see `Link` and `LocalLink`.
    """

    def __init__(
        self, wire: Wire, members: Sequence[Wire], *, worker: int, workers: int, incarnation: int, seed: int
    ) -> None:
        super().__init__(
            wire, rank=0, group=1 + len(members), worker=worker, workers=workers, incarnation=incarnation, seed=seed
        )
        self._members = list(members)

    def others(self) -> list[Wire]:
        """See `GroupedLink`."""
        return self._members

    def _asked(
        self, word: str, content: Mapping[str, Any], descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        if word not in _COMPARED or os.getpid() != self._owner:
            return super()._asked(word, content, descriptors)
        try:
            asked = self._gathered(word, content)
            answer, returned = self._answered(word, content, descriptors, asked)
            self._tell(word, answer, returned)
        except SessionError as error:
            self._tell("refused", {"message": str(error)})
            raise
        return answer, returned

    def _answered(
        self, word: str, content: Mapping[str, Any], descriptors: Sequence[int], asked: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer to what all have asked: the leader's own, where it is about the group alone."""
        everyone = [content, *asked]
        if word == "count":
            return {"samples": [each["samples"] for each in everyone]}, []
        if word == "meet":
            places = {each["device"] for each in everyone}
            apart = len(places) == len(everyone) and all(place.startswith("cuda") for place in places)
            return {"backend": "nccl" if apart else "gloo"}, [os.memfd_create("store", os.MFD_CLOEXEC)]
        if word == "push" and content["loss"] is not None:
            counts = shares(Lease(*content["leases"][-1]), self.group) if content["leases"] else [1] * self.group
            total = sum(count * each["loss"] for count, each in zip(counts, everyone, strict=True))
            content = {**content, "loss": total / sum(counts)}
        return super()._asked(word, content, descriptors)

    def _gathered(self, word: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Wait until every other process asks the same; return what each says with it.

        Raises:
            SessionError: one asks something else.
        """
        mine, found = json.loads(json.dumps(content)), []
        for rank, wire in enumerate(self._members, start=1):
            try:
                other, said, lying = wire.receive()
            except (EOFError, OSError):
                raise SystemExit(0) from None  # it has ended, and so does this worker
            for descriptor in lying:
                os.close(descriptor)
            if other != word:
                raise _apart(self.worker, rank, f"asks {other!r} where process 0 asks {word!r}")
            names = _COMPARED[word]
            for name in said if names is None else names:
                if said[name] != mine[name]:
                    what = f"{word}: {name} is {_short(said[name])} there and {_short(mine[name])} in process 0"
                    raise _apart(self.worker, rank, f"differs in {what}")
            found.append(said)
        return found

    def _tell(self, word: str, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Tell the others the answer; one that has ended is noticed at the next question."""
        for wire in self._members:
            try:
                wire.send(word, content, descriptors)
            except OSError:
                continue


class MemberLink(GroupedLink):
    """Another process of a group: it asks the leader, in the words in which that asks the server.

    What the server is told once is told by the leader: here it has no effect. So its gradient stays here too.
    """

    def prepare(self, prepared: Prepared) -> Welcome:
        """See `Link`."""
        welcome = super().prepare(prepared)
        own = {name: torch.empty_like(each) for name, each in welcome.returned.items()}
        return dataclasses.replace(welcome, gradient=torch.zeros_like(welcome.gradient), returned=own)

    def give_back(self, leases: Sequence[Lease], *, skipped: bool = False) -> None:
        """Done by the leader."""

    def evaluated(self, scores: Mapping[str, Mapping[str, float]], *, seconds: float) -> None:
        """Done by the leader."""

    def log(self, values: Mapping[str, float]) -> None:
        """Done by the leader."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Done by the leader."""

    def _released(self, content: Mapping[str, Any]) -> Released:
        """Without what is meant for one process alone."""
        return super()._released({**content, "fault": "", "wants_state": False})


def shares(lease: Lease, group: int) -> list[int]:
    """Samples of a lease that each process computes: as equal as can be, the first ones one more.

    >>> shares(Lease(0, 96, 103), 3)
    [3, 2, 2]
    """
    each, more = divmod(lease.samples, group)
    return [each + (rank < more) for rank in range(group)]


def _apart(worker: int, rank: int, what: str) -> SessionError:
    return SessionError(
        f"process {rank} of worker {worker} {what}. Every process of a group runs the same script to the same end: "
        "let its loops, its steps and session.evaluate depend neither on session.rank nor on session.is_first."
    )


def _short(value: object) -> str:
    words = str(value)
    return words if len(words) <= 60 else f"{words[:60]}..."


def _ended(wires: Sequence[Wire], seconds: float) -> list[Wire]:
    """Those at whose other end nobody is any more; one of them is waited for so long."""
    poll = select.poll()
    for wire in wires:
        if wire.fileno() >= 0:
            poll.register(wire.fileno(), select.POLLHUP | select.POLLRDHUP)
    found = [descriptor for descriptor, _ in poll.poll(seconds * 1000.0)]
    return [wire for wire in wires if wire.fileno() in found]
