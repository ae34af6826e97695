"""Which commit path a run takes: the one asked for, or the one that pays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import CommitPath, Part, not_elementwise
from tardigrad.commit.groups import ParameterGroup
from tardigrad.commit.meter import Meter
from tardigrad.errors import CompileError, UnknownName
from tardigrad.layout import FlatLayout
from tardigrad.leases import Leases
from tardigrad.records import Quality
from tardigrad.rules.base import Rule

AUTO = "auto"
_REPAID = 3e9  # parameters x commits: the compiled path saves some 3 ns on each, and takes some 10 s to compile
_COMMITS = 3000  # that are expected where nobody knows how many there will be


def pays(parameters: int, commits: int | None) -> bool:
    """Whether so many commits of so many parameters repay compiling them; None: as many as are usual."""
    return parameters * (_COMMITS if commits is None else commits) >= _REPAID


def make_path(
    asked: str,
    rule: Rule,
    layout: FlatLayout,
    *,
    threads: int = 1,
    groups: Sequence[ParameterGroup] = (),
    commits: int | None = None,
) -> CommitPath:
    """The path of this name; of ``auto``, compiled where that pays and the rule can be, else exact."""
    if asked == AUTO:
        asked = "compiled" if pays(layout.numel, commits) and not not_elementwise(rule) else "exact"
    elif asked not in COMMIT_PATHS.names():
        raise UnknownName("commit path", asked, [AUTO, *COMMIT_PATHS.names()])
    path: CommitPath = COMMIT_PATHS.load(asked)(rule, layout, threads=threads, groups=groups)
    return path


class ChosenPath:
    """The commit path of a server, from what was asked for until it is made ready, and then for good.

    Args:
        asked: ``auto`` or a commit path's name.
        rule, layout, threads, groups: see `CommitPath`.
        leases: of the run, which know how many commits are to be expected; None: nobody knows.
        probe_every: commits between probes, >= 0; 0: none is made, and nothing is kept for them.
        probe_rules: specs of rules that are judged beside the run's own.

    Attributes:
        path: that commits take.
    """

    def __init__(
        self,
        asked: str,
        rule: Rule,
        layout: FlatLayout,
        *,
        threads: int,
        groups: Sequence[ParameterGroup],
        leases: Leases | None,
        probe_every: int = 0,
        probe_rules: Sequence[str] = (),
    ) -> None:
        commits = None if leases is None else leases.expected
        self.path = make_path(asked, rule, layout, threads=threads, groups=groups, commits=commits)
        self._asked, self._groups, self._ready = asked, groups, False
        self._meter: Meter | None = None
        if probe_every:
            self._meter = Meter(rule, layout, threads=threads, groups=groups, every=probe_every, beside=probe_rules)

    @property
    def reads_backup(self) -> bool:
        """Whether the rule, or one that is judged, reads backups."""
        return self.path.rule.compensation.reads_backup or (self._meter is not None and self._meter.reads_backup)

    def wants_probe(self, version: int, *, staleness: int) -> bool:
        """Whether a push that is so stale is worth a second gradient, at the weights of this version."""
        return self._meter is not None and self._meter.is_due(version, staleness=staleness)

    def apply(
        self,
        weights: Tensor,
        parts: Sequence[Part],
        *,
        measure: bool,
        mirrors: Sequence[Tensor],
        absent: Sequence[int] = (),
    ) -> tuple[float | None, tuple[Quality, ...] | None]:
        """Apply one commit, as `CommitPath.apply` does; with its ratio comes what a probe found, where one was made."""
        quality = None
        if self._meter is not None:
            parts, quality = self._meter.watch(self.path, weights, parts, absent=absent)
        return self.path.apply(weights, parts, measure=measure, mirrors=mirrors, absent=absent), quality

    def state_dict(self) -> dict[str, Any]:
        """The path's state, copied, and that of the rules that are judged."""
        return self.path.state_dict() | ({} if self._meter is None else {"probes": self._meter.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; one of a server that made no probes is taken too."""
        self.path.load_state_dict(state)
        if self._meter is not None and "probes" in state:
            self._meter.load_state_dict(state["probes"])

    def state_bytes(self) -> int:
        """Bytes of state held now, that of the rules judged beside the run's included."""
        return self.path.state_bytes() + (0 if self._meter is None else self._meter.state_bytes())

    def prepare(self, *, mirrored: bool, several: bool, measure: bool) -> None:
        """Make the path ready, once; arguments as for `CommitPath.prepare`.

        Where ``auto`` chose one that does not work here, or not on every shard's machine: the exact one, and a warning.

        Raises:
            CompileError: the compiled path was asked for, and does not work here.
        """
        if self._ready:
            return
        how = {"mirrored": mirrored, "several": several, "measure": measure}
        try:
            self._make_ready(**how)
        except CompileError as error:
            if self._asked != AUTO:
                raise
            warnings.warn(f"commits take the exact path, several times slower: {error}", RuntimeWarning, stacklevel=3)
            rule, layout = self.path.rule, self.path.layout
            self.path = make_path("exact", rule, layout, threads=self.path.threads, groups=self._groups)
            self._make_ready(**how)
        self._ready = True

    def _make_ready(self, **how: bool) -> None:
        """Make the path of now ready; see `prepare`. Raises CompileError."""
        self.path.prepare(**how)
