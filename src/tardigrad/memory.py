"""Memory: what a run needs at most, by part, from the model's size, the rule, the workers and the engine.

Every part is a number of copies of the model's weights, or of slots. What is not counted, because it is not the
algorithm's: activations of a batch, the data set, PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tardigrad.consistency import Consistency, Synchronous
from tardigrad.layout import FlatLayout
from tardigrad.rules.base import Rule
from tardigrad.scopes import SHARED
from tardigrad.transports.slots import SlotLayout

_BLOCK = 2**20  # elements of all blocks that a commit path has alive at once where a rule is elementwise, at most
_TEMPORARIES = 8  # tensors, or models, that are alive at once in a commit of a rule of wider scope, at most
_WAITING = 2, 64 * 2**20  # copies of weights that may wait to be evaluated: so many, or so many bytes of small models


@dataclass(frozen=True, slots=True)
class Part:
    """One row: bytes at most, and what they are."""

    name: str
    bytes: int
    words: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a run needs at most.

    Attributes:
        copy: bytes of one copy of the weights.
        server: what the algorithm needs on the server; the slots of real workers are memory that both share.
        beside: what else is held where the server lives, and by the process that evaluates.
        worker: of one worker's own process; empty where all workers live in the server's.
    """

    copy: int
    server: tuple[Part, ...]
    beside: tuple[Part, ...]
    worker: tuple[Part, ...] = ()

    def of(self, name: str) -> int:
        """Bytes of the part of this name; 0 where there is none."""
        return sum(part.bytes for part in (*self.server, *self.beside, *self.worker) if part.name == name)


def total(parts: tuple[Part, ...]) -> int:
    """Bytes of these parts together."""
    return sum(part.bytes for part in parts)


def simulated_memory(
    rule: Rule, layout: FlatLayout, *, workers: int, consistency: Consistency, judged: Sequence[Rule] | None = None
) -> Memory:
    """Of workers that share the server's process, as in the simulator and a replay; ``judged``: see `local_memory`."""
    copy, pushes = _copy(layout), pushes_of_a_round(consistency, workers)
    copies = copies_of_versions(consistency, workers)
    held = (pushes - 1) * copy if consistency.barrier else 0  # the last of a round is committed as it comes
    backups = "one for each version that is being computed on" + (
        "" if rule.compensation.reads_backup else "; the rule reads none"
    )
    server = (
        Part("weights", copy),
        Part("backups", copies * copy, f"{_copies(copies)}: {backups}"),
        _state(rule, workers, copy),
        *_window(rule, workers, layout),
        *_probes(judged, workers, layout),
        Part("held gradients", held, f"{_copies(held // copy)}: of a round that is not complete" if held else ""),
        _scratch(rule, workers, layout),
    )
    saved = total(server[:-1])  # all but the scratch
    beside = (
        Part("gradients", 3 * copy, "3 copies: model, gradient, what autograd returns; all workers share them"),
        Part("evaluation", copy, "1 copy: a model of its own"),
        Part("checkpoint", saved, "a copy of what the server holds, while it is written; only where a run is stopped"),
    )
    return Memory(copy, server, beside)


