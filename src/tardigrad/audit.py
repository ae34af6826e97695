"""`audit`: whether a run kept its promises, by what its directory says. Reads files only, and the log as a stream.

What is kept in memory grows with workers, leases under way and epochs that are not finished, never with commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tardigrad.durable import read_json
from tardigrad.errors import RunDirectoryError
from tardigrad.logs import read_lines
from tardigrad.tiles import Tiles

_MOST = 100  # violations told one by one
_FORMAT = 2
_TIMED = (
    "pull", "commit", "probe", "held", "reject", "join", "leave", "fail", "note", "take", "rest", "return", "finish",
    "plan", "size", "log", "begin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        run: the directory.
        violations: sentences, each with file and line; the first hundred, and how many more there are.
        events, commits, pushes: how many were checked.
        epochs: finished ones, every sample of which was applied once or is listed as lost.
        applied, lost: samples.
        failures, restarts: of workers.
    """

    run: Path
    violations: tuple[str, ...]
    events: int
    commits: int
    pushes: int
    epochs: int
    applied: int
    lost: int
    failures: int
    restarts: int

    @property
    def ok(self) -> bool:
        """Whether nothing was violated."""
        return not self.violations

    @property
    def verdict(self) -> str:
        """A sentence."""
        if self.violations:
            return f"{len(self.violations)} found that must not be; the first: {self.violations[0]}"
        lost = f", {self.lost} lost" if self.lost else ""
        return (
            f"all invariants hold: {self.commits} commits, {self.epochs} finished epochs, {self.applied} samples "
            f"applied once{lost}"
        )


def audit(directory: str | Path) -> Audit:
    """Check a run's log against what must hold, whatever died on the way; see `docs/replay-a-run.md` for the list.

    A run that was taken up again is judged by the history that survived.

    Raises:
        RunDirectoryError: a file is missing or damaged, or the log is of an older format.
    """
    place = Path(directory)
    config = read_json(place / "config.json")
    if config is None:
        raise RunDirectoryError(f"{place} is not a run directory: it holds no config.json.")
    check: _Check | None = None
    for path, number, value in read_lines(place):
        if check is None:
            check = _Check(config, _header(place, value))
        else:
            check.take(f"{path.name} line {number}", value)
    if check is None:
        raise RunDirectoryError(f"{place} has an empty log.")
    summary = read_json(place / "summary.json")
    if summary is not None:
        check.compare_summary(summary)
    return check.conclude(place)


@dataclass(slots=True)
class _Life:
    """One life of a worker: its number, whether it takes part, what it pulled and has not pushed, its held push."""

    incarnation: int
    live: bool = True
    pulled: tuple[int, tuple[Any, ...] | None] | None = None
    held: tuple[int, int, tuple[Any, ...] | None] | None = None  # incarnation, read version, lease
    taken: set[tuple[int, ...]] = field(default_factory=set)  # a script's: what it took and has not pushed


