"""Finding: what a replay found, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from tardigrad.engines.base import Evaluation
from tardigrad.engines.parting import Difference, Parting
from tardigrad.server import ParameterServer

_WEIGHTS = "weights.safetensors"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A parameter or buffer that is another one; ``largest``: difference of two elements, None where not known."""

    name: str
    largest: float | None = None

    def __str__(self) -> str:
        """For a reader."""
        return self.name if self.largest is None else f"{self.name} by up to {self.largest:.3g}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found.

    Attributes:
        run: the directory that was replayed.
        equal: whether all that was compared is equal bit for bit; None under another rule, where nothing is compared.
        version: at which the replay ended.
        commits, pushes, digests: how many were compared; of a push its loss and its gradient's norm.
        compared_end: whether the run's final weights and buffers were compared too.
        interval: the weights were last found equal, by their digests, at the first of these two versions (-1: at
            none), and first found different at the second. None where they were not found different.
        agrees_until: the last version before that on which a push agrees in loss and norm; so they most likely part
            after it. -1: none.
        equal_again: a version after `interval` whose weights are equal: then the log was altered, not the weights.
        computed_otherwise: the first version whose weights are equal, and on which other gradients are computed here.
        differences: the first of each kind.
        tensors: parameters and buffers that are different: at the end, else at the first digest that is.
        cautions: why last bits may differ here.
        diverged: why the replay ended before the log did; empty where it did not.
        seconds: that it took.
        directory: where it is recorded; None if it is not.
        evaluations: that were recorded there.
    """

    run: Path
    equal: bool | None
    version: int
    commits: int
    pushes: int
    digests: int
    compared_end: bool
    interval: tuple[int, int] | None
    agrees_until: int
    equal_again: int | None
    computed_otherwise: int | None
    differences: tuple[Difference, ...]
    tensors: tuple[TensorDifference, ...]
    cautions: tuple[str, ...]
    diverged: str
    seconds: float
    directory: Path | None
    evaluations: tuple[Evaluation, ...]
    _server: ParameterServer = field(repr=False)

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or some."""
        return " ".join([self.headline, *self.details])

    @property
    def headline(self) -> str:
        """The first sentence of the verdict."""
        counted = f"{self.commits} commits"
        if self.equal is None:
            return f"the same schedule under {self._server.rule.spec}: {counted}"
        if self.equal:
            return f"bitwise equal: {counted}, {self.digests} digests{', final weights' if self.compared_end else ''}"
        return f"NOT equal: {self._where()}"

    @property
    def details(self) -> list[str]:
        """Its other sentences."""
        return [*self._evidence(), *(() if self.equal else self.cautions)]

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of weights and buffers at the end by name; ``model.load_state_dict(..., strict=False)`` takes it."""
        return named(self._server)

    def _where(self) -> str:
        """From which version on the weights are others."""
        if self.interval is None:
            if {difference.kind for difference in self.differences} == {"weights"}:
                return "the final weights are others, though all that the log says is equal: that file was altered."
            return "the weights are equal as far as they were compared, but the log says something else."
        low, high = self.interval
        if self.equal_again is not None:
            return (
                f"what the log says of version {high} is something else, but the weights of version "
                f"{self.equal_again} are equal again: it is the log that was altered."
            )
        if low < 0:
            return f"the weights part at version {high} or before; none was found equal."
        if low + 1 == high:
            return f"the weights part at version {high}; those of version {low} are equal."
        agrees = f" Every push that read a version up to {self.agrees_until} agrees." if self.agrees_until > low else ""
        return f"the weights part after version {low}, where they are equal, and by {high}, where they are not.{agrees}"

    def _evidence(self) -> list[str]:
        told = [f"{difference}." for difference in self.differences if difference.kind != "weights"][:_SHOWN]
        if self.tensors:
            left = len(self.tensors) - _SHOWN
            more = f" and {left} more" if left > 0 else ""
            told.append(f"Different: {', '.join(map(str, self.tensors[:_SHOWN]))}{more}.")
        if self.computed_otherwise is not None and self.equal_again is None and self.interval is not None:
            told.append(
                f"On the weights of version {self.computed_otherwise}, which are equal, another gradient is computed "
                "here: data, code or arithmetic are not those of the run."
            )
        return [*told, f"It ended there: {self.diverged}"] if self.diverged else told


def named(server: ParameterServer) -> dict[str, Tensor]:
    """A copy of weights and buffers by name, on the CPU."""
    weights = dict(zip(server.layout.names, server.weights(), strict=True))
    both = weights | server.buffers.combined(server.live)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in both.items()}


def compare_end(
    place: Path, summary: Mapping[str, Any] | None, server: ParameterServer, parting: Parting
) -> list[TensorDifference] | None:
    """Compare with what a run left in its directory when it ended; None where it has not, or left no weights."""
    if summary is None:
        return None
    reached = parting.check("end", summary["commits"], server.version, version=server.version)
    file = place / _WEIGHTS
    return compare_weights(file, server, parting) if reached and file.is_file() else None


def compare_weights(file: Path, server: ParameterServer, parting: Parting) -> list[TensorDifference]:
    """Compare a run's final weights and buffers, bit for bit, and note it where they are others."""
    try:
        theirs = safetensors.torch.load_file(file)
    except SafetensorError as error:
        parting.check("weights", f"a file that cannot be read ({error})", "weights", version=server.version)
        return []
    different = differing(theirs, named(server))
    if different:
        parting.check("weights", file.name, "others", version=server.version)
        weights = {tensor.name for tensor in different} & set(server.layout.names)
        if weights and parting.digested_at != server.version:
            parting.found_different(server.version)
    else:
        parting.found_equal(server.version)
    return different


def differing(theirs: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> list[TensorDifference]:
    """The tensors that are not equal bit for bit, or that one side lacks."""
    found = []
    for name in dict.fromkeys((*mine, *theirs)):
        one, other = mine.get(name), theirs.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            found.append(TensorDifference(name))
        elif one.numpy().tobytes() != other.contiguous().numpy().tobytes():
            largest = float((one.double() - other.double()).abs().max())
            found.append(TensorDifference(name, largest if math.isfinite(largest) else None))
    return found
