"""Lineup: who runs a script, by what `tardigrad.run` was given: its settings checked, and what no `RunConfig` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tardigrad.assembling import configure, faults_of
from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_choice, require_integer
from tardigrad.leases import Leases
from tardigrad.rules.base import Rule

SCRIPT = "script"
"""What the task of a script's run is called in its configuration."""
BY_SPEED = "by-speed"
"""In place of batch sizes: as large as their workers are fast, so that all step equally often."""
_PLAIN = (
    "workers", "rule", "consistency", "max_staleness", "on_stale", "leases", "batchnorm", "commit_path",
    "commit_threads", "seed", "measure_every", "threads", "device", "checkpoint_every", "checkpoints_kept",
    "digest_every", "wire", "hang_after", "first_step", "max_restarts", "on_failure", "chaos", "label",
    "listen", "secret_file", "trusted_network", "reconnect_within", "own_workers",
    "shards", "store", "address", "ray",
)  # fmt: skip
SETTINGS = (*_PLAIN, "batch_size", "directory", "engine", "evaluate", "group")
"""What `run` and ``tardigrad run`` take; everything else stands in the script."""
PUSHES = 100  # that faults are drawn over where nobody knows how many there will be
_OF_THE_SCRIPT = {
    "lr": "the optimizer", "optimizer": "the optimizer", "schedule": "a scheduler given to session.prepare",
    "warmup": "a scheduler given to session.prepare", "epochs": "session.epochs", "task": "the script itself",
    "precision": "torch.autocast", "augment": "the data set",
}  # fmt: skip
DEFAULTS = RunConfig(
    task=SCRIPT, engine="local", workers=2, hang_after=600.0, first_step=600.0, epochs=0, evaluate_every=1.0
)


def require_settings(given: Mapping[str, Any]) -> None:
    """Raise `InvalidArgument` for a setting that there is not, or that is the script's own."""
    for name in given:
        if name in _OF_THE_SCRIPT:
            raise InvalidArgument(f"tardigrad.run: {name} is the script's own: {_OF_THE_SCRIPT[name]} says it.")
        if name not in SETTINGS:
            raise InvalidArgument(f"tardigrad.run has no setting {name!r}. It has: {', '.join(SETTINGS)}.")


@dataclass(frozen=True, slots=True)
class Lineup:
    """What a script's run has that no `RunConfig` says.

    Attributes:
        sizes: samples in a batch of a process: None: the DataLoader's; one number, one for each worker, or `BY_SPEED`.
        group: processes that are a worker, >= 1.
        evaluate: ``"first"``: the first worker evaluates; ``"beside"``: a process that does nothing else.
    """

    sizes: int | tuple[int, ...] | str | None = None
    group: int = 1
    evaluate: str = "first"

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_integer("tardigrad.run", "group", self.group, low=1)
        require_choice("tardigrad.run", "evaluate", self.evaluate, ("first", "beside"))
        if self.evaluate == "beside" and self.group > 1:
            raise InvalidArgument("tardigrad.run: evaluate='beside' and group > 1 do not go together; leave one out.")

    @property
    def by_speed(self) -> bool:
        """Whether leases are to grow and shrink with their workers' speeds."""
        return self.sizes == BY_SPEED

    @property
    def of_leases(self) -> int | tuple[int, ...] | None:
        """Samples in a lease, which a group computes; None where nothing was given."""
        if isinstance(self.sizes, int):
            return self.sizes * self.group
        return tuple(size * self.group for size in self.sizes) if isinstance(self.sizes, tuple) else None

    def as_json(self) -> dict[str, Any]:
        """Plain data, for the run's environment."""
        return {"by_speed": self.by_speed, "group": self.group, "evaluate": self.evaluate}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Lineup:
        """As far as a replay or a run that goes on needs it."""
        return cls(BY_SPEED if plain["by_speed"] else None, plain["group"], plain["evaluate"])


def lined_up(given: Mapping[str, Any], *, name: str) -> tuple[RunConfig, Lineup]:
    """The configuration of a script's run, as far as it is known before the script has prepared; and its lineup.

    Args:
        given: settings of `tardigrad.run`.
        name: of the script.

    Raises:
        InvalidArgument: for a value that cannot be.
    """
    settings = dict(given)
    sizes, rule = settings.pop("batch_size", None), settings.pop("rule", None)
    sizes = tuple(sizes) if isinstance(sizes, Sequence) and not isinstance(sizes, str) else sizes
    if isinstance(sizes, str) and sizes != BY_SPEED:
        raise InvalidArgument(
            f"tardigrad.run: batch_size={sizes!r} is not a number, one for each worker, or 'by-speed'."
        )
    lineup = Lineup(sizes, settings.pop("group", 1), settings.pop("evaluate", "first"))
    if isinstance(rule, Rule):
        rule = rule.spec
    config = configure(DEFAULTS.replace(recipe=name), rule=rule, **settings)
    if lineup.group > 1 and not settings.get("threads"):
        config = config.replace(threads=max(1, config.threads // lineup.group))
    faults_of(config, pushes=PUSHES)
    if lineup.of_leases is not None:
        config = config.replace(batch_size=lineup.of_leases)
        Leases(1, config.batch_size, workers=config.workers)  # what it cannot take is refused before anything starts
    return config, lineup
