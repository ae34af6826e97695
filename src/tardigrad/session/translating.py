"""The user's torch.optim object in the server's words: which parameters travel, and how each group is stepped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from tardigrad.errors import InvalidArgument, SessionError
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.session.link import Group
from tardigrad.specs import format_spec

_WRAPPED = "_orig_mod."  # in the names of a model that torch.compile has wrapped
_PARALLEL = "module."  # before the names of one in DistributedDataParallel

# How a server steps is fixed: what these would change is not its to do. True or a tensor is refused.
_REFUSED = {
    "maximize": "negate the loss instead",
    "differentiable": "the server's step is no part of a graph; leave it out",
    "capturable": "the server steps outside any CUDA graph of yours; leave it out",
}


def translate(
    optimizer: torch.optim.Optimizer, named: Mapping[int, str]
) -> tuple[list[tuple[str, Parameter]], tuple[Group, ...]]:
    """What travels, in the order of the groups, and how the server is to step it.

    Args:
        optimizer: a `torch.optim.SGD`, `Adam` or `AdamW` that has made no step.
        named: id of a parameter -> its name in the model. One without a name is called as
            the optimizer calls it, or ``group0.3``, by its place.

    Returns:
        Name and parameter of every trainable one, each name once, and a group for each of `stepped_groups`. The words
        that torch.compile and DistributedDataParallel put into names are left out.

    Raises:
        SessionError: for an optimizer whose arithmetic the server does not have, and for settings that it cannot keep.
    """
    spec_of = _kind(optimizer)
    if optimizer.state:
        raise SessionError(
            "the optimizer has made steps, or was given a state, and the server would not have it. Prepare an "
            "optimizer that is new; a run is taken up by tardigrad's own checkpoints."
        )
    taken: dict[str, Parameter] = {}
    known: set[int] = set()
    groups = []
    for number, group in stepped_groups(optimizer):
        places = [at for at, each in enumerate(group["params"]) if each.requires_grad]
        own = group.get("param_names") or [f"group{number}.{at}" for at in range(len(group["params"]))]
        for at in places:
            parameter = group["params"][at]
            _require_new(parameter, known, number)
            taken[_free_name(named.get(id(parameter), own[at]), taken)] = parameter
        groups.append(Group(len(places), _spec(spec_of, group, number), _rate(group, number)))
    if not groups:
        raise SessionError(
            "the optimizer has no trainable parameter: every one in its groups has requires_grad=False. Give it the "
            "parameters that are to be trained."
        )
    return list(taken.items()), tuple(groups)


def stepped_groups(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and settings of each group that has a trainable parameter: those the server has, in its order."""
    for number, group in enumerate(optimizer.param_groups):
        if any(parameter.requires_grad for parameter in group["params"]):
            yield number, group


def _sgd(group: Mapping[str, Any]) -> str:
    """torch.optim.SGD's group as a spec."""
    names = ("momentum", "nesterov", "dampening", "weight_decay")
    return format_spec("sgd", {name: group[name] for name in names})


def _adam(group: Mapping[str, Any]) -> str:
    """torch.optim.Adam's or AdamW's group as a spec; Adam may be told to decouple its decay."""
    beta1, beta2 = group["betas"]
    rest = {name: group[name] for name in ("eps", "weight_decay", "amsgrad")}
    name = "adamw" if group.get("decoupled_weight_decay") else "adam"
    return format_spec(name, {"beta1": beta1, "beta2": beta2, **rest})


_KINDS: dict[type, Callable[[Mapping[str, Any]], str]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
}


def _kind(optimizer: torch.optim.Optimizer) -> Callable[[Mapping[str, Any]], str]:
    """How the groups of this optimizer are written; of its own class only: a subclass may compute anything."""
    kind = type(optimizer)
    if kind not in _KINDS:
        known = ", ".join(f"torch.optim.{each.__name__}" for each in _KINDS)
        raise SessionError(
            f"the optimizer is a {kind.__module__}.{kind.__qualname__}; the server steps as {known} do, and as no "
            "other class, theirs derived included. Use one of them; your own arithmetic becomes a registered optimizer."
        )
    return _KINDS[kind]


def _spec(spec_of: Callable[[Mapping[str, Any]], str], group: Mapping[str, Any], number: int) -> str:
    """The group's spec, once it is known that the server can keep it."""
    for name, instead in _REFUSED.items():
        if group.get(name):
            raise SessionError(
                f"group {number} of the optimizer has {name}=True, which the server cannot do: {instead}."
            )
    _require_plain(group, number)
    spec = spec_of(group)
    try:
        OPTIMIZERS.build(spec)
    except InvalidArgument as error:
        raise SessionError(f"group {number} of the optimizer cannot be stepped by the server: {error}") from None
    return spec


def _require_plain(group: Mapping[str, Any], number: int) -> None:
    """No setting is a tensor: it would change under the server's hands, or not, and nobody could tell."""
    for name, value in group.items():
        values = value if isinstance(value, tuple) else (value,)
        if name != "params" and any(isinstance(each, Tensor) for each in values):
            raise SessionError(
                f"group {number} of the optimizer has a tensor for {name}; give a number. The server owns it, and "
                "session.prepare(model, optimizer, loader, scheduler) changes a learning rate in time."
            )


def _rate(group: Mapping[str, Any], number: int) -> float:
    rate = float(group["lr"])
    if not 0.0 <= rate < float("inf"):
        raise SessionError(f"group {number} of the optimizer has lr={rate}; a learning rate is a number in [0, inf).")
    return rate


def _require_new(parameter: Parameter, known: set[int], number: int) -> None:
    """Note a parameter; torch only warns of one that it would step twice."""
    if id(parameter) in known:
        raise SessionError(
            f"group {number} of the optimizer has a parameter of shape {tuple(parameter.shape)} a second time; give "
            "each once."
        )
    known.add(id(parameter))


def _free_name(name: str, taken: Mapping[str, Parameter]) -> str:
    """The name as the user's own model has it; as it was given, or with a number, where that is taken."""
    plain = name.replace(_WRAPPED, "")
    while plain.startswith(_PARALLEL) and plain != _PARALLEL:
        plain = plain.removeprefix(_PARALLEL)
    numbered = (f"{name}.{number}" for number in count(2))
    return next(each for each in chain((plain, name), numbered) if each not in taken)
