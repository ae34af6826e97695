"""What runs in a worker's process that runs a script: the user's function, with a session in its hand."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from tardigrad.engines.local.processes import begin, end_with_parent
from tardigrad.errors import SessionError
from tardigrad.session.group import GroupedLink, LeaderLink, MemberLink
from tardigrad.session.local import LocalLink
from tardigrad.session.randomness import seed_generators
from tardigrad.session.served import ServedSession
from tardigrad.transports.requests import Wire


class Role(Protocol):
    """Leads to the function that a worker runs; it travels."""

    def load(self) -> Callable[[Any], Any]:
        """The function, which takes a session."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a worker that runs a script is told at its start.

    Attributes:
        worker, workers, incarnation, seed: see `tardigrad.session.link.Link`.
        threads: that compute, >= 1.
        device: where the session puts what it makes itself.
        start_method: by which the script's own processes are started, those of a DataLoader: what the starting
            process would use; without it a worker would use its own, the forkserver.
        rank, group: which process of how many that are this worker; the first is their leader.
        wire: what gradients are handed in as; see `tardigrad.arithmetic.Arithmetic`.
    """

    worker: int
    workers: int
    incarnation: int
    seed: int
    threads: int
    device: str
    start_method: str
    rank: int = 0
    group: int = 1
    wire: str = "float32"


def act(end: socket.socket, role: Role, part: Part, beside: Sequence[socket.socket] = ()) -> None:
    """A worker's whole life: the user's function from its beginning to its end.

    Args:
        end: of the wire to the server.
        role: leads to the function.
        part: of this process.
        beside: ends of the wires to the other processes of the group: the leader's to each, theirs to the leader.
    """
    begin(part.threads)
    multiprocessing.set_start_method(part.start_method, force=True)
    wire, others = Wire(end), [Wire(other) for other in beside]
    os.register_at_fork(after_in_child=partial(_forked, [wire, *others]))
    try:
        _play(_link(wire, others, part), role, part)
    except SystemExit as told:
        raise SystemExit(told.code) from None
    except BaseException as error:
        _report(wire, error, f"process {part.rank} of {part.group}:\n" if part.group > 1 else "")
        raise SystemExit(1) from None


def _forked(wires: Sequence[Wire]) -> None:
    """In a process the script forks, such as a DataLoader's: it holds no end of a wire, and ends with the worker.

    So a worker's end is noticed at once, and leaves nobody behind that waits to notice it too.
    """
    for wire in wires:
        wire.close()
    end_with_parent()


def _link(wire: Wire, others: Sequence[Wire], part: Part) -> LocalLink:
    """The way of this process to the server, which leads over the leader of its group, if it has one."""
    life = {"worker": part.worker, "workers": part.workers, "incarnation": part.incarnation, "seed": part.seed}
    link: LocalLink
    if part.group == 1:
        link = LocalLink(wire, **life)
    elif part.rank == 0:
        link = LeaderLink(wire, others, **life)
    else:
        link = MemberLink(others[0], rank=part.rank, group=part.group, **life)
    link.travels_as = part.wire
    return link


def _play(link: LocalLink, role: Role, part: Part) -> None:
    function = role.load()
    seed_generators(part.seed)
    session = ServedSession(link, device=part.device)
    try:
        function(session)
    except BaseException as error:
        if isinstance(link, GroupedLink) and link.bereft(error):
            raise SystemExit(0) from None  # what it raises is that another process of its group has ended
        raise
    finally:
        session.stop_fetching()
    if not session.prepared:
        raise SessionError(
            "the script has come to its end without session.prepare(): nothing was trained. Write `model, optimizer, "
            "loader = session.prepare(model, optimizer, loader)` before the loop."
        )
    session.close()


def _report(wire: Wire, error: BaseException, where: str) -> None:
    """Tell the server what was raised, if it still listens."""
    words = where + "".join(traceback.format_exception(error))
    try:
        wire.send("raised", {"traceback": words, "mistaken": isinstance(error, SessionError)})
    except OSError:
        print(words, file=sys.stderr)