def local_memory(
    rule: Rule,
    layout: FlatLayout,
    *,
    workers: int,
    consistency: Consistency,
    buffers: Mapping[str, Tensor],
    on_cuda: bool = False,
    judged: Sequence[Rule] | None = None,
) -> Memory:
    """Of workers with a process each, which reach the server by slots in shared memory.

    Args:
        rule, layout, workers, consistency, buffers: of the run.
        on_cuda: its workers use GPUs.
        judged: rules that probes judge beside the run's own; None: there are no probes.
    """
    copy, slot = _copy(layout), SlotLayout.of(layout, buffers).size
    kept = (_state(rule, workers, copy), *_window(rule, workers, layout), *_probes(judged, workers, layout))
    server = (
        Part("weights", copy),
        Part("down slots", workers * slot, f"one a worker: what it computes on{_and_backup(rule)}"),
        Part("up slots", workers * slot, "one a worker: its gradient"),
        *kept,
        Part("held gradients", 0, "they wait in the up slots" if consistency.barrier else ""),
        _scratch(rule, workers, layout),
    )
    waiting = pushes_of_a_round(consistency, workers) - 1 if consistency.barrier else 0
    saved = (1 + workers + waiting) * copy + total(kept)
    waits = 1 + max(_WAITING[0], _WAITING[1] // slot)
    beside = (
        Part("first model", copy, "1 copy: made for the weights of the start"),
        Part("evaluation", (waits + 1) * copy + slot, f"at most {waits} copies that wait, a slot, a model"),
        Part("checkpoint", saved, "a copy of weights, backups, state and window, while it is written"),
    )
    worker = Part("gradients", copy, "1 copy: what autograd returns; weights and gradient are the slots above")
    if on_cuda:
        worker = Part("on its GPU", 3 * copy, "3 copies: weights, gradient, what autograd returns")
    return Memory(copy, server, beside, (worker,))


def copies_of_versions(consistency: Consistency, workers: int) -> int:
    """Versions that can be read at one time, each kept once.

    A synchronous round of m pushes is of one version; beside it there may be the next, which the first to be released
    have read, and one for each of the others, which were late.
    """
    if not consistency.barrier:
        return workers
    return min(workers, workers - pushes_of_a_round(consistency, workers) + 2)


def pushes_of_a_round(consistency: Consistency, workers: int) -> int:
    """How many pushes make a commit."""
    if isinstance(consistency, Synchronous):
        return min(workers, consistency.wait_for or workers)
    return workers if consistency.barrier else 1


def _copy(layout: FlatLayout) -> int:
    return layout.size * layout.dtype.itemsize


def _copies(number: int) -> str:
    return f"{number} {'copy' if number == 1 else 'copies'}"


def _state(rule: Rule, workers: int, copy: int, *, steps: bool = True) -> Part:
    """Tensors of compensation and, where it ``steps``, optimizer; a worker's own is made at its first push."""
    sharing = rule.compensation.state_spec()
    common = [
        *(rule.optimizer.state_spec() if steps else ()),
        *(name for name, how in sharing.items() if how == SHARED),
    ]
    own = [name for name, how in sharing.items() if how != SHARED]
    words = [f"{name} of each worker" for name in own] + [f"{name} of all" for name in common]
    number = len(common) + workers * len(own)
    return Part("rule state", number * copy, f"{_copies(number)}: {', '.join(words)}" if number else "")


def _window(rule: Rule, workers: int, layout: FlatLayout) -> tuple[Part, ...]:
    """The last gradients and their inner products, where the rule wants them."""
    plan = rule.compensation.window_plan
    if plan is None:
        return ()
    dtype = str(plan.dtype_for(layout.dtype)).removeprefix("torch.")
    words = f"the last {plan.rows_for(workers)} gradients as {dtype}, and their inner products"
    return (Part("window", plan.bytes_for(workers, layout), words),)


def _probes(judged: Sequence[Rule] | None, workers: int, layout: FlatLayout) -> tuple[Part, ...]:
    """What rules that are judged keep, and the second gradient with its like in the model."""
    if judged is None:
        return ()
    copy = _copy(layout)
    kept = sum(
        _state(rule, workers, copy, steps=False).bytes + total(_window(rule, workers, layout)) for rule in judged
    )
    return (Part("probes", kept + 2 * copy, "2 copies for the second gradient, and what the rules judged beside keep"),)


def _scratch(rule: Rule, workers: int, layout: FlatLayout) -> Part:
    """Temporaries of a commit: blocks where the rule is elementwise, else tensors or models; on CUDA models."""
    scopes, size = {rule.compensation.scope, rule.optimizer.scope}, layout.dtype.itemsize
    if "model" in scopes or layout.device.type == "cuda":
        plan, models = rule.compensation.window_plan, _TEMPORARIES * layout.size * size
        words = f"at most {_TEMPORARIES} models during a commit"
        if plan is None:
            return Part("scratch", models, words)
        return Part("scratch", models + plan.scratch_for(workers, layout), f"{words}, and what the window takes")
    if "tensor" in scopes:
        ends = (*layout.offsets[1:], layout.size)
        largest = max(end - start for start, end in zip(layout.offsets, ends, strict=True))
        words = f"at most {_TEMPORARIES} of the largest tensor during a commit"
        return Part("scratch", _TEMPORARIES * largest * size, words)
    return Part("scratch", min(layout.size, _BLOCK) * size, "at most this in blocks during a commit")


def _and_backup(rule: Rule) -> str:
    return ", and its backup" if rule.compensation.reads_backup else ""
