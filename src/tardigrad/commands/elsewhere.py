"""`--server-actor`: the server of a run as a Ray actor, which begins again on another node when its own is gone."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tardigrad.config import RunConfig
from tardigrad.engines.base import Meeting, Observer
from tardigrad.engines.ray.base import means_of
from tardigrad.engines.ray.cluster import reached
from tardigrad.engines.ray.hands import Errand
from tardigrad.engines.ray.needs import Needs
from tardigrad.engines.ray.recruiting import RayRecruiter
from tardigrad.engines.ray.serving import Ending, Launch, Work
from tardigrad.errors import AllWorkersLost, Diverged, InvalidArgument, Stopped, TardigradError, WorkerFailed
from tardigrad.transports.credentials import new_secret, read_secret, write_secret

_FAILED = (Diverged, WorkerFailed, AllWorkersLost)


def train_elsewhere(
    config: RunConfig, directory: Path, *, observers: Sequence[Observer], stop: Callable[[], bool]
) -> int:
    """Train with the server in an actor; the exit status, as of ``tardigrad train``.

    Args:
        config: resolved; of the engine ``ray``.
        directory: where to record, on the server's node: the same path wherever that is.
        observers: told of everything.
        stop: asked twice a second; True: write a checkpoint, and stop.
    """
    secret = _secret_of(config.secret_file)
    work = partial(serve_task, config.as_json(), str(directory.absolute()), secret)
    return _launch(work, config, secret, observers, stop)


def run_elsewhere(
    script: str,
    after: Sequence[str],
    settings: Mapping[str, Any],
    *,
    observers: Sequence[Observer],
    stop: Callable[[], bool],
) -> int:
    """Run a script with the server in an actor; the exit status, as of ``tardigrad run``.

    Args:
        script, after: the script and its own arguments.
        settings: of `tardigrad.run`, that take the place of the script's.
        observers, stop: see `train_elsewhere`.
    """
    path = Path(script).absolute()
    place = Path(settings.get("directory") or Path("runs") / path.stem / f"ray-{secrets.token_hex(3)}").absolute()
    known = {name: value for name, value in settings.items() if name in ("address", "ray", "workers", "data_dir")}
    config = RunConfig(workers=2).replace(**known)
    secret = _secret_of(settings.get("secret_file", ""))
    given = {**settings, "engine": "ray", "directory": str(place)}
    work = partial(serve_script, str(path), tuple(after), given, secret)
    return _launch(work, config, secret, observers, stop, script=str(path))


def _launch(
    work: Work,
    config: RunConfig,
    secret: str,
    observers: Sequence[Observer],
    stop: Callable[[], bool],
    *,
    script: str = "",
) -> int:
    """See to the run until it ends, and say how it did."""
    needs = Needs.parse(config.ray)
    meeting = Meeting(Path(), workers=config.workers, address=config.address, ray=config.ray)
    recruiter = RayRecruiter(needs, Errand(means_of(needs, config.data_dir, script)), reached(meeting).hold())
    launch = Launch(work, needs, recruiter, secret=secret, workers=config.workers, observers=observers, stop=stop)
    ending = launch.run()
    print(ending.words, file=sys.stderr if ending.status else sys.stdout)
    return ending.status


def _secret_of(file: str | None) -> str:
    return read_secret(Path(file)) if file else new_secret()


# -- in the actor ------------------------------------------------------------------------------------------------


def serve_task(
    plain: Mapping[str, Any], directory: str, secret: str, news: Observer, stop: Callable[[], bool]
) -> Ending:
    """Train, or go on; what the server's actor does."""
    from tardigrad.training import train

    def go(file: str) -> None:
        train(RunConfig.from_json(plain).replace(secret_file=file), directory=directory, observers=[news], stop=stop)

    return _to_its_end(go, secret, directory)


def serve_script(
    script: str,
    after: Sequence[str],
    settings: Mapping[str, Any],
    secret: str,
    news: Observer,
    stop: Callable[[], bool],
) -> Ending:
    """Run a script, or go on with it; what the server's actor does."""
    from tardigrad.commands.executing import execute_with

    def go(file: str) -> None:
        execute_with(script, after, {**settings, "secret_file": file}, observers=[news], stop=stop)

    return _to_its_end(go, secret, settings["directory"])


def _to_its_end(go: Callable[[str], None], secret: str, directory: str) -> Ending:
    from tardigrad.standing import reached_by_checkpoint

    try:
        with _file_of(secret) as file:
            go(file)
    except Stopped as error:
        reached_at = reached_by_checkpoint(error.directory)
        how_far = f"stopped at {reached_at.words}\n" if reached_at is not None else ""
        return Ending(3, f"{how_far}to go on: the same command, with --directory {directory}")
    except TardigradError as error:
        notes = getattr(error, "__notes__", [])
        return Ending(1 if isinstance(error, _FAILED) else 2, "\n".join([f"tardigrad: {error}", *notes]))
    return Ending(0, f"recorded in {directory}")


@contextmanager
def _file_of(secret: str) -> Iterator[str]:
    """A file that holds the secret while the run lasts."""
    with tempfile.TemporaryDirectory(prefix="tardigrad-") as folder:
        path = Path(folder) / "secret"
        write_secret(path, secret)
        yield str(path)


def require_ray(engine: str | None) -> None:
    """Refuse ``--server-actor`` with another engine."""
    if engine != "ray":
        raise InvalidArgument("--server-actor is for --engine ray: elsewhere nobody starts the server again.")
