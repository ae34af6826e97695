"""`tardigrad serve`: a recipe or a script, for workers that join from any machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from tardigrad.commands.run import RunOptions, split_script, start
from tardigrad.commands.train import obey
from tardigrad.errors import InvalidArgument
from tardigrad.options import ResumeOptions

LISTEN = ":7070"
"""Where workers join unless something else is said: every address of this machine."""
_HOW = "Type: tardigrad serve digits --workers 4 ..., or tardigrad serve --workers 4 ... script.py [its arguments]"


@dataclass(frozen=True, slots=True)
class ServeOptions(RunOptions):
    """Serve a training script of your own to workers that join from any machine: tardigrad serve ... script.py.

    They type what this command prints: tardigrad join HOST:PORT --secret-file FILE script.py. The options are those of
    tardigrad run, and where the workers come in.
    """

    engine: tyro.conf.Suppress[Literal["local", "ray", "none"] | None] = None
    address: tyro.conf.Suppress[str | None] = None
    ray: tyro.conf.Suppress[str | None] = None
    server_actor: tyro.conf.Suppress[bool] = False
    listen: str = LISTEN
    """Where workers join: HOST:PORT, or :PORT for every address of this machine; port 0: any that is free."""
    secret_file: str | None = None
    """File with the secret that they prove themselves with; by default a new one, in the run's directory."""
    trusted_network: bool = False
    """Encrypt nothing that travels. The secret is proven all the same."""
    reconnect_within: float | None = None
    """Seconds for which a worker that cannot be reached keeps its place and its samples."""
    own_workers: int | None = None
    """How many of the workers are processes of this machine."""


def serve(words: list[str]) -> int:
    """``tardigrad serve``; the exit status: 3 where the run was stopped and can go on."""
    if words[:1] == ["--resume"] and len(words) > 1 and _is_of_script(Path(words[1])):
        return _resume_script(words[1:])
    if words and (words[0] == "--resume" or not (words[0].startswith("-") or words[0].endswith(".py"))):
        return obey("serve", words, engine="joined", listen=LISTEN, workers=1)  # it begins with whoever comes first
    before, script, after = split_script(words)
    options = tyro.cli(ServeOptions, args=before, prog="tardigrad serve")
    if script is None:
        raise InvalidArgument(f"name a recipe or a script. {_HOW}")
    return start(script, after, options.settings | {"engine": "joined"})


def _is_of_script(directory: Path) -> bool:
    try:
        return "script" in json.loads((directory / "environment.json").read_text())
    except (OSError, ValueError):
        return False


def _resume_script(words: list[str]) -> int:
    """Go on with a run of a script: it is started again with its arguments and settings as they were."""
    options = tyro.cli(ResumeOptions, args=words, prog="tardigrad serve --resume")
    if options.stop_after or options.data_dir:
        raise InvalidArgument("--stop-after and --data-dir are for recipes: a script has arguments of its own.")
    from tardigrad.lineup import SETTINGS
    from tardigrad.training import stopped_config

    config = stopped_config(options.run)
    known = json.loads((options.run / "environment.json").read_text())
    settings = {name: value for name, value in config.as_json().items() if name in SETTINGS}
    sizes = settings["batch_size"]
    each = sizes // known["group"] if isinstance(sizes, int) else [size // known["group"] for size in sizes]
    settings |= {"batch_size": "by-speed" if known["by_speed"] else each, "directory": options.run}
    settings |= {"group": known["group"], "evaluate": known["evaluate"], "listen": options.listen or config.listen}
    return start(known["script"]["path"], known["script"]["argv"], settings)
