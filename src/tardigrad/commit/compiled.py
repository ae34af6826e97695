"""The compiled path: a rule of scope ``element`` through torch.compile, one pass over the memory.

On a CPU a commit is one C++ loop, on CUDA one Triton kernel, made of the rule's own page. What a rule needs of the
whole vector is one more pass that only reads. Several contributions are summed up block by block, in a small buffer.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import ClassVar

import torch
from torch import Tensor

from tardigrad.arithmetic import threads as using
from tardigrad.commit.base import CommitPath, Part, not_elementwise
from tardigrad.commit.groups import ParameterGroup, Stretch, present
from tardigrad.commit.kernels import given, kernels_of, tracing
from tardigrad.errors import CompileError
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule

_SAMPLE = 1 << 20  # elements of the buffers that functions are compiled with; what comes out takes any length
_WAYS = ((0, 0), (0, 5), (1, 6), (5, 7))  # staleness and step: what rules branch on
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 24}  # elements of the sum of several contributions that are made at once


class CompiledPath(CommitPath):
    """The compiled path; see the base class for its arguments.

    Raises:
        CompileError: the rule or its optimizer is not elementwise.
    """

    name: ClassVar[str] = "compiled"

    def __init__(
        self, rule: Rule, layout: FlatLayout, *, threads: int = 1, groups: Sequence[ParameterGroup] = ()
    ) -> None:
        super().__init__(rule, layout, threads=threads, groups=groups)
        refused = not_elementwise(rule)
        if refused:
            raise CompileError(f"{refused} Use commit_path='exact'.")
        self._kernels = [kernels_of(rule.compensation, each.optimizer) for each in self.stretches]
        self._block = min(layout.size, _BLOCK[layout.device.type])
        self._total: Tensor | None = None
        self._several = False

    @property
    def made_by(self) -> str:
        """The compiler and its version."""
        return compiled_by(self.layout.device)

    def prepare(self, *, mirrored: bool = False, several: bool = False, measure: bool = False) -> None:
        """Compile every function for every way through the rule's page; see the base class."""
        self._several = several
        try:
            _rehearse(self, mirrored=mirrored, several=several, measure=measure)
        except Exception as error:  # a rule that cannot be traced, no compiler, no headers: torch has a class for each
            raise CompileError(
                f"{self.rule.name} could not be compiled: {type(error).__name__}: {_first_line(error)} Is a C++ "
                "compiler installed (g++, or name it in CXX)? Else use commit_path='exact'."
            ) from error

    def _applied(
        self,
        weights: Tensor,
        parts: Sequence[Part],
        marks: tuple[int, ...],
        *,
        measure: bool,
        mirrors: Sequence[Tensor],
    ) -> float | None:
        """See the base class."""
        cut = present(self.layout, self.stretches, marks) if marks else self.stretches
        with tracing(), using(self.threads):
            parts = [self._measured(weights, part, cut) for part in parts]
            ratio = self._ratio(weights, parts, cut) if measure else None
            for stretch in cut:
                if len(parts) == 1 and not self._several:
                    self._at_once(stretch, weights, parts[0], mirrors)
                else:
                    self._in_blocks(stretch, weights, parts, mirrors)
        return ratio

    def _at_once(self, stretch: Stretch, weights: Tensor, part: Part, mirrors: Sequence[Tensor]) -> None:
        cut = slice(stretch.start, stretch.stop)
        own = _cut(self.state.of(part.worker), cut)
        exchange = bool(mirrors) and mirrors[0] is part.backup and self.rule.compensation.reads_backup
        self._kernels[stretch.number].commit(
            weights[cut],
            part.gradient[cut],
            self._backup(part, cut),
            mirrors[0][cut] if mirrors and not exchange else None,
            own,
            _cut(self.state.optimizer, cut),
            *given(stretch.told(part.facts), part.weight, place=cut.start),
            exchange,
        )

    def _in_blocks(self, stretch: Stretch, weights: Tensor, parts: Sequence[Part], mirrors: Sequence[Tensor]) -> None:
        if self._total is None:
            self._total = weights.new_empty(self._block)
        kernels, facts = self._kernels[stretch.number], [stretch.told(part.facts) for part in parts]
        for start in range(stretch.start, stretch.stop, self._block):
            cut = slice(start, min(start + self._block, stretch.stop))
            w, total = weights[cut], self._total[: cut.stop - start]
            for number, part in enumerate(parts):
                own, told = _cut(self.state.of(part.worker), cut), given(facts[number], part.weight, place=start)
                kernels.gather(total, w, part.gradient[cut], self._backup(part, cut), own, *told, number == 0)
            told = given(facts[-1], 1.0, place=start)
            kernels.step(w, total, _cut(self.state.optimizer, cut), *told)
            for mirror in mirrors:
                mirror[cut].copy_(w)

    def _measured(self, weights: Tensor, part: Part, cut: Sequence[Stretch]) -> Part:
        """The contribution with the numbers over the whole vector that the compensation asks for."""
        for number in range(self.rule.compensation.read_passes):
            part = replace(part, facts=replace(part.facts, read_pass=number))
            part = self.concluded(part, map(partial(self._sums, weights, part), cut))
        return part

    def _sums(self, weights: Tensor, part: Part, stretch: Stretch) -> Mapping[str, Tensor]:
        sums: Mapping[str, Tensor] = self._kernels[stretch.number].measure(*self._read(weights, part, stretch))
        return sums

    def _ratio(self, weights: Tensor, parts: Sequence[Part], cut: Sequence[Stretch]) -> float:
        """||compensation|| / ||gradient||: a pass that only reads."""
        squares = [0.0, 0.0]
        for part in parts:
            for stretch in cut:
                found = self._kernels[stretch.number].squares(*self._read(weights, part, stretch))
                squares = [total + float(square) for total, square in zip(squares, found, strict=True)]
        return math.sqrt(squares[0] / squares[1]) if squares[1] > 0.0 else 0.0

    def _read(self, weights: Tensor, part: Part, stretch: Stretch) -> tuple[object, ...]:
        """The arguments of a function that only reads."""
        cut = slice(stretch.start, stretch.stop)
        own = _cut(self.state.of(part.worker), cut)
        return (
            weights[cut],
            part.gradient[cut],
            self._backup(part, cut),
            own,
            *given(stretch.told(part.facts), part.weight, place=cut.start),
        )

    def _backup(self, part: Part, cut: slice) -> Tensor | None:
        return part.backup[cut] if self.rule.compensation.reads_backup else None


