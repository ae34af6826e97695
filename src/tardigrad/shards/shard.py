"""A shard: one range of the flat buffer, its backups and the rule's state there, and nothing else.

It decides nothing. What is committed, read or forgotten, and in which order, it is told by the first shard's server; a
commit that it is told in another order than it expects it refuses. So all shards are at one version, or the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tardigrad.backups import Backups
from tardigrad.commit.base import Part
from tardigrad.commit.choice import ChosenPath
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import ProtocolError
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.optimizers.base import Optimizer
from tardigrad.records import Facts
from tardigrad.rules.base import Rule, make_rule
from tardigrad.shards.ranges import Range


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What a shard is made of.

    Attributes:
        range: that it holds.
        rule: of the run; elementwise.
        groups: as they are in this range.
        path: ``exact`` or ``compiled``.
        threads: that one commit may use.
    """

    range: Range
    rule: Rule
    groups: tuple[ParameterGroup, ...]
    path: str
    threads: int

    def as_json(self) -> dict[str, Any]:
        """Plain data; rule and optimizers by the words that lead to them."""
        return {
            "range": self.range.as_json(),
            "rule": self.rule.spec,
            "optimizer": self.rule.optimizer_spec,
            "groups": [[each.tensors, each.lr_factor, _spec_of(each.optimizer, self.rule)] for each in self.groups],
            "path": self.path,
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ShardPlan:
        """The inverse of `as_json`.

        Raises:
            UnknownName: a rule or an optimizer that no name leads to here.
        """
        groups = [
            ParameterGroup(tensors, lr_factor, None if spec is None else OPTIMIZERS.build(spec))
            for tensors, lr_factor, spec in plain["groups"]
        ]
        rule = make_rule(plain["rule"], optimizer=plain["optimizer"])
        return cls(Range.from_json(plain["range"]), rule, tuple(groups), plain["path"], plain["threads"])


class Shard:
    """One range of the weights.

    Args:
        plan: what it is made of.
        weights: of the range, shape (size,); copied.

    Attributes:
        version: commits applied.
        backups, commits: as a server's, over this range.
    """

    def __init__(self, plan: ShardPlan, weights: Tensor) -> None:
        self.plan, self.version = plan, 0
        self._flat = plan.range.layout.zeros().copy_(weights)
        self.commits = self._on(plan.path)
        self.backups = Backups(compared=self.commits.reads_backup)
        self._gradients: dict[int, Tensor] = {}  # where the gradients of a worker come to lie
        self._words: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "prepare": self._prepare,
            "begin": self._begin,
            "hand out": self._hand_out,
            "drop": self._drop,
            "apply": self._apply,
            "weights": lambda content: self._flat,
            "backup": lambda content: self.backups.of(content["worker"]),
            "gradient": lambda content: self._gradients[content["worker"]],
            "backups": lambda content: self.backups.state_dict(),
            "path": lambda content: self.commits.state_dict(),
            "load": self._load,
            "bytes": self._bytes,
        }

    def _on(self, path: str) -> ChosenPath:
        plan = self.plan
        return ChosenPath(
            path, plan.rule, plan.range.layout, threads=plan.threads, groups=plan.groups, leases=None
        )  # fmt: skip

    def handle(self, word: str, content: Mapping[str, Any]) -> Any:
        """Do what the first shard's server says, and answer: plain data and tensors, which may be this shard's own.

        Raises:
            ProtocolError: it cannot be the next thing to do.
        """
        if content.get("version", self.version) != self.version:
            raise ProtocolError(
                f"shard {self.plan.range.number} is at version {self.version}, not at {content['version']}."
            )
        return self._words[word](content)

    def keep_in(self, worker: int, down: Tensor, up: Tensor) -> None:
        """Keep this worker's backup in ``down`` until it is dropped; its gradients will come in ``up``."""
        self.backups.keep_in(worker, down)
        self._gradients[worker] = up

    def memory(self, worker: int) -> tuple[memoryview, memoryview]:
        """This range of what `keep_in` was given, as bytes."""
        down = self.backups.place_of(worker)
        if down is None:
            raise ProtocolError(f"shard {self.plan.range.number} keeps nothing of worker {worker}.")
        first, second = (each.numpy().data.cast("B") for each in (down, self._gradients[worker]))
        return first, second

    def _prepare(self, content: Mapping[str, Any]) -> dict[str, Any]:
        if content["path"] != self.commits.path.name:
            self.commits = self._on(content["path"])
        self.commits.prepare(
            mirrored=content["mirrored"], several=content["several"], measure=content["measure"]
        )  # fmt: skip
        return {"made_by": self.commits.path.made_by}

    def _begin(self, content: Mapping[str, Any]) -> None:
        self.backups.begin(content["worker"], self._flat)

    def _hand_out(self, content: Mapping[str, Any]) -> Tensor | None:
        flat = self.backups.hand_out(content["worker"], self.version, self._flat, copy=content["copy"])
        return flat if content["wanted"] else None

    def _drop(self, content: Mapping[str, Any]) -> None:
        self.backups.drop(content["worker"])
        self._gradients.pop(content["worker"], None)

    def _apply(self, content: Mapping[str, Any]) -> list[float] | None:
        """Apply one commit; with ``measure`` return the squares of the compensation's and the gradient's norm."""
        parts = [self._part(*part) for part in content["parts"]]
        placed = [part.worker for part in parts if self.backups.place_of(part.worker) is not None]
        mirrors = [self.backups.of(worker) for worker in placed]
        absent, measure = self.plan.range.local(content["absent"]), content["measure"]
        ratio, _ = self.commits.apply(self._flat, parts, measure=measure, mirrors=mirrors, absent=absent)
        self.version += 1
        for worker in placed:
            self.backups.wrote(worker, self.version)
        return None if ratio is None else _squares(ratio, parts)

    def _part(self, worker: int, facts: Sequence[Any], weight: float, gradient: Tensor | None) -> Part:
        staleness, lr, version, live, step, samples, rates = facts
        told = Facts(staleness, lr, version, live, step, samples, rates=tuple(rates))
        backup = self.backups.of(worker) if self.commits.reads_backup else self._flat
        return Part(worker, self._gradients[worker] if gradient is None else gradient, backup, told, weight)

    def _load(self, content: Mapping[str, Any]) -> None:
        self.version = content["to"]
        self._flat.copy_(content["weights"])
        self.backups.load_state_dict(content["backups"], like=self._flat)
        self.commits.load_state_dict(content["path"])
        self._gradients.clear()

    def _bytes(self, content: Mapping[str, Any]) -> dict[str, int]:
        weights = self._flat.numel() * self._flat.element_size()
        return {"weights": weights, "backups": self.backups.bytes_held(), "state": self.commits.state_bytes()}


def _spec_of(optimizer: Optimizer | None, rule: Rule) -> str | None:
    return None if optimizer is None else Rule(rule.compensation, optimizer).optimizer_spec


def _squares(ratio: float, parts: Sequence[Part]) -> list[float]:
    square = sum(float(torch.linalg.vector_norm(part.gradient)) ** 2 for part in parts)
    return [ratio**2 * square, square]
