"""Given: what a script hands to `Session.prepare`, sorted by kind, and handed back in the order it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from tardigrad.hyperparameters import require_choice, require_integer
from tardigrad.session import mistakes

_KINDS = {"model": nn.Module, "optimizer": Optimizer, "loader": DataLoader, "scheduler": LRScheduler}
SCHEDULES = ("epoch", "step")


@dataclass(frozen=True, slots=True)
class Given:
    """What is to be prepared.

    Attributes:
        objects: as they were given, None where a place was left empty.
        model, optimizer, loader, scheduler: the same by kind; loader and scheduler may be missing.
        accumulate: steps that make one of the optimizer, >= 1.
        schedule: when the script steps its scheduler: after every ``"epoch"``, after every ``"step"``, or after so many
            samples.
        epochs: of the run, where the script has said; None: not yet.
    """

    objects: tuple[Any, ...]
    model: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any] | None
    scheduler: LRScheduler | None
    accumulate: int
    schedule: str | int
    epochs: int | None

    @classmethod
    def of(cls, objects: tuple[Any, ...], *, accumulate: int, schedule: str | int, epochs: int | None) -> Given:
        """Sort what was given.

        Raises:
            SessionError: an object of no known kind, two of one, no model or no optimizer.
            InvalidArgument: for a value outside its range.
        """
        found: dict[str, Any] = {}
        for item in objects:
            if item is None:
                continue
            kind = _kind_of(item)
            if kind in found:
                raise mistakes.given_twice(kind)
            found[kind] = item
        for kind in ("model", "optimizer"):
            if kind not in found:
                raise mistakes.not_given(kind)
        require_integer("session.prepare", "accumulate", accumulate, low=1)
        if isinstance(schedule, str):
            require_choice("session.prepare", "schedule", schedule, SCHEDULES)
        else:
            require_integer("session.prepare", "schedule", schedule, low=1)
        if epochs is not None:
            require_integer("session.prepare", "epochs", epochs, low=1)
        return cls(
            objects, found["model"], found["optimizer"], found.get("loader"), found.get("scheduler"),
            accumulate=accumulate, schedule=schedule, epochs=epochs,
        )  # fmt: skip

    @property
    def place(self) -> str:
        """Where the script steps its scheduler: ``"epoch"``: after the loop over the loader, or ``"step"``: inside."""
        return self.schedule if isinstance(self.schedule, str) else "step"

    def handed_back(self, made: Mapping[int, Any]) -> tuple[Any, ...]:
        """The objects in their order, those replaced that have a stand-in under their id in ``made``."""
        return tuple(made.get(id(item), item) for item in self.objects)


def _kind_of(item: object) -> str:
    for kind, type_ in _KINDS.items():
        if isinstance(item, type_):
            return kind
    raise mistakes.unknown_object(item)