def _rehearse(path: CompiledPath, *, mirrored: bool, several: bool, measure: bool) -> None:
    """Commit made-up gradients, so that every function is compiled before it is needed.

    The buffers have one length whatever the model's: what is compiled is the same then, and is found on the disk when
    the next model asks for it.
    """
    tensors = [torch.full((_SAMPLE,), 0.5, dtype=path.layout.dtype, device=path.layout.device)] * len(path.stretches)
    layout = FlatLayout.of(tensors)
    groups = [ParameterGroup(1, each.lr_factor, each.optimizer) for each in path.stretches]
    stage = CompiledPath(path.rule, layout, threads=path.threads, groups=groups)
    weights, gradient, backup = (layout.pack(tensors) for _ in range(3))
    for staleness, step in _WAYS:
        facts = Facts(staleness, 0.1, step, 11, step, 13)
        parts = [Part(worker, gradient, backup, facts, 0.5) for worker in range(2 if several else 1)]
        stage.apply(weights, parts, measure=measure, mirrors=[backup] if mirrored else [])


def compiled_by(device: torch.device) -> str:
    """What makes the loops of a device: the first line a C++ compiler says of itself, or Triton's version."""
    if device.type == "cuda":
        return f"triton {metadata.version('triton')}"
    told = subprocess.run([compiler() or "c++", "--version"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0].strip() if told else ""


def compiler() -> str | None:
    """The C++ compiler that torch would use, or None."""
    from torch._inductor import cpp_builder, exc  # takes seconds to import

    try:
        return str(cpp_builder.get_cpp_compiler())
    except (exc.InvalidCxxCompiler, OSError):
        return None


def _cut(state: dict[str, Tensor], cut: slice) -> dict[str, Tensor]:
    return {name: tensor[cut] for name, tensor in state.items()}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else ""
