"""A link over a real server in this process: bitwise comparisons with torch.optim without processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tardigrad import ParameterServer, rule
from tardigrad.buffers import copy_into
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import SessionError
from tardigrad.leases import Leases
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.records import Bundle, Lease, Push
from tardigrad.session.alone import AloneSession
from tardigrad.session.generators import GeneratorStates
from tardigrad.session.link import Link, Prepared, Released, Welcome
from tardigrad.session.randomness import seed_generators
from tardigrad.session.served import ServedSession
from tardigrad.specs import parse_spec


class Loopback:
    """The server's side; it exists from the first `prepare` on.

    Attributes:
        server, leases: the real ones; leases is None for a stream.
        pushes: what each push brought: leases, samples, norm, loss, absent, rates it was applied with.
        returned: (leases, skipped) of every give_back.
        logged, scores, saved: what the scripts handed in.
        wants_state: whether the next push is asked for the user's own state.
        state: the user's own state, as from a checkpoint.
    """

    def __init__(self, *, workers: int = 1, rule: str = "asgd", seed: int = 0, epoch: int = 0, **settings) -> None:
        self.workers, self.rule, self.seed, self.epoch = workers, rule, seed, epoch
        self.settings = settings
        self.server: ParameterServer | None = None
        self.leases: Leases | None = None
        self.prepared: Prepared | None = None
        self.pushes: list[dict] = []
        self.returned: list[tuple[tuple[Lease, ...], bool]] = []
        self.logged: list[dict] = []
        self.scores: list[dict] = []
        self.saved: list[dict] = []
        self.planned: int | None = None
        self.begun: dict[int, GeneratorStates] = {}
        self.links: list[LoopbackLink] = []
        self.wants_state = False
        self.state: dict = {}
        self.first = 0

    def build(self, prepared: Prepared) -> None:
        self.prepared = prepared
        groups = [
            ParameterGroup(group.tensors, optimizer=OPTIMIZERS.build(parse_spec(group.optimizer)))
            for group in prepared.groups
        ]
        if prepared.samples is not None:
            self.leases = Leases(prepared.samples, prepared.batch_size, workers=self.workers)
        self.server = ParameterServer(
            prepared.weights, rule(self.rule, optimizer=prepared.groups[0].optimizer), lr=self.rates_at,
            workers=self.workers, buffers=prepared.buffers, groups=groups, layout=prepared.layout,
            commit_path="exact", **self.settings,
        )  # fmt: skip

    def rates_at(self, samples: int) -> tuple[float, ...]:
        schedule = self.prepared.schedule
        if schedule is None:
            return tuple(group.lr for group in self.prepared.groups)
        return schedule.at(samples)

    def link(self, worker: int = 0, incarnation: int = 0) -> LoopbackLink:
        self.links.append(LoopbackLink(self, worker, incarnation))
        return self.links[-1]

    def leases_in_order(self) -> list[Lease]:
        """Of the first epoch."""
        size, samples = self.prepared.batch_size, self.prepared.samples
        return [Lease(0, start, min(start + size, samples)) for start in range(0, samples, size)]

    def weights(self) -> list[torch.Tensor]:
        return self.server.weights()


class LoopbackLink(Link):
    """One worker's link. Nothing ever waits: the consistency is asynchronous, and samples come back at once."""

    def __init__(self, loopback: Loopback, worker: int, incarnation: int) -> None:
        self.worker, self.workers = worker, loopback.workers
        self.incarnation, self.seed = incarnation, loopback.seed
        self._back = loopback
        self._held: set[Lease] = set()
        self.finished = False

    def prepare(self, prepared: Prepared) -> Welcome:
        if self._back.server is None:
            self._back.build(prepared)
        elif dict(self._back.prepared.alike) != dict(prepared.alike):
            raise SessionError("the workers prepared different things")
        layout = prepared.layout
        self._down, self._up = layout.zeros(), layout.zeros()
        self._buffers = {name: torch.empty_like(buffer) for name, buffer in prepared.buffers.items()}
        self._returned = {name: torch.empty_like(buffer) for name, buffer in prepared.buffers.items()}
        released = self._read()
        epoch, state = self._back.epoch, self._back.state
        return Welcome(self._down, self._buffers, self._up, self._returned, epoch, state, released)

    def epochs(self, number: int) -> None:
        self._back.planned = number
        if self._back.leases is not None:
            self._back.leases.epochs = number

    def take(self, epoch: int, *, wait: bool) -> Lease | None:
        lease = self._back.leases.take(self.worker, upto=epoch)
        self._held |= {lease} - {None}
        return lease

    def order(self, epoch: int, states: GeneratorStates) -> GeneratorStates:
        return self._back.begun.setdefault(epoch, states)

    def give_back(self, leases: Sequence[Lease], *, skipped: bool = False) -> None:
        self._back.returned.append((tuple(leases), skipped))
        for lease in leases:
            self._held.discard(lease)
            if skipped:
                self._back.leases.reject(lease, "skipped")
            else:
                self._back.leases.give_back(lease)

    def push(self, *, leases, samples, norm, loss=None, absent=()) -> Released:
        back, server = self._back, self._back.server
        back.pushes.append(
            {"worker": self.worker, "leases": leases, "samples": samples, "norm": norm, "loss": loss, "absent": absent,
             "rates": server.rates}
        )  # fmt: skip
        result = server.receive(
            Push(self.worker, self._up, Bundle(tuple(leases)), samples, self.incarnation, norm=norm, loss=loss,
                 buffers=self._returned, absent=tuple(absent))
        )  # fmt: skip
        for lease in leases:
            self._held.discard(lease)
            if result.accepted:
                back.leases.finish(lease)
            else:
                back.leases.reject(lease, result.reason)
        return self._read(refused="" if result.accepted else result.reason)

    def refresh(self, *, evaluation: bool = False) -> Released:
        released = self._read()
        if evaluation:
            copy_into(self._buffers, self._back.server.buffers.combined(self._back.server.live))
        return released

    def evaluated(self, scores, *, seconds: float) -> None:
        self._back.scores.append({"version": self._back.server.version, **scores})

    def log(self, values) -> None:
        self._back.logged.append(dict(values))

    def save(self, state) -> None:
        self._back.saved.append(dict(state))

    def finish(self) -> None:
        self.finished = True
        if self._held:
            self.give_back(sorted(self._held))

    def _read(self, refused: str = "") -> Released:
        back = self._back
        snapshot = back.server.pull(self.worker)
        self._down.copy_(snapshot.flat)
        copy_into(self._buffers, snapshot.buffers)
        return Released(
            snapshot.version, back.server.samples_applied, back.server.rates, refused,
            first=self.worker == back.first, wants_state=back.wants_state,
        )  # fmt: skip


def alone(main: Callable, *, seed: int = 0) -> AloneSession:
    """Run a script as plain PyTorch."""
    seed_generators(seed)
    session = AloneSession(seed=seed)
    main(session)
    return session


def served(main: Callable, *, seed: int = 0, device: str = "cpu", **settings) -> Loopback:
    """Run the same script as the one worker of a server."""
    loopback = Loopback(seed=seed, **settings)
    seed_generators(seed)
    session = ServedSession(loopback.link(), device=device)
    main(session)
    session.close()
    return loopback


def require_equal(main: Callable, *, seed: int = 0, tolerance: float = 0.0, **settings) -> Loopback:
    """Run ``main(session)``, which returns a list of tensors, both ways, and compare what it returned, bit for bit."""
    found: list[list[torch.Tensor]] = []

    def keeping(session) -> None:
        found.append([tensor.detach().clone() for tensor in main(session)])

    alone(keeping, seed=seed)
    loopback = served(keeping, seed=seed, **settings)
    plain, ours = found
    assert len(plain) == len(ours) > 0
    for one, other in zip(plain, ours, strict=True):
        if tolerance:
            torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(one, other)
    return loopback
