"""Accumulation without a server: several steps of the script make one of the optimizer, as in a served session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from tardigrad.session.mirrored import Closure, MirroredOptimizer, loss_of


class AccumulatingOptimizer(MirroredOptimizer):
    """Steps the original with the mean of the gradients of ``accumulate`` steps.

    The first gradient is copied, the next ones are added, the sum is divided: the order in which a served session
    computes, so that both give the same bits.

    Args:
        original: the user's optimizer; state and groups are its own.
        accumulate: so many steps make one of the original, >= 2.

    Attributes:
        stepped: whether the last `step` was one of the original.
        after_last: called after the step at the end of the loader.
    """

    def __init__(self, original: Optimizer, accumulate: int) -> None:
        super().__init__(original)
        self.state, self.param_groups = original.state, original.param_groups
        self._accumulate, self._begun = accumulate, 0
        self._sums: dict[Tensor, Tensor] = {}
        self.stepped = False
        self.after_last: Callable[[], None] = lambda: None

    def step(self, closure: Closure | None = None) -> Any:
        """Add the gradients to those before; the last of so many steps the original with their mean."""
        loss = loss_of(closure)
        self._add()
        self._begun += 1
        self.stepped = self._begun == self._accumulate
        if self.stepped:
            self._step_original()
        return loss

    def drained(self) -> None:
        """The loader has ended: step with what was begun, divided by its own number."""
        if self._begun:
            self._step_original()
            self.after_last()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim."""
        if self._complete:
            self.original.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim."""
        self.original.load_state_dict(state_dict)
        self.state, self.param_groups = self.original.state, self.original.param_groups

    @torch.no_grad()
    def _add(self) -> None:
        for parameter in self._parameters():
            if parameter.grad is not None:
                if parameter in self._sums:
                    self._sums[parameter].add_(parameter.grad)
                else:
                    self._sums[parameter] = parameter.grad.clone()

    @torch.no_grad()
    def _step_original(self) -> None:
        """Step with the mean; the gradients are then as the script left them, as in a served session."""
        left = [(parameter, parameter.grad) for parameter in self._parameters()]
        for parameter, _ in left:
            total = self._sums.get(parameter)
            parameter.grad = None if total is None else total.div_(self._begun)
        self._sums, self._begun = {}, 0
        self.original.step()
        for parameter, gradient in left:
            parameter.grad = gradient

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])


class AccumulatingScheduler:
    """A scheduler by steps that steps where the optimizer did; everything else is the user's scheduler's own.

    Args:
        scheduler: the user's own.
        optimizer: whose steps it follows, the one at the end of the loader among them.
    """

    def __init__(self, scheduler: Any, optimizer: AccumulatingOptimizer) -> None:
        self._scheduler, self._optimizer = scheduler, optimizer
        optimizer.after_last = scheduler.step

    def step(self) -> None:
        """Step the user's scheduler, if the last step of the optimizer was one."""
        if self._optimizer.stepped:
            self._scheduler.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


class EndingLoader:
    """A loader that says when a loop over it has come to its end; everything else is the user's loader's own."""

    def __init__(self, loader: Any, ended: Callable[[], None]) -> None:
        self._loader, self._ended = loader, ended

    def __iter__(self) -> Iterator[Any]:
        yield from self._loader
        self._ended()

    def __len__(self) -> int:
        return len(cast(Sized, self._loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
