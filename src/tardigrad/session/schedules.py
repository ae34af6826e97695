"""Schedules: a torch scheduler becomes a table of learning rates, which the server goes through by samples applied.

A scheduler that every worker stepped by itself would be as many times too fast as there are workers. So a copy of it
is stepped once, ahead of time, and the learning rates of every step are written down. One step of the user's stands
for a number of samples, its *unit*: those of an epoch, or those of a push.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from tardigrad.errors import SessionError
from tardigrad.hyperparameters import require_choice
from tardigrad.session.loader import EpochClock

PLACES = ("epoch", "step")
_MOST_ROWS = {"epoch": 1_000, "step": 100_000}  # where nobody said how many epochs the run has
Rows = tuple[tuple[float, ...], ...]


def unit_of(place: str, *, samples: int | None, batch_size: int, accumulate: int = 1) -> int:
    """The samples that one step of the scheduler stands for.

    Args:
        place: where the script steps it: ``"epoch"``: after each epoch; ``"step"``: after each optimizer step.
        samples: of an epoch; None: a stream.
        batch_size: samples of a batch, >= 1.
        accumulate: batches of a push, >= 1.

    Raises:
        SessionError: a stream with ``"epoch"``: the server does not know how long a stream is.
    """
    require_choice("session.prepare", "schedule", place, PLACES)
    if place == "step":
        return batch_size * accumulate
    if samples is None:
        raise SessionError(
            "schedule='epoch' with a stream: how many samples an epoch of it has nobody knows. "
            "Write session.prepare(..., schedule='step') and step the scheduler after each optimizer step."
        )
    return samples


def rows_needed(place: str, *, samples: int | None, unit: int, epochs: int | None) -> int:
    """How many rows the table of a run has at most: a step more than the run, or plenty where its end is not known."""
    if samples is None or epochs is None:
        return _MOST_ROWS[place]
    return epochs * -(-samples // unit) + 1


def table(scheduler: Any, optimizer: Optimizer, rows: int) -> Rows:
    """The learning rate of every group of ``optimizer``, step after step of ``scheduler``; neither is changed.

    Args:
        scheduler: any `torch.optim.lr_scheduler.LRScheduler` of this optimizer, in whatever state it is.
        optimizer: the user's own.
        rows: most that are wanted, >= 1. The first is before any step. Rows at the end that repeat the one before are
            left out, and the table ends where the scheduler does: where it raises an error (OneCycleLR beyond its
            total_steps), or where a rate is below 0 or not finite. The last row holds for ever.

    Raises:
        SessionError: no such scheduler, or one that needs a metric or changes more than learning rates.
    """
    _require_table(scheduler, optimizer)
    stepped = _Stepped(scheduler, optimizer)
    others = stepped.others()
    found = [stepped.rates()]
    for _ in stepped.steps(rows - 1):
        if any(not math.isfinite(rate) or rate < 0.0 for rate in stepped.rates()):
            break
        if stepped.others() != others:
            raise SessionError(_changes_more(scheduler, stepped, others))
        found.append(stepped.rates())
    while len(found) > 1 and found[-1] == found[-2]:
        found.pop()
    return tuple(found)


class ServedScheduler(LRScheduler):
    """The user's scheduler, when the server goes through its table: `step` only sees to it that its place is right.

    Args:
        scheduler: the user's own.
        optimizer: the served one, whose param_groups mirror the server's learning rates.
        epochs: says whether a loop over the loader is running.
        place: where the script is to step it: ``"epoch"``: outside; ``"step"``: inside.
        units: how many of its steps the run has come to by samples applied; without it, the steps taken here.
    """

    def __init__(
        self,
        scheduler: LRScheduler,
        optimizer: Optimizer,
        epochs: EpochClock,
        place: str,
        *,
        units: Callable[[], int] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self._own = scheduler
        self._clock = epochs
        self._place = require_choice("session.prepare", "schedule", place, PLACES)
        self._steps = 0
        self._units = units or (lambda: self._steps)
        self._stepped = _Stepped(scheduler, scheduler.optimizer)

    def step(self, epoch: Any = None) -> None:
        """Change nothing: the server's learning rates follow the samples applied.

        Raises:
            SessionError: it was called where `session.prepare` was not told of, or with an argument.
        """
        if epoch is not None:
            raise SessionError("scheduler.step() takes no argument here: the server knows how far the run is.")
        if self._place == "epoch" and self._clock.inside:
            raise SessionError(
                "scheduler.step() was called inside the loop over the loader, and session.prepare was told that it is "
                "called once an epoch. Write session.prepare(..., schedule='step'), or call it after the loop."
            )
        if self._place == "step" and not self._clock.inside:
            raise SessionError(
                "scheduler.step() was called outside the loop over the loader, and session.prepare was told "
                "schedule='step'. Leave schedule='step' out, or call it after each optimizer.step()."
            )
        self._steps += 1

    def get_last_lr(self) -> list[Any]:
        """The server's learning rate of each group, as of the weights that this worker holds."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What the user's own scheduler would save after as many steps: plain PyTorch can go on from it."""
        return self._at_units().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refused: the table is the server's already.

        Raises:
            SessionError: always.
        """
        raise SessionError(
            "scheduler.load_state_dict() after session.prepare: the server goes through the schedule. "
            "Load the scheduler's state before session.prepare."
        )

    def __getattr__(self, name: str) -> Any:
        """What the user's own scheduler has, after as many steps as the run has come to."""
        if name.startswith("__") or "_stepped" not in self.__dict__:  # asked by copy and pickle
            raise AttributeError(name)
        return getattr(self._at_units(), name)

    def _at_units(self) -> LRScheduler:
        for _ in self._stepped.steps(self._units() - self._stepped.taken):
            pass
        return self._stepped.scheduler


