"""Which commit path a run takes: the one asked for, or the one that pays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from tardigrad.commit import COMMIT_PATHS
from tardigrad.commit.base import CommitPath, not_elementwise
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import CompileError, UnknownName
from tardigrad.layout import FlatLayout
from tardigrad.rules.base import Rule

AUTO = "auto"
LARGE = 1_000_000  # parameters from which "auto" compiles: some 4 ms a commit repay 10 s in a few thousand commits


def make_path(
    asked: str, rule: Rule, layout: FlatLayout, *, threads: int = 1, groups: Sequence[ParameterGroup] = ()
) -> CommitPath:
    """The path of this name; of ``auto``, compiled for a large model and a rule that can be, else exact."""
    if asked == AUTO:
        asked = "exact" if layout.numel < LARGE or not_elementwise(rule) else "compiled"
    elif asked not in COMMIT_PATHS.names():
        raise UnknownName("commit path", asked, [AUTO, *COMMIT_PATHS.names()])
    path: CommitPath = COMMIT_PATHS.load(asked)(rule, layout, threads=threads, groups=groups)
    return path


class ChosenPath:
    """The commit path of a server, from what was asked for until it is made ready, and then for good.

    Args:
        asked: ``auto`` or a commit path's name.
        rule, layout, threads, groups: see `CommitPath`.

    Attributes:
        path: that commits take.
    """

    def __init__(
        self, asked: str, rule: Rule, layout: FlatLayout, *, threads: int, groups: Sequence[ParameterGroup]
    ) -> None:
        self.path = make_path(asked, rule, layout, threads=threads, groups=groups)
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
