"""A rule's state on the server: the optimizer's tensors, the compensation's shared ones and those of each worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tardigrad.layout import FlatLayout
from tardigrad.optimizers.base import Optimizer, State
from tardigrad.rules.base import Compensation
from tardigrad.scopes import SHARED
from tardigrad.window import Window


class RuleState:
    """Flat tensors by name, zero at first; a worker's own are made at its first use.

    Attributes:
        optimizer: the optimizer's tensors.
        window: the last gradients, where the compensation wants them.
        missed: for each tensor of the layout, from how many commits it was absent.
    """

    def __init__(self, compensation: Compensation, optimizers: Sequence[Optimizer], layout: FlatLayout) -> None:
        self._layout = layout
        self._sharing = dict(compensation.state_spec())
        self._shared: State = {name: layout.zeros() for name, how in self._sharing.items() if how == SHARED}
        self._own: dict[int, State] = {}
        names = dict.fromkeys(name for optimizer in optimizers for name in optimizer.state_spec())
        self.optimizer: State = {name: layout.zeros() for name in names}
        plan = compensation.window_plan
        self.window = None if plan is None else Window(plan, layout)
        self.missed = [0] * len(layout.shapes)

    def of(self, worker: int) -> State:
        """The compensation's tensors for one worker: its own and the shared ones."""
        held = self._own.get(worker)
        if held is None:
            held = {name: self._layout.zeros() for name, how in self._sharing.items() if how != SHARED}
            held.update(self._shared)
            self._own[worker] = held
        return held

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state, shared compensation state, each worker's own, and what was missed, if anything; copied."""
        kept: dict[str, Any] = {
            "optimizer": {name: tensor.clone() for name, tensor in self.optimizer.items()},
            "shared": {name: tensor.clone() for name, tensor in self._shared.items()},
            "workers": {
                worker: {name: tensor.clone() for name, tensor in held.items() if name not in self._shared}
                for worker, held in self._own.items()
            },
        }
        if self.window is not None:
            kept["window"] = self.window.state_dict()
        if any(self.missed):
            kept["missed"] = torch.tensor(self.missed)
        return kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, tensor in self.optimizer.items():
            tensor.copy_(state["optimizer"][name])
        for name, tensor in self._shared.items():
            tensor.copy_(state["shared"][name])
        if self.window is not None:
            self.window.load_state_dict(state["window"])
        self.missed = state["missed"].tolist() if "missed" in state else [0] * len(self.missed)
        self._own.clear()
        for worker, held in state["workers"].items():
            own = self.of(int(worker))
            for name, tensor in held.items():
                own[name].copy_(tensor)

    def bytes_held(self) -> int:
        """Bytes of all tensors held now."""
        tensors = [*self.optimizer.values(), *self._shared.values()]
        tensors += [t for held in self._own.values() for name, t in held.items() if name not in self._shared]
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return held + (0 if self.window is None else self.window.bytes_held())
