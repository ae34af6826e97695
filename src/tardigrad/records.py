"""What travels between worker, server, engine and log. Frozen, small, without behaviour of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

RejectReason = Literal["non-finite", "stale", "late", "incarnation", "duplicate"]


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """The samples ``[start, stop)`` of one epoch's permutation that a worker may compute next.

    Finished exactly when the push that carries it commits.
    """

    epoch: int
    start: int
    stop: int

    @property
    def samples(self) -> int:
        """How many samples, >= 1."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several leases behind one gradient, in the order in which a script computed them."""

    leases: tuple[Lease, ...]

    @property
    def samples(self) -> int:
        """How many samples in all."""
        return sum(lease.samples for lease in self.leases)


def plain_lease(lease: Lease | Bundle | None) -> list[Any] | None:
    """As JSON: [epoch, start, stop], or a list of such."""
    if lease is None or isinstance(lease, Lease):
        return None if lease is None else [lease.epoch, lease.start, lease.stop]
    return [[one.epoch, one.start, one.stop] for one in lease.leases]


def lease_of(plain: Sequence[Any] | None) -> Lease | Bundle | None:
    """The inverse of `plain_lease`."""
    if plain is None:
        return None
    if plain and isinstance(plain[0], int):
        return Lease(*plain)
    return Bundle(tuple(Lease(*one) for one in plain))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights handed to a worker.

    Attributes:
        version: commits applied when it was taken.
        weights: tensors shaped as given to the server; copies, the caller's own.
        lease: samples to compute next; None where the server leases none, or none is left.
        flat: the same weights as one buffer in the server's layout. With ``pull(copy=False)`` it is the server's
            own backup: read it, never write it; valid until this worker pulls again.
        buffers: model buffers by name (BatchNorm statistics) to compute with; empty for models without.
        incarnation: which life of the worker it was handed to; a push of another life is refused.
    """

    version: int
    weights: list[Tensor]
    lease: Lease | None
    flat: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Push:
    """One gradient handed in.

    Attributes:
        worker: index of the worker, 0-based.
        gradient: flat buffer in the server's layout: the mean over the batch.
        lease: the samples it was computed on, or None; a script's push has a bundle.
        samples: how many samples, >= 1; weighs contributions of one commit.
        incarnation: which life of the worker computed it.
        sequence: number of the push within that life, from 0, so that a repeated push is recognised; None: unchecked.
        norm: the gradient's L2 norm as the worker measured it; not finite where the gradient is not. None: the
            server measures it itself.
        loss: mean loss over the batch, for the record.
        buffers: model buffers after the forward pass, by name.
        again: the gradient of the same samples at the server's weights of now, flat; None where no probe is made.
        absent: numbers of the layout's tensors that have no gradient, and are passed over as torch.optim does.
    """

    worker: int
    gradient: Tensor
    lease: Lease | Bundle | None = None
    samples: int = 1
    incarnation: int = 0
    sequence: int | None = None
    norm: float | None = None
    loss: float | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    again: Tensor | None = None
    absent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Contribution:
    """One worker's part of a commit; ``loss`` and ``norm`` as pushed, fingerprints of the weights that were read."""

    worker: int
    incarnation: int
    read_version: int
    lease: Lease | Bundle | None
    samples: int
    loss: float | None = None
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """How near a rule's compensated gradient g' comes to the gradient of now, measured by a probe.

    With g the gradient as pushed, c = g' - g its compensation, and y = now - g what a perfect one would be; norms and
    inner products over all weights, in float64. A number is not finite where what it is divided by is zero.

    Attributes:
        name: of the rule: its registered name for the run's own, its whole spec for one judged beside it.
        staleness: of the push, >= 1.
        relative_error: ||g' - now|| / ||g - now||, >= 0; 1 is as good as no compensation.
        cosine: of g' with now.
        raw_cosine: of g with now.
        compensation_cosine: of c with y.
        coefficient: <y, c> / <c, c>: the factor on c that makes the error least; above 1 the rule does too little.
        strength: `Facts.strength` that the rule was given.
    """

    name: str
    staleness: int
    relative_error: float
    cosine: float
    raw_cosine: float
    compensation_cosine: float
    coefficient: float
    strength: float = 1.0


def probe_columns(found: Sequence[Quality]) -> list[Any]:
    """What a log says of a probe, as JSON: staleness, raw cosine, and a row of numbers for each rule, the run's first.

    A row is relative error, cosine, compensation cosine, coefficient, strength; what is not finite becomes None.
    """
    numbers = [
        [each.relative_error, each.cosine, each.compensation_cosine, each.coefficient, each.strength] for each in found
    ]
    rows = [[value if math.isfinite(value) else None for value in row] for row in numbers]
    raw = found[0].raw_cosine
    return [found[0].staleness, raw if math.isfinite(raw) else None, rows]