class _Stepped:
    """A copy of a scheduler and its optimizer that can be stepped; the parameters are not copied."""

    def __init__(self, scheduler: LRScheduler, optimizer: Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        shared = {id(thing): thing for thing in (*parameters, optimizer.state)}
        try:
            self.scheduler, self._optimizer = copy.deepcopy((scheduler, optimizer), shared)
        except Exception as error:
            raise SessionError(
                f"the scheduler {type(scheduler).__name__} cannot be copied ({error}), and its learning rates are "
                "found with a copy. Keep what cannot be copied out of it."
            ) from error
        self.watched = _watched(self._optimizer)
        self.taken = 0

    def steps(self, number: int) -> Iterator[int]:
        """Step so many times, or as often as the scheduler can."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer.step() came first
            for step in range(number):
                try:
                    self.scheduler.step()
                except Exception:
                    return
                self.taken += 1
                yield step

    def rates(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self._optimizer.param_groups)

    def others(self) -> list[list[Any]]:
        """The groups' other numbers, under ``watched``."""
        return [[group[name] for name in self.watched] for group in self._optimizer.param_groups]


def _watched(optimizer: Optimizer) -> list[str]:
    """The names of all numbers and settings that every group has, but for those that are a scheduler's to change."""
    every = [{name for name, value in group.items() if _is_plain(value)} for group in optimizer.param_groups]
    return sorted(set.intersection(*every) - {"params", "lr", "initial_lr"})


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return isinstance(value, int | float | str | None)


def _require_table(scheduler: Any, optimizer: Optimizer) -> None:
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau):
        raise SessionError(
            f"{name} needs a metric, and the server goes through a schedule that is known ahead. "
            "Take a schedule by epochs, such as MultiStepLR or CosineAnnealingLR."
        )
    if not isinstance(scheduler, LRScheduler):
        raise SessionError(f"session.prepare takes a torch.optim.lr_scheduler.LRScheduler; {name} is none.")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise SessionError(f"the scheduler {name} belongs to another optimizer than the one given to session.prepare.")


def _changes_more(scheduler: Any, stepped: _Stepped, before: list[list[Any]]) -> str:
    changed = [
        name
        for place, name in enumerate(stepped.watched)
        if any(old[place] != new[place] for old, new in zip(before, stepped.others(), strict=True))
    ]
    hint = " Write cycle_momentum=False." if hasattr(scheduler, "cycle_momentum") else ""
    return (
        f"the scheduler {type(scheduler).__name__} changes {', '.join(changed)} besides the learning rate; "
        f"the server follows learning rates only.{hint}"
    )
