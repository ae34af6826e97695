"""The sharded server: one parameter server to whoever uses it, its weights in several places.

Decisions (who takes part, who may read, which push counts, what makes a commit) are made once, here, by the code of
`tardigrad.server.ParameterServer`. What has the size of the model (weights, backups, rule state) lies with the shards,
which are told of each commit in one order. So a snapshot is of one version, and the bits are those of one server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tardigrad.admission import is_finite
from tardigrad.backups import Memory
from tardigrad.commit.base import not_elementwise
from tardigrad.commit.choice import AUTO
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import InvalidArgument, TardigradError
from tardigrad.hyperparameters import require_integer
from tardigrad.records import Push, PushResult
from tardigrad.rules.base import Rule
from tardigrad.schedules import LearningRate
from tardigrad.server import ParameterServer
from tardigrad.shards.links import Link, NearLink, Opening, near
from tardigrad.shards.ranges import cut
from tardigrad.shards.shard import Shard, ShardPlan
from tardigrad.shards.together import ShardedBackups, ShardedPath, Shards, parts_of


class ShardedServer(ParameterServer):
    """A parameter server whose weights are split, by bytes, over several shards.

    Args:
        weights, rule, lr: as of `ParameterServer`.
        shards: how many, >= 1; this process holds the first.
        opening: makes the others; by default in this process too.
        groups, commit_path, commit_threads, probe_every: as of `ParameterServer`; threads are divided among the shards.
        **settings: the others of `ParameterServer`.

    Raises:
        InvalidArgument: the rule or a setting needs all weights in one place; or as `ParameterServer`.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        rule: Rule,
        *,
        lr: LearningRate,
        shards: int,
        opening: Opening = near,
        groups: Sequence[ParameterGroup] = (),
        commit_path: str = AUTO,
        commit_threads: int = 1,
        probe_every: int = 0,
        **settings: Any,
    ) -> None:
        require_integer("server", "shards", shards, low=1)
        require_shardable(rule, groups, probe_every=probe_every)
        super().__init__(
            weights, rule, lr=lr, groups=groups, commit_path=commit_path, commit_threads=commit_threads, **settings
        )  # fmt: skip
        each = list(groups) or [ParameterGroup(len(self.layout.shapes))]
        ranges, whole = cut(self.layout, shards), self.commits.path
        threads = max(1, commit_threads // shards)
        plans = [ShardPlan(part, rule, tuple(part.groups(each)), whole.name, threads) for part in ranges]
        first = Shard(plans[0], ranges[0].of(self._flat))
        far = opening(plans[1:], [part.of(self._flat) for part in ranges[1:]])
        self._shards = Shards(ranges, [NearLink(first), *far])
        self._path = self.commits = ShardedPath(commit_path, whole, each, self._shards)
        self._kept = self.backups = ShardedBackups(self._shards, first.backups)
        self._gathered = 0  # the version that ``_flat`` is of
        self._closed, self._last = False, list[dict[str, int]]()
        try:
            for worker in self.live:
                self.backups.begin(worker, self._flat)
        except BaseException:
            self._shards.close()
            raise

    @property
    def links(self) -> Sequence[Link]:
        """To the shards, the first of which is in this process."""
        return self._shards.links

    @property
    def flat(self) -> Tensor:
        """The current weights as one buffer, gathered where they are not here yet. Read it, never write it."""
        if self._gathered != self.version:
            self._gather()
        return self._flat

    def weights(self) -> list[Tensor]:
        """A copy of the current weights, shaped as given."""
        return self.layout.views(self.flat.clone())

    def receive(self, push: Push, *, lasting: bool = False) -> PushResult:
        """Take in a push; see the base class."""
        if push.norm is not None and not math.isfinite(push.norm):
            self._path.fetch(push.worker, push.gradient)  # a finite norm proves that all is; another one proves nothing
        if not is_finite(push):
            _ = self.flat  # the weights will be looked at too
        return super().receive(push, lasting=lasting)

    def keep_in(self, worker: int, down: Memory, up: Memory) -> None:
        """Every shard keeps its part of this worker's backup in ``down``, and finds its gradients in ``up``."""
        if worker in self._waiting:  # of an earlier life, and where it lies now something else will
            self._path.fetch(worker, self._waiting.gradient_of(worker))
            self._waiting.own(worker)
        self._kept.keep_both(worker, down, up)
        self._path.comes_in(worker, up.flat)

    def leave(self, worker: int) -> None:
        """A worker takes part no longer; see the base class."""
        super().leave(worker)
        if worker not in self._waiting:
            self._path.comes_in(worker, None)

    def _close(self, push: Push) -> None:
        """Book a committed push; see the base class."""
        super()._close(push)
        if push.worker not in self.participants:
            self._path.comes_in(push.worker, None)

    def state_dict(self, *, under_way: bool = False) -> dict[str, Any]:
        """The whole state, as one server would give it: a run may go on with another number of shards."""
        self._gather()
        for worker in self._waiting:
            self._path.fetch(worker, self._waiting.gradient_of(worker))
        return super().state_dict(under_way=under_way)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, or that of a `ParameterServer` made with the same arguments."""
        super().load_state_dict(state)
        self._shards.ask_each("load", parts_of(state, self._shards.ranges))
        self._gathered = self.version

    def bytes_held(self) -> dict[str, int]:
        """Bytes held now, by all shards."""
        found = self._last if self._closed else self._shards.ask("bytes")
        whole = {name: sum(answer[name] for answer in found) for name in ("weights", "backups", "state")}
        return whole | {"held": self._waiting.bytes_held()}

    def close(self) -> None:
        """End the shards; the last weights stay."""
        if self._closed:
            return
        try:
            _, self._last = self.flat, self._shards.ask("bytes")
        except TardigradError:  # nothing more is known of the weights
            pass
        finally:
            self._closed = True
            self._shards.close()

    def _gather(self) -> None:
        """Bring the weights here. Raises ProtocolError where a shard is at another version than this server."""
        self._shards.gather("weights", self._flat, {"version": self.version})
        self._gathered = self.version


def require_shardable(rule: Rule, groups: Sequence[ParameterGroup] = (), *, probe_every: int = 0) -> None:
    """Raise `InvalidArgument` for a rule that needs all weights in one place.

    Args:
        rule: of the run.
        groups: with optimizers of their own.
        probe_every: commits between probes, which are of the whole vector; 0: none.
    """
    rules = [rule, *(Rule(rule.compensation, group.optimizer) for group in groups if group.optimizer is not None)]
    compensation = rule.compensation
    needs = [
        *(not_elementwise(each).split(": only")[0] for each in rules),
        f"the rule {rule.name!r} sums over all weights" if compensation.read_passes else "",
        f"the rule {rule.name!r} reads where a weight lies" if compensation.reads_place else "",
        "a probe is of all weights" if probe_every else "",
    ]
    why = next((need for need in needs if need), "")
    if why:
        raise InvalidArgument(f"with several shards no one sees all weights, but {why}. Type --shards 1.")
