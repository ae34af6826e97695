"""Mirrored optimizers: a torch.optim.Optimizer that stands in for the user's own, with its very groups.

Schedulers, GradScaler, hooks and logging find in it what they found in the original: the same dicts in
``param_groups``, the same defaults, the hooks registered before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from tardigrad.session import mistakes

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


class MirroredOptimizer(Optimizer):
    """Stands in for another optimizer; a subclass says what `step` does.

    Its groups are the original's own dicts, and the original's hooks are its own from now on.

    Args:
        original: which it stands in for.
    """

    def __init__(self, original: Optimizer) -> None:
        self._complete = False
        super().__init__(original.param_groups, original.defaults)
        for name in _HOOKS:
            getattr(self, name).update(getattr(original, name))
            getattr(original, name).clear()
        self.original = original
        self._complete = True

    def __repr__(self) -> str:
        """Which optimizer it stands in for, and its groups."""
        return f"{type(self).__name__} for {self.original!r}"


class GroupMirrors:
    """The numbers in ``param_groups``, which the server decides: shown to the script, and watched.

    Args:
        optimizer: whose groups they are.
        served: which groups the server steps, in its order; the others hold nothing that is trained.
    """

    def __init__(self, optimizer: Optimizer, served: Sequence[int]) -> None:
        self._groups = optimizer.param_groups
        self._served = tuple(served)
        self._watched = tuple(optimizer.defaults)
        self._numbers = [{name: group[name] for name in self._watched if name in group} for group in self._groups]
        self._parameters = [[id(parameter) for parameter in group["params"]] for group in self._groups]

    def show(self, rates: Sequence[float]) -> None:
        """Write the server's learning rates into the groups that it steps."""
        for number, rate in zip(self._served, rates, strict=True):
            self._groups[number]["lr"] = self._numbers[number]["lr"] = rate

    def require_unchanged(self) -> None:
        """Refuse what the script has written there.

        Raises:
            SessionError: a number or a parameter of a group is not the one that was there.
        """
        if len(self._groups) != len(self._numbers):
            raise mistakes.group_added()
        for place, group in enumerate(self._groups):
            for name, value in self._numbers[place].items():
                if group[name] != value:
                    raise _changed(name, group[name], value)
            if [id(parameter) for parameter in group["params"]] != self._parameters[place]:
                raise mistakes.replaced(f"of group {place}")


def _changed(name: str, given: Any, served: Any) -> Exception:
    if name == "lr":
        return mistakes.rate_changed(float(given), float(served))
    return mistakes.setting_changed(name, given, served)


Closure = Callable[[], Any]


def loss_of(closure: Closure | None) -> Any:
    """What a closure given to ``step`` returns, its loss, computed with gradients; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