@dataclass(frozen=True, slots=True)
class Commit:
    """One update was applied.

    Attributes:
        version: the server's version after it.
        worker: the worker whose push completed it.
        staleness: commits between that worker's pull and this commit, >= 0.
        contributions: all parts, in worker order; several under synchronous consistency.
        lr: learning rate used.
        live: workers taking part when it was applied.
        compensation_ratio: ||compensation|| / ||gradient||, where it was measured, else None.
        quality: what a probe found, the run's own rule first, then those judged beside it; None without a probe.
    """

    accepted: ClassVar[bool] = True
    version: int
    worker: int
    staleness: int
    contributions: tuple[Contribution, ...]
    lr: float
    live: int
    compensation_ratio: float | None = None
    quality: tuple[Quality, ...] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """The push was accepted and waits for others of its round; ``version`` is still the old one."""

    accepted: ClassVar[bool] = True
    version: int
    worker: int
    staleness: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The push was not applied.

    Attributes:
        reason: "non-finite", "stale" (beyond max_staleness), "late" (its round was over), "incarnation" (an
            earlier life of the worker) or "duplicate" (a push already received).
        lost: True when its lease was given up (rejected three times); else the lease is handed out again.
    """

    accepted: ClassVar[bool] = False
    version: int
    worker: int
    staleness: int
    reason: RejectReason
    lease: Lease | Bundle | None = None
    lost: bool = False


PushResult = Commit | Held | Rejected


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker failed; its lease goes back, and it leaves.

    Attributes:
        worker, incarnation: whose life ended.
        kind: "died" (its process ended by itself or was killed), "raised" (its code did) or "hung" (it did not push in
            time, and was ended).
        version: the server's, when it was noticed.
        exit_code: of the process, negative for a signal; None in the simulator.
        traceback: what it raised, as text; empty where it raised nothing.
    """

    worker: int
    incarnation: int
    kind: Literal["died", "raised", "hung"]
    version: int
    exit_code: int | None = None
    traceback: str = ""


class RecentGradients(Protocol):
    """The last gradients of all workers as the rows of a matrix S; see `tardigrad.window`."""

    @property
    def size(self) -> int:
        """How many gradients there are now, >= 1 in a commit."""

    @property
    def ages(self) -> Tensor:
        """How many gradients came after each row's, 0 for the newest: int64, shape (rows,)."""

    @property
    def gram(self) -> Tensor:
        """S S^T, zero for rows that do not count: float64, shape (rows, rows)."""

    def against(self, vector: Tensor) -> Tensor:
        """S v for a flat vector, zero for rows that do not count: float64, shape (rows,)."""

    def combined(self, factors: Tensor) -> Tensor:
        """S^T y for factors of shape (rows,): a flat vector."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may know of the commit it takes part in.

    Attributes:
        staleness: commits between the pushing worker's pull and this commit, >= 0.
        lr: learning rate of this commit, >= 0.
        version: the server's version before this commit.
        live: workers taking part, >= 1.
        step: updates the optimizer has made so far, >= 0 (equals version unless a state was loaded); of a piece whose
            tensors were absent from some commits, the others.
        samples: samples behind the gradient, >= 1.
        measured: numbers over the whole vector, as the rule's ``conclude`` gave them.
        read_pass: which of the rule's ``read_passes`` this is, from 0.
        place: where the piece begins in the flat buffer, in elements; kept for a rule that ``reads_place``.
        gain: how much more than lr a damped curvature estimate must reckon with, because of what the optimizer adds
            to a step; see `Optimizer.gain`.
        window: the last gradients, this one included; for a rule with a ``window_plan``.
        strength: factor > 0, chosen by probes, on the strength of a rule that ``follows_probes``; 1 for any other.
        rates: the learning rate of each parameter group, where each has its own; then ``lr`` is the first's. A rule
            or an optimizer finds that of its own group in ``lr``, and none here.
        preconditioner: `Optimizer.preconditioner` of all weights, flat, for a rule that ``reads_preconditioner``; None:
            1 everywhere.
    """

    staleness: int
    lr: float
    version: int
    live: int
    step: int
    samples: int = 1
    measured: Mapping[str, float] = field(default_factory=dict)
    read_pass: int = 0
    place: int = 0
    gain: float = 1.0
    window: RecentGradients | None = field(default=None, compare=False, repr=False)
    strength: float = 1.0
    rates: tuple[float, ...] = ()
    preconditioner: Tensor | None = field(default=None, compare=False, repr=False)