class _Check:
    """Takes in one event after the other."""

    def __init__(self, config: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        self._epochs_asked = int(config["epochs"])
        self._samples = int(header["samples_per_epoch"])
        self._lives = {worker: _Life(0) for worker in range(int(config["workers"]))}
        self._tiles = Tiles(self._samples)
        self._where, self._time, self._version, self._events = "", 0.0, 0, 0
        self._violations: list[str] = []
        self._violated = 0
        self._applied = self._lost = self._restarts = 0
        self._rejected, self._failures = Counter[str](), Counter[str]()
        self._staleness: dict[int, Counter[int]] = {}
        self._take: dict[str, Callable[..., None]] = {
            "pull": self._pull, "commit": self._commit, "held": self._hold, "reject": self._reject,
            "join": self._join, "leave": self._leave, "fail": self._fail, "note": self._note, "digest": self._digest,
            "probe": self._probe, "take": self._taken, "return": self._returned, "finish": self._finished,
            "plan": self._plan, "rest": self._told, "size": self._told, "log": self._told,
            "begin": self._told,
        }  # fmt: skip

    def take(self, where: str, event: object) -> None:
        """Check one event that stands there."""
        self._where, self._events = where, self._events + 1
        if not isinstance(event, list) or not event or event[0] not in self._take:
            self._violation(f"{event!r} is no event")
            return
        if event[0] in _TIMED:
            if event[1] < self._time:
                self._violation(f"time goes back from {self._time} to {event[1]}")
            self._time = event[1]
        try:
            self._take[event[0]](*event[1:])
        except (TypeError, ValueError, IndexError):
            self._violation(f"{event!r} does not have the columns of a {event[0]}")

    # -- who takes part --------------------------------------------------------------------------------------

    def _join(self, time: float, worker: int, incarnation: int) -> None:
        before = self._lives.get(worker)
        if before is not None and before.live:
            self._violation(f"worker {worker} joins, but it takes part")
        expected = 0 if before is None else before.incarnation + 1
        if incarnation != expected:
            self._violation(f"worker {worker} joins in life {incarnation}, not {expected}")
        self._restarts += before is not None
        held = None if before is None else before.held
        self._lives[worker] = _Life(incarnation, held=held)

    def _leave(self, time: float, worker: int, incarnation: int, reason: str) -> None:
        life = self._alive("leaves", worker, incarnation)
        if life is not None:
            life.live = False
            life.taken.clear()  # others are given that

    def _fail(self, time: float, worker: int, incarnation: int, version: int, kind: str, *_: Any) -> None:
        self._failures[kind] += 1
        self._alive("fails", worker, incarnation)

    def _note(self, time: float, words: str) -> None:
        pass

    def _alive(self, does: str, worker: int, incarnation: int) -> _Life | None:
        """The life that this worker lives; None, and a violation, if that is not this one."""
        life = self._lives.get(worker)
        if life is None or not life.live:
            self._violation(f"worker {worker} {does}, but it does not take part")
            return None
        if life.incarnation != incarnation:
            self._violation(f"worker {worker} {does} in life {incarnation}, but it lives life {life.incarnation}")
            return None
        return life

    # -- pulls and pushes ------------------------------------------------------------------------------------

    def _pull(self, time: float, worker: int, incarnation: int, version: int, lease: Sequence[Any] | None) -> None:
        life = self._alive("pulls", worker, incarnation)
        if version != self._version:
            self._violation(f"worker {worker} reads version {version}, but the weights are of version {self._version}")
        if life is not None:
            if life.pulled is not None and life.pulled[1] != _plain(lease):
                self._violation(f"worker {worker} is given {lease}, but it holds {life.pulled[1]} still")
            life.pulled = version, _plain(lease)

    def _hold(
        self, time: float, worker: int, incarnation: int, read: int, lease: Sequence[Any] | None, samples: int,
        loss: float | None, norm: float | None,
    ) -> None:  # fmt: skip
        life = self._pushed("push that waits", worker, incarnation, read, lease)
        if life is not None:
            if life.held is not None:
                self._violation(f"worker {worker} has a second push that waits")
            life.held = incarnation, read, _plain(lease)

    def _pushed(self, what: str, worker: int, incarnation: int, read: int, lease: Sequence[Any] | None) -> _Life | None:
        """A push has come: its life must have pulled that version and lease, and not pushed since."""
        life = self._alive("pushes", worker, incarnation)
        if life is None:
            return None
        if life.pulled is None:
            self._violation(f"worker {worker}'s {what} was not pulled, or is used a second time")
        else:
            version, held = life.pulled
            if read != version:
                self._violation(f"worker {worker}'s {what} says it read version {read}, but it pulled {version}")
            if _is_bundle(lease):
                self._hand_in(life, worker, lease or ())
            elif _plain(lease) != held:
                self._violation(f"worker {worker}'s {what} is on lease {lease}, but it was given {held}")
        life.pulled = None
        return life

    def _commit(
        self, time: float, version: int, lr: float, live: int, parts: Sequence[Sequence[Any]], ratio: float | None
    ) -> None:
        if version != self._version + 1:
            self._violation(f"the commit makes version {version}, the one before made {self._version}")
        self._version = version
        for worker, incarnation, read, lease, samples, *_ in parts:
            self._contribution(worker, incarnation, read, lease)
            staleness = version - 1 - read
            if staleness < 0:
                self._violation(f"worker {worker} read version {read}, which the commit of {version} did not have yet")
            self._staleness.setdefault(worker, Counter())[staleness] += 1
            leases = lease if _is_bundle(lease) else [] if lease is None else [lease]
            if lease is not None and sum(stop - start for _, start, stop in leases) != samples:
                self._violation(f"worker {worker}'s lease {lease} has not {samples} samples")
            for one in leases:
                self._settle(worker, one)
            self._applied += samples

    def _contribution(self, worker: int, incarnation: int, read: int, lease: Sequence[Any] | None) -> None:
        life = self._lives.get(worker)
        if life is None or life.held is None:
            self._pushed("contribution", worker, incarnation, read, lease)
            return
        if life.held != (incarnation, read, _plain(lease)):
            self._violation(f"worker {worker}'s contribution is not the push of it that waited: {life.held}")
        life.held = None

    def _reject(
        self, time: float, worker: int, incarnation: int, read: int, lease: Sequence[Any] | None, reason: str,
        lost: bool,
    ) -> None:  # fmt: skip
        self._rejected[reason] += 1
        if reason in ("incarnation", "duplicate"):
            return  # a push of an earlier life, or one that came twice: it is refused, and nothing changes
        self._pushed("rejected push", worker, incarnation, read, lease)
        if lost and lease is not None and not _is_bundle(lease):
            self._lost += lease[2] - lease[1]
            self._settle(worker, lease)

    def _settle(self, worker: int, lease: Sequence[int]) -> None:
        epoch, start, stop = lease
        twice = self._tiles.add(epoch, start, stop)
        if twice is not None:
            self._violation(f"samples {twice[0]} to {twice[1]} of epoch {epoch} are settled twice, by worker {worker}")

    def _probe(self, time: float, version: int, staleness: int, raw: float | None, rows: Sequence[Any]) -> None:
        if version != self._version or staleness < 1:
            self._violation(
                f"a probe of version {version} and staleness {staleness}, after the commit of {self._version}"
            )

    def _digest(self, version: int, digests: Mapping[str, str]) -> None:
        if version > self._version:
            self._violation(f"a digest of version {version}, but the weights are of version {self._version}")

    # -- what only scripts do --------------------------------------------------------------------------------

    def _taken(self, time: float, worker: int, incarnation: int, lease: Sequence[Any] | None) -> None:
        life = self._alive("takes samples", worker, incarnation)
        if life is None or lease is None:
            return
        if any(tuple(lease) in other.taken for other in self._lives.values()):
            self._violation(f"worker {worker} is given {lease}, which another holds")
        life.taken.add(tuple(lease))

    def _hand_in(self, life: _Life, worker: int, leases: Sequence[Sequence[int]]) -> None:
        """Leases leave the hands of a worker: each must have been taken by this life."""
        for lease in leases:
            if tuple(lease) not in life.taken:
                self._violation(f"worker {worker} hands in {lease}, which it had not taken")
            life.taken.discard(tuple(lease))

    def _returned(
        self, time: float, worker: int, incarnation: int, leases: Sequence[Any], lost: Sequence[Any], reason: str
    ) -> None:
        life = self._alive("gives back", worker, incarnation)
        if life is not None and reason in ("unused", "skipped"):  # else they came with a push that was refused
            self._hand_in(life, worker, leases)
        self._rejected.update(["skipped"] if reason == "skipped" else [])
        for lease in lost:
            self._lost += lease[2] - lease[1]
            self._settle(worker, lease)

    def _finished(self, time: float, worker: int, incarnation: int) -> None:
        life = self._alive("has come to its end", worker, incarnation)
        if life is not None:
            life.taken.clear()

    def _plan(self, time: float, epochs: int) -> None:
        self._epochs_asked = epochs

    def _told(self, time: float, *columns: Any) -> None:
        """Of no consequence for what must hold."""

    # -- the end ---------------------------------------------------------------------------------------------

    def compare_summary(self, summary: Mapping[str, Any]) -> None:
        """The summary must say what the log says; a finished run has finished every epoch."""
        self._where = "summary.json"
        histogram = {
            str(worker): {str(k): counts[k] for k in sorted(counts)}
            for worker, counts in sorted(self._staleness.items())
        }
        said = {
            "commits": self._version, "lost_samples": self._lost, "rejected": dict(self._rejected),
            "failures": dict(self._failures),
        }  # fmt: skip
        for name, mine in said.items():
            if name in summary and summary[name] != mine:
                self._violation(f"{name} is {summary[name]}, by the log it is {mine}")
        if summary["staleness"]["histogram"] != histogram:
            self._violation("the histogram of staleness is not the log's")
        if summary["status"] == "finished":
            for epoch in range(self._epochs_asked):
                for start, stop in self._tiles.holes(epoch):
                    self._violation(f"samples {start} to {stop} of epoch {epoch} were neither applied nor lost")

    def conclude(self, place: Path) -> Audit:
        """What was found."""
        more = [f"and {self._violated - _MOST} more"] if self._violated > _MOST else []
        pushes = sum(sum(counts.values()) for counts in self._staleness.values())
        return Audit(
            run=place,
            violations=(*self._violations, *more),
            events=self._events,
            commits=self._version,
            pushes=pushes,
            epochs=self._tiles.finished,
            applied=self._applied,
            lost=self._lost,
            failures=sum(self._failures.values()),
            restarts=self._restarts,
        )

    def _violation(self, words: str) -> None:
        self._violated += 1
        if len(self._violations) < _MOST:
            self._violations.append(f"{self._where}: {words}.")


def _is_bundle(lease: Sequence[Any] | None) -> bool:
    """Whether these are several leases, as a script hands in, and not the three numbers of one."""
    return lease is not None and (not lease or not isinstance(lease[0], int))


def _plain(lease: Sequence[Any] | None) -> tuple[Any, ...] | None:
    if lease is None:
        return None
    return tuple(map(tuple, lease)) if _is_bundle(lease) else tuple(lease)


def _header(place: Path, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RunDirectoryError(f"the log of {place} does not begin with a header: it is not the log of a run.")
    if value.get("format") != _FORMAT:
        raise RunDirectoryError(
            f"the log of {place} has format {value.get('format')}; an audit reads format {_FORMAT}."
        )
    return value
