"""Travelling: the parameters that are trained, at their places: read where the server writes, written where it reads.

On the CPU a parameter is a view of what the server hands down. On a GPU it is a view of one buffer there, into which
that is copied; and gradients are gathered in one buffer before they go up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tardigrad.arithmetic import rounded_for
from tardigrad.buffers import copy_into, persistent_buffers
from tardigrad.layout import FlatLayout
from tardigrad.session import mistakes
from tardigrad.session.link import Welcome
from tardigrad.session.names import plain_name


class Travelling:
    """The parameters of a model that the server steps.

    Args:
        model: whose parameters and buffers they are.
        named: (name, parameter) in the order of the groups; all of one dtype on one device.
        frozen: parameters of the optimizer that are not trained, by name.

    Attributes:
        parameters: that travel, in the layout's order.
        layout: of the flat buffers, on the CPU.
        buffers: the model's persistent buffers by their plain names, its own tensors.
    """

    def __init__(
        self, model: nn.Module, named: Sequence[tuple[str, nn.Parameter]], frozen: Mapping[str, nn.Parameter]
    ) -> None:
        self.parameters = tuple(parameter for _, parameter in named)
        own = FlatLayout.of([parameter.detach() for parameter in self.parameters], [name for name, _ in named])
        self.layout = dataclasses.replace(own, device=torch.device("cpu"))
        self.buffers = {plain_name(name): buffer for name, buffer in persistent_buffers(model).items()}
        self._model, self._device, self._frozen = model, own.device, dict(frozen)
        self._known = {id(parameter) for parameter in model.parameters()}
        self._absent: frozenset[int] = frozenset()

    def attach(self, welcome: Welcome, *, travels_as: str = "float32") -> None:
        """Make every parameter a view of its place; its value and the buffers' are then the server's.

        Args:
            welcome: where the places are.
            travels_as: what gradients are handed up as; see `tardigrad.arithmetic.rounded_for`.
        """
        self._travels_as = travels_as
        self._down, self._up, self._returned = welcome.weights, welcome.gradient, welcome.returned
        self._weights, self._gradient = self._down, self._up
        if _apart(self._device):
            self._weights = torch.zeros(self.layout.size, dtype=self.layout.dtype, device=self._device)
            self._gradient = torch.zeros_like(self._weights)
        for parameter, view in zip(self.parameters, self.layout.views(self._weights), strict=True):
            parameter.data = view
        self._gradients = self.layout.views(self._gradient)
        self._places = [parameter.data_ptr() for parameter in self.parameters]
        copy_into(self.buffers, welcome.buffers)
        self.received()

    def received(self) -> None:
        """*Down* holds new weights: show them, and tell autograd that what it kept of the old ones is stale."""
        if self._weights is not self._down:
            self._weights.copy_(self._down)
        torch.autograd.graph.increment_version(self.parameters)
        self._versions = [parameter._version for parameter in self.parameters]

    @torch.no_grad()
    def gather(self, *, add: bool) -> frozenset[int]:
        """Write the gradients to their places, or add them to what is there; return which parameters have none.

        Raises:
            SessionError: a gradient is sparse, or belongs to a parameter that the server does not know.
        """
        gradients = [parameter.grad for parameter in self.parameters]
        present = [number for number, gradient in enumerate(gradients) if gradient is not None]
        absent = frozenset(range(len(gradients))) - frozenset(present)
        self._require_known(absent)
        places, values = (
            [self._gradients[n] for n in present],
            [_dense(self.layout.names[n], gradients[n]) for n in present],
        )
        if add:
            torch._foreach_add_(places, values)
        else:
            torch._foreach_copy_(places, values)
            if absent:
                torch._foreach_zero_([self._gradients[number] for number in absent])
        return absent

    def hand_up(self, *, divided_by: int) -> float:
        """Leave gradient and model buffers in *up*; return the gradient's L2 norm.

        Args:
            divided_by: how many gradients were added, >= 1.
        """
        if divided_by > 1:
            self._gradient.div_(divided_by)
        norm = torch.linalg.vector_norm(rounded_for(self._travels_as, self._gradient))
        if self._gradient is not self._up:
            self._up.copy_(self._gradient)
        copy_into(self._returned, self.buffers)
        return float(norm)

    def has_finite_gradient(self) -> bool:
        """Whether there are gradients, and every number in them is finite."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return bool(gradients) and bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))

    def require_untouched(self) -> None:
        """Refuse parameters that the script has moved, written or unfrozen.

        Raises:
            SessionError: one was.
        """
        for number, parameter in enumerate(self.parameters):
            if parameter.data_ptr() != self._places[number] or tuple(parameter.shape) != self.layout.shapes[number]:
                raise mistakes.moved(self.layout.names[number])
            if parameter._version != self._versions[number]:
                raise mistakes.written(self.layout.names[number])
        for name, parameter in self._frozen.items():
            if parameter.requires_grad:
                raise mistakes.unfrozen(name)

    def _require_known(self, absent: frozenset[int]) -> None:
        """A parameter that was replaced has no gradient any more: then one looks for what stands in its place."""
        if absent == self._absent:
            return
        self._absent = absent
        for name, parameter in self._model.named_parameters():
            if id(parameter) not in self._known:
                raise mistakes.replaced(name)


def _apart(device: torch.device) -> bool:
    """Whether a model there needs buffers of its own, since it cannot compute in the server's."""
    return device.type != "cpu"


def _dense(name: str, gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    if gradient.layout is not torch.strided:
        raise mistakes.gradients_are_sparse(name)
    return gradient
