"""Which commit path a run takes: the one asked for, or the one that pays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import CommitPath, not_elementwise
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import CompileError, UnknownName
from tardigrad.layout import FlatLayout
from tardigrad.leases import Leases
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
    ) -> None:
        commits = None if leases is None else leases.expected
        self.path = make_path(asked, rule, layout, threads=threads, groups=groups, commits=commits)
        self._asked, self._groups, self._ready = asked, groups, False

    def prepare(self, *, mirrored: bool, several: bool, measure: bool) -> None:
        """Make the path ready, once; arguments as for `CommitPath.prepare`.

        Where ``auto`` chose one that does not work here: the exact one, and a warning.

        Raises:
            CompileError: the compiled path was asked for, and does not work here.
        """
        if self._ready:
            return
        try:
            self.path.prepare(mirrored=mirrored, several=several, measure=measure)
        except CompileError as error:
            if self._asked != AUTO:
                raise
            warnings.warn(f"commits take the exact path, several times slower: {error}", RuntimeWarning, stacklevel=3)
            rule, layout = self.path.rule, self.path.layout
            self.path = make_path("exact", rule, layout, threads=self.path.threads, groups=self._groups)
        self._ready = True
