"""What surrounds an evaluation in the middle of training, so that training does not notice it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tardigrad.buffers import copy_into
from tardigrad.session import mistakes
from tardigrad.session.session import Scores, numbers_of


def scores_of(function: Callable[[nn.Module], Any], model: nn.Module) -> Scores:
    """What the function says of the model in evaluation mode, without gradients.

    Raises:
        SessionError: it returns neither a number nor numbers by name.
    """
    with _evaluating(model):
        result = function(model)
    if isinstance(result, Mapping):
        return numbers_of(result)
    if result is None or isinstance(result, str | list | tuple):
        raise mistakes.not_scores(result)
    return numbers_of({"score": result})


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def lent(buffers: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Write values into a model's buffers, and put the old ones back."""
    kept = {name: tensor.clone() for name, tensor in buffers.items()}
    copy_into(buffers, values)
    try:
        yield
    finally:
        copy_into(buffers, kept)
