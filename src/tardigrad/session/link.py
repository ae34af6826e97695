"""Link: what a session asks of the server, whatever carries it.

A script in a worker decides when it wants samples, when it steps and when it evaluates; the server only answers. Every
call waits for its answer. Tensors lie in two places that both ends know: *down*, which the server writes and the
worker reads, and *up*, which the worker writes and the server reads; a call says whose turn it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tardigrad.layout import FlatLayout
from tardigrad.records import Lease
from tardigrad.session.generators import GeneratorStates


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group as the server is to step it.

    Attributes:
        tensors: how many tensors of the layout, one after the other, >= 1.
        optimizer: the spec of a registered optimizer, such as ``"sgd(momentum=0.9)"``; no learning rate in it.
        lr: learning rate at the start, >= 0.
    """

    tensors: int
    optimizer: str
    lr: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rates by samples applied: of every group, for one unit of the schedule after the other.

    Attributes:
        unit: samples that one step of the user's scheduler stands for, >= 1.
        rates: from the first unit on, the learning rate of each group. Beyond the last row the last holds.
        period: samples of an epoch, at whose end a step ends early, as plain PyTorch steps for an epoch's last, smaller
            batch too; None: of a stream.
    """

    unit: int
    rates: tuple[tuple[float, ...], ...]
    period: int | None = None

    def units(self, samples: int) -> int:
        """Steps of the user's scheduler that so many applied samples stand for."""
        if self.period is None:
            return samples // self.unit
        epochs, rest = divmod(samples, self.period)
        return epochs * -(-self.period // self.unit) + rest // self.unit

    def at(self, samples: int) -> tuple[float, ...]:
        """The learning rate of each group after so many applied samples."""
        return self.rates[min(self.units(samples), len(self.rates) - 1)]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a script hands over when it prepares; it must be the same in every worker, but for the tensors' values.

    Attributes:
        layout: of the parameters that travel, group after group.
        groups: in the layout's order.
        weights: the parameters' values, shaped as in the layout: the run begins with the first worker's.
        buffers: the model's persistent buffers by name.
        samples: of an epoch; None: an unbounded stream, of which the server leases nothing.
        batch_size: samples a lease holds.
        accumulate: batches that one push stands for, >= 1.
        schedule: of the learning rates; None: they stay.
        alike: name -> digest of what must not differ between workers: the order of samples, the data set, the
            parameters that do not travel.
    """

    layout: FlatLayout
    groups: tuple[Group, ...]
    weights: Sequence[Tensor]
    buffers: Mapping[str, Tensor]
    samples: int | None
    batch_size: int
    accumulate: int = 1
    schedule: Schedule | None = None
    alike: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Released:
    """The worker may go on: *down* holds new weights.

    Attributes:
        version: of the weights, and the samples applied to them.
        samples: applied so far, by all workers.
        rates: the learning rate of each group now.
        refused: why the push before was not applied; empty where it was.
        first: whether this worker is the first: see `Session.is_first`.
        fault: what is to go wrong on purpose with the next push: one of `tardigrad.transports.slots.FAULTS`.
        wants_state: whether the server would like the user's own state, for a checkpoint.
    """

    version: int
    samples: int
    rates: tuple[float, ...]
    refused: str = ""
    first: bool = False
    fault: str = ""
    wants_state: bool = False


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's answer to what was prepared.

    Attributes:
        weights: *down*: flat buffer in the layout, on the CPU; read it, never write it.
        buffers: *down*: model buffers by name, to begin with.
        gradient: *up*: flat buffer in the layout, on the CPU.
        returned: *up*: model buffers by name.
        epoch: which the run has come to: 0 at first, more for a worker that is restarted.
        state: the user's own state from the checkpoint that the run was taken up from; empty where there is none.
        released: the first weights.
    """

    weights: Tensor
    buffers: Mapping[str, Tensor]
    gradient: Tensor
    returned: Mapping[str, Tensor]
    epoch: int
    state: Mapping[str, Any]
    released: Released


class Link(ABC):
    """One worker's way to the server.

    Attributes:
        worker: its number, from 0.
        workers: how many there were at first.
        incarnation: which life of the worker this is.
        seed: of the run.
        rank, group: which process of how many this is; more than one are one worker together.
        travels_as: what a gradient is rounded to before it is handed in: see `tardigrad.arithmetic.Arithmetic.wire`.
        renewed: called with what was read anew while the worker waited for samples; set by the session.
    """

    worker: int
    workers: int
    incarnation: int
    seed: int
    rank: int = 0
    group: int = 1
    travels_as: str = "float32"
    renewed: Callable[[Released], None] | None = None

    @abstractmethod
    def prepare(self, prepared: Prepared) -> Welcome:
        """Hand over what the script has prepared; once.

        Raises:
            SessionError: it differs from what the other workers handed over.
        """

    @abstractmethod
    def epochs(self, number: int) -> None:
        """Say of how many epochs the run is, before the first `take`.

        Raises:
            SessionError: the other workers said another number.
        """

    @abstractmethod
    def take(self, epoch: int, *, wait: bool) -> Lease | None:
        """The next samples of this epoch or of one before; None: there are none.

        Args:
            epoch: the last that is wanted, from 0.
            wait: in the last epoch, wait until some come back from another worker or every sample was applied or is
                listed as lost. Only for a worker that holds no lease.
        """

    @abstractmethod
    def order(self, epoch: int, states: GeneratorStates) -> GeneratorStates:
        """From which states of the generators the order of an epoch's samples is evaluated, by whomever.

        Asked in runs that began with one worker, for an epoch of which this worker holds a lease. The first to ask
        decides; the server keeps its answer until every sample of the epoch was applied or is listed as lost.

        Args:
            epoch: from 0.
            states: this worker's, as they were when its loop over the loader began.
        """

    @abstractmethod
    def give_back(self, leases: Sequence[Lease], *, skipped: bool = False) -> None:
        """Hand leases back that will not be computed; ``skipped``: they were, and the gradient was thrown away.

        What was skipped three times is given up and listed as lost.
        """

    @abstractmethod
    def push(
        self,
        *,
        leases: Sequence[Lease],
        samples: int,
        norm: float,
        loss: float | None = None,
        absent: Sequence[int] = (),
    ) -> Released:
        """Hand in the gradient that lies in *up*, the mean over its samples; wait until this worker may go on.

        Args:
            leases: whose samples it was computed on, taken before; empty for a stream.
            samples: how many, >= 1.
            norm: the gradient's L2 norm; not finite where the gradient is not.
            loss: mean over the samples, where it is known.
            absent: tensors of the layout that have no gradient: torch.optim passes over them, and so does the server.
        """

    @abstractmethod
    def refresh(self, *, evaluation: bool = False) -> Released:
        """Read the weights anew, between two pushes; ``evaluation``: *down*'s buffers are then those to judge with."""

    @abstractmethod
    def evaluated(self, scores: Mapping[str, Mapping[str, float]], *, seconds: float) -> None:
        """Hand in the scores of the weights read last: name of the split -> name of the score -> value."""

    @abstractmethod
    def log(self, values: Mapping[str, float]) -> None:
        """Record numbers of the user's own."""

    @abstractmethod
    def save(self, state: Mapping[str, Any]) -> None:
        """Hand in the user's own state: dicts, lists, tensors, numbers, strings."""

    @abstractmethod
    def finish(self) -> None:
        """The script has ended; what it still holds goes back."""
