"""`join`: this process offers places for workers to a run on another machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tardigrad.assembling import require_device, require_platform
from tardigrad.engines.joined.agent import Agent
from tardigrad.engines.joined.place import PlaceView
from tardigrad.engines.joined.resolving import Means
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_integer, require_number
from tardigrad.imports import import_all
from tardigrad.invitation import SECRET, SECRET_VARIABLE, Invitation, find_invitation
from tardigrad.transports.credentials import Credentials, read_secret, require_secret
from tardigrad.transports.meeting import parse_address


def say(words: str) -> None:
    """One line on the standard error stream."""
    print(f"tardigrad: {words}", file=sys.stderr, flush=True)


def join(
    address: str | Path | Callable[[], str],
    *,
    secret: str = "",
    secret_file: str | Path = "",
    trusted_network: bool = False,
    workers: int = 1,
    device: str = "cpu",
    data_dir: str = "",
    imports: Sequence[str] = (),
    script: str | Path = "",
    args: Sequence[str] = (),
    keep_trying: float = 600.0,
    again: bool = False,
    overlap: bool = False,
    drain: threading.Event | None = None,
    leave: threading.Event | None = None,
    tell: Callable[[str], None] = say,
    watch: Callable[[Sequence[PlaceView]], None] = lambda views: None,
) -> int:
    """Work for a run that another process serves (``tardigrad serve``), until it is over. In any thread.

    A connection that is cut is made again, and the worker goes on where it was. A server that was killed is looked for
    until it is back, wherever ``address`` says that it is then.

    Args:
        address: ``"host:port"``; the run's directory, where this machine sees it; or a function that is asked before
            every attempt (empty: not known yet).
        secret: what the run's server was started with. Empty: read from ``secret_file``, else ``TARDIGRAD_SECRET``.
        secret_file: a file that only its owner may read.
        trusted_network: nothing is encrypted; the server must have said the same.
        workers: how many work here, >= 1.
        device: of their gradients: cpu, cuda:N, or cuda: the GPUs in turn.
        data_dir: folder with data sets on this machine; empty: ``TARDIGRAD_DATA``, else a cache folder.
        imports: modules or files that the run imports, where they lie elsewhere on this machine.
        script: this machine's copy of the run's script; empty for a task.
        args: of the script; empty: as the server's.
        keep_trying: seconds without an answer after which the server is given up, >= 0.
        again: whether another run is waited for when one has ended.
        overlap: whether two workers take the place of each, and compute in turn: what one hands in and gets travels
            while the other computes. The server knows them as two; each one's gradients are one more late for it.
        drain: once set, the workers hand in what they compute, and leave.
        leave: once set, they leave at once.
        tell: told in words what happens, from any thread.
        watch: shown ten times a second what is known of each worker's place.

    Returns:
        0, the exit status: the run is over, or the workers have left as they were asked to.

    Raises:
        InvalidArgument: for a value that cannot be, or where the server refuses this machine: other versions, other
            source files, another script; the sentence says what to do.
        Unreachable: nobody answered in time.
        CredentialsRefused: the secret is not the server's.
        MissingDependencyError: encryption needs the package ``cryptography``.
    """
    require_platform()
    require_device(device)
    require_integer("join", "workers", workers, low=1)
    require_number("join", "keep_trying", keep_trying, low=0.0)
    import_all(imports)
    where, invited = _place_of(address)
    if invited is not None:
        trusted_network = trusted_network or invited.trusted
        secret_file = secret_file or ("" if secret else _secret_file_in(Path(str(address)), invited))
        script = script or invited.script
    _require_file(script)
    credentials = Credentials(_secret(secret, secret_file), trusted_network)
    means = Means(device, data_dir, tuple(imports), str(script), tuple(args))
    agent = Agent(
        where, credentials, means, places=workers, keep_trying=keep_trying, again=again, overlap=overlap, tell=tell
    )

    def tick() -> None:
        """Pass the caller's wishes on."""
        if drain is not None and drain.is_set():
            agent.wishes.drain()
        if leave is not None and leave.is_set():
            agent.wishes.leave()
        watch(agent.views())

    shown = "a run" if callable(address) else address
    tell(f"joining {shown} with {workers} worker{'s' if workers > 1 else ''}")
    agent.run(tick)
    return 0


def _place_of(address: str | Path | Callable[[], str]) -> tuple[str | Callable[[], str], Invitation | None]:
    """What to dial, and what the run's directory says of it."""
    if callable(address):
        return address, None
    if Path(address).is_dir():
        directory = Path(address)
        invited = Invitation.read(directory)
        return lambda: _address_in(directory, invited.address), invited
    parse_address(str(address))
    return str(address), None


def _secret_file_in(directory: Path, invited: Invitation) -> Path:
    """The run's secret: where the server said, seen from anywhere; else in the directory, as this machine sees it."""
    said = Path(invited.secret_file)
    own = directory / SECRET
    return own if own.exists() and not (said.is_absolute() and said.exists()) else said


def _address_in(directory: Path, before: str) -> str:
    """Where the run of this directory listens now: a server that was started again may have another port."""
    found = find_invitation(directory)
    return before if found is None else found.address


def _secret(secret: str, secret_file: str | Path) -> str:
    if secret:
        return require_secret(secret)
    if secret_file:
        return read_secret(secret_file)
    if os.environ.get(SECRET_VARIABLE):
        return require_secret(os.environ[SECRET_VARIABLE])
    raise InvalidArgument(
        "a run is joined with its secret: copy the file that `tardigrad serve` names to this machine (only its owner "
        f"may read it: chmod 600), and type --secret-file FILE; or set {SECRET_VARIABLE}."
    )


def _require_file(script: str | Path) -> None:
    if script and not Path(script).is_file():
        raise InvalidArgument(f"there is no script {script}: name this machine's copy of the run's script.")
