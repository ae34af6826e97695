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

from tardigrad.assembling import meeting_of
from tardigrad.config import RunConfig
from tardigrad.engines.base import Observer
from tardigrad.engines.ray.base import means_of, script_path
from tardigrad.engines.ray.cluster import reached
from tardigrad.engines.ray.hands import Errand
from tardigrad.engines.ray.needs import Needs
from tardigrad.engines.ray.recruiting import RayRecruiter
from tardigrad.engines.ray.serving import Ending, Launch, Work
from tardigrad.errors import FAILURES, InvalidArgument, ShardLost, Stopped, TardigradError
from tardigrad.transports.credentials import new_secret, read_secret, write_secret

_KNOWN = ("address", "ray", "workers", "shards", "data_dir")  # of a script's settings, what its command sees to
_LOSSES = 3  # of a shard, without a newer checkpoint in between, after which the run ends


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
    config = RunConfig(workers=2).replace(**{name: settings[name] for name in _KNOWN if name in settings})
    secret = _secret_of(settings.get("secret_file", ""))
    given = {**settings, "engine": "ray", "directory": str(place)}
    work = partial(serve_script, script_path(Needs.parse(config.ray), str(path)), tuple(after), given, secret)
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
    needs, said = Needs.parse(config.ray), (config.address, config.ray)
    cluster = reached(meeting_of(config, Path()), server_actor=True).hold()
    try:
        recruiter = RayRecruiter(needs, Errand(means_of(needs, config.data_dir, script)), cluster)
        launch = Launch(
            work, needs, recruiter, secret=secret, workers=config.workers, observers=observers, stop=stop, said=said
        )
        ending = launch.run()
    finally:
        cluster.close()
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

    ending = _to_its_end(go, secret, directory, news)
    if ending.status or not plain["chaos"]:
        return ending
    from tardigrad.audit import audit

    verdict = audit(directory)
    return Ending(0 if verdict.ok else 1, f"{ending.words}\n{verdict.verdict}")


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
        path = str(Path(script).absolute())  # below a folder that Ray has brought it is given from there
        execute_with(path, after, {**settings, "secret_file": file}, observers=[news], stop=stop)

    return _to_its_end(go, secret, settings["directory"], news)


def _to_its_end(go: Callable[[str], None], secret: str, directory: str, news: Observer) -> Ending:
    from tardigrad.standing import reached_by_checkpoint

    try:
        with _file_of(secret) as file:
            _outliving_shards(partial(go, file), Path(directory), news)
    except Stopped as error:
        reached_at = reached_by_checkpoint(error.directory)
        how_far = f"stopped at {reached_at.words}\n" if reached_at is not None else ""
        return Ending(3, f"{how_far}to go on: the same command, with --directory {directory}")
    except TardigradError as error:
        notes = getattr(error, "__notes__", [])
        return Ending(1 if isinstance(error, FAILURES) else 2, "\n".join([f"tardigrad: {error}", *notes]))
    return Ending(0, f"recorded in {directory}")


def _outliving_shards(go: Callable[[], None], directory: Path, news: Observer) -> None:
    """Go on from the last checkpoint where a shard is lost: Ray places others."""
    from tardigrad.standing import reached_by_checkpoint

    version, losses = -1, 0
    while True:
        try:
            return go()
        except ShardLost as error:
            reached_at = reached_by_checkpoint(directory)
            if reached_at is None:
                raise
            losses = losses + 1 if reached_at.version == version else 1
            version = reached_at.version
            if losses > _LOSSES:
                raise
            news.noted(0.0, f"{error} That is {reached_at.words}")


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
