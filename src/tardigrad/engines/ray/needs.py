"""Needs: what a run asks of Ray for each worker, and where it is to be. Imports no ray: it is checked before that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_choice, require_number
from tardigrad.specs import keywords_of, parse_spec, unknown_keyword

STRATEGIES = ("default", "pack", "spread", "strict-pack", "strict-spread")
_KIND = "setting"
_FOLDERS = ("working_dir", "py_modules")


@dataclass(frozen=True, slots=True)
class Needs:
    """What each worker is to have, and where it is to be.

    Attributes:
        num_cpus: of a worker, >= 0: what Ray counts. How many threads compute is another setting: ``threads``.
        num_gpus: of a worker, >= 0; where it is above 0 workers compute on ``cuda``, else on ``cpu``.
        memory: bytes of a worker that Ray counts, >= 0; 0: none.
        resources: further ones of a worker by name, such as ``{"spot": 1}``; each > 0.
        strategy: ``default``: as Ray places actors; or by a placement group: ``pack``, ``spread``, ``strict-pack``
            (one node), ``strict-spread`` (a node for each).
        runtime_env: of the workers: ``{"working_dir": ".", "pip": [...], "env_vars": {...}}``; see `uploads`.
        server_cpus: of the server, where that is an actor too, >= 0.
        server_resources: further ones of that server by name.

    Raises:
        InvalidArgument: for a value outside its range.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    strategy: str = "default"
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    server_cpus: float = 1.0
    server_resources: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("num_cpus", "num_gpus", "memory", "server_cpus"):
            require_number("ray", name, getattr(self, name), low=0.0, high=float("inf"), include_high=False)
        require_choice("ray", "strategy", self.strategy, STRATEGIES)
        for name in ("resources", "runtime_env", "server_resources"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidArgument(
                    f"ray: {name} is a dictionary such as {{'spot': 1}}, not {getattr(self, name)!r}."
                )
        for resource, number in [*self.resources.items(), *self.server_resources.items()]:
            require_number("ray", f"resources[{resource!r}]", number, low=0.0, include_low=False)

    @classmethod
    def parse(cls, text: str) -> Needs:
        """From the words of a configuration: ``"num_gpus=1, strategy='spread'"``; empty: one CPU each, as Ray likes.

        Raises:
            InvalidArgument: for words that are none of these.
        """
        spec = parse_spec(f"ray({text})") if text.strip() else parse_spec("ray")
        known = keywords_of(cls)
        if spec.args:
            raise InvalidArgument(f'ray: {spec.args[0]!r} has no name; type for instance "num_cpus=2, num_gpus=1".')
        for word in spec.kwargs:
            if word not in known:
                raise InvalidArgument(unknown_keyword(_KIND, "ray", word, known))
        return cls(**spec.kwargs)

    @property
    def options(self) -> dict[str, Any]:
        """For the actor of a worker, as Ray calls them."""
        found: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.memory:
            found["memory"] = self.memory
        if self.resources:
            found["resources"] = dict(self.resources)
        return found | self.environment

    @property
    def server_options(self) -> dict[str, Any]:
        """For the actor of a server or of one of its shards."""
        found: dict[str, Any] = {"num_cpus": self.server_cpus}
        if self.server_resources:
            found["resources"] = dict(self.server_resources)
        return found | self.environment

    @property
    def uploads(self) -> dict[str, Any]:
        """What of ``runtime_env`` lies on this machine: Ray takes it when it is connected with, for all."""
        names = [name for name in _FOLDERS if _is_here(self.runtime_env.get(name))]
        beside = ["excludes"] if "working_dir" in names and "excludes" in self.runtime_env else []
        return {name: self.runtime_env[name] for name in [*names, *beside]}

    @property
    def environment(self) -> dict[str, Any]:
        """The rest of ``runtime_env``, as an option of an actor; nothing where there is none."""
        rest = {name: value for name, value in self.runtime_env.items() if name not in self.uploads}
        return {"runtime_env": rest} if rest else {}

    @property
    def bundle(self) -> dict[str, float]:
        """What one worker takes, as Ray counts it; what is 0 is left out."""
        counted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory, **self.resources}
        return {name: number for name, number in counted.items() if number}

    def lacking(self, total: Mapping[str, float], workers: int, servers: int = 0) -> dict[str, float]:
        """What a cluster with these resources in all is short of, by name.

        Args:
            total: of all its nodes.
            workers: how many there are to be.
            servers: how many actors of the server, one for each of its shards that is one.
        """
        of_server = {"CPU": self.server_cpus, **self.server_resources}
        names = {*self.bundle, *of_server}
        needed = {name: self.bundle.get(name, 0.0) * workers + of_server.get(name, 0.0) * servers for name in names}
        short = {name: number - total.get(name, 0.0) for name, number in sorted(needed.items())}
        return {name: number for name, number in short.items() if number > 1e-9}


def _is_here(found: object) -> bool:
    """Whether it is a path of this machine, or has one: Ray reaches everything else by an address."""
    return any(isinstance(each, str) and "://" not in each for each in (found if isinstance(found, list) else [found]))
