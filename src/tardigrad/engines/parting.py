"""Parting: what a replay computes beside what its log says, and from which version on the two are different.

A digest tells the weights of its version. A push's loss and norm tell the weights it read: where they are different
the weights are, or what was computed on them; where they are equal the weights most likely are, but a difference in the
last bit of one weight may not reach them. So without keeping any weights a replay knows between which two versions it
and the run part.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tardigrad.records import Commit, Contribution

_REMEMBERED = 4096  # versions that were found equal; what is compared next is at most as old as a push is stale


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing of its kind that the log says and a replay does not.

    Attributes:
        kind: lease, version, incarnation, staleness, lr, live, contributions, samples, loss, norm, probe, rejection,
            digest, weights or end.
        line: of the log, counted over all its files; the header is line 1. 0 where it is of no line.
        version: of the weights it tells something about.
        logged: what the run said.
        computed: what the replay found.
        worker: whose; None where it is no worker's.
    """

    kind: str
    line: int
    version: int
    logged: object
    computed: object
    worker: int | None = None

    def __str__(self) -> str:
        """One line, for a reader."""
        whose = "" if self.worker is None else f" of worker {self.worker}"
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.kind}{whose} at version {self.version}: the run {self.logged}, replayed {self.computed}"


class Parting:
    """Collects what was compared.

    Attributes:
        line: of the log that is replayed now.
        differences: the first of each kind.
        pushes, commits, digests: how many were compared.
        tensors: those whose digests are different at the first digest that is.
        digested_at: the last version whose digests were equal; -1: none were.
        computed_otherwise: the first version whose weights are equal, and on which a push is different all the same.
    """

    def __init__(self) -> None:
        self.line = 1
        self.differences: dict[str, Difference] = {}
        self.pushes = self.commits = self.digests = 0
        self.tensors: list[str] = []
        self.digested_at = -1
        self.computed_otherwise: int | None = None
        self._equal: deque[int] = deque(maxlen=_REMEMBERED)  # by digests
        self._agree: deque[int] = deque(maxlen=_REMEMBERED)  # by pushes that read them
        self._differs: int | None = None
        self._equal_again: int | None = None

    @property
    def interval(self) -> tuple[int, int] | None:
        """The last version whose digests are equal (-1: none) before the first that was found different, and that one.

        None where none was found different.
        """
        return None if self._differs is None else (self._last_below(self._equal), self._differs)

    @property
    def agrees_until(self) -> int:
        """The last version before the first that is different on which a push agrees in loss and norm; -1: none."""
        return self._last_below(self._agree)

    @property
    def equal_again(self) -> int | None:
        """The last version after `interval` whose weights are equal: then it is the log that differs."""
        differs, again = self._differs, self._equal_again
        return again if differs is not None and again is not None and again > differs else None

    def _last_below(self, versions: deque[int]) -> int:
        return max((version for version in versions if self._differs is None or version < self._differs), default=-1)

    def check(self, kind: str, logged: object, computed: object, *, version: int, worker: int | None = None) -> bool:
        """Compare one thing, and remember the first of its kind that is different."""
        if logged == computed:
            return True
        if kind not in self.differences:
            self.differences[kind] = Difference(kind, self.line, version, logged, computed, worker)
        return False

    def committed(self, mine: Commit, *, lr: float, live: int, parts: Sequence[Contribution]) -> None:
        """Compare a commit with what the log says of it."""
        self.commits += 1
        self.check("lr", lr, mine.lr, version=mine.version)
        self.check("live", live, mine.live, version=mine.version)
        theirs, ours = [part.worker for part in parts], [part.worker for part in mine.contributions]
        if self.check("contributions", theirs, ours, version=mine.version):
            for logged, computed in zip(parts, mine.contributions, strict=True):
                self.pushes += 1
                self.contributed(logged, computed, version=mine.version)

    def contributed(self, logged: Contribution, mine: Contribution, *, version: int) -> None:
        """Compare one worker's part of a commit; ``version``: of the server."""
        for kind, name in (("incarnation",) * 2, ("staleness", "read_version"), ("lease",) * 2, ("samples",) * 2):
            self.check(kind, getattr(logged, name), getattr(mine, name), version=version, worker=mine.worker)
        read, equal = mine.read_version, True
        for kind, computed in (("loss", _finite(mine.loss)), ("norm", _finite(mine.norm))):
            equal &= self.check(kind, getattr(logged, kind), computed, version=read, worker=mine.worker)
        self.pushed(read, equal=equal)

    def pushed(self, read: int, *, equal: bool) -> None:
        """A push that read this version was compared by loss and norm."""
        if equal:
            self._agree.append(read)
        elif read in self._equal:
            if self.computed_otherwise is None:
                self.computed_otherwise = read
        else:
            self.found_different(read)

    def found_equal(self, version: int) -> None:
        """The weights of this version are equal."""
        if self._differs is None:
            self._equal.append(version)
        else:
            self._equal_again = version

    def found_different(self, version: int) -> None:
        """The weights of this version are different."""
        self._differs = version if self._differs is None else min(version, self._differs)

    def digested(self, version: int, logged: Mapping[str, str], computed: Mapping[str, str]) -> None:
        """Compare the digests of one version's weights."""
        self.digests += 1
        names = [name for name in (*computed, *logged) if logged.get(name) != computed.get(name)]
        other = list(dict.fromkeys(names))
        if not other:
            self.digested_at = version
            self.found_equal(version)
        else:
            self.found_different(version)
            self.tensors = self.tensors or other
            self.check("digest", logged.get(other[0]), computed.get(other[0]), version=version)


def _finite(value: float | None) -> float | None:
    """As the log has it: JSON has no word for what is not finite."""
    return value if value is not None and math.isfinite(value) else None
