"""ServedSession: a session whose weights and optimizer are the server's."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tardigrad.seeding import derive_seed
from tardigrad.session import mistakes
from tardigrad.session.averaging import GroupBook, averaged
from tardigrad.session.given import Given
from tardigrad.session.group import GroupedLink
from tardigrad.session.judged import lent, scores_of
from tardigrad.session.link import Link, Released, Welcome
from tardigrad.session.loader import EpochClock, LeasedLoader, ServedLoader, whole
from tardigrad.session.optimizer import ServedOptimizer
from tardigrad.session.preparing import Plan, planned, prepared
from tardigrad.session.randomness import seed_generators
from tardigrad.session.schedules import ServedScheduler
from tardigrad.session.session import Scores, Session, numbers_of
from tardigrad.session.streams import StreamedLoader, as_counted
from tardigrad.session.watch import WatchedBook


class ServedSession(Session):
    """One worker's session over a link.

    What its script draws at random goes on as in plain PyTorch. In worker 0 it is exactly what plain PyTorch draws; the
    others, every further life of a worker, and all but the first process of one that is a group, draw from seeds of
    their own from `prepare` on.

    Args:
        link: to the server.
        device: where the model is to compute.
    """

    def __init__(self, link: Link, *, device: torch.device | str = "cpu") -> None:
        self.worker, self.workers = link.worker, link.workers
        self.incarnation, self.seed = link.incarnation, link.seed
        self.rank, self.group = link.rank, link.group
        self.device = torch.device(device)
        self._link = link
        self._saved: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {}
        self._released: Released | None = None
        self._loader: ServedLoader | None = None

    # -- the loop --------------------------------------------------------------------------------------------

    def _prepare(self, given: Given) -> tuple[Any, ...]:
        plan = planned(given, self.device, group=self.group)
        self._welcome = self._link.prepare(prepared(given, plan))
        plan.travelling.attach(self._welcome, travels_as=self._link.travels_as)
        self._model, self._travelling = given.model, plan.travelling
        self._clock = EpochClock(self._link, self._welcome.epoch)
        if given.epochs is not None:
            self._clock.tell(given.epochs)
        made = self._stand_ins(given, plan, self._welcome)
        self._link.renewed = self._renewed
        for name, (_, load) in self._saved.items():
            self._load(name, load)
        if (self.worker, self.incarnation, self.rank) != (0, 0, 0):
            place = (self.worker, self.incarnation, self.rank) if self.rank else (self.worker, self.incarnation)
            seed_generators(derive_seed(self.seed, "script", *place))
        return given.handed_back(made)

    def _prepare_trainer(self, trainer: Any) -> Any:
        """The same trainer, served. Loaded by name: that module imports transformers, which nobody else needs."""
        if self.group > 1:
            raise mistakes.no_trainer_in_a_group()
        return importlib.import_module("tardigrad.integrations.transformers").prepare(self, trainer)

    def _stand_ins(self, given: Given, plan: Plan, welcome: Welcome) -> dict[int, Any]:
        """What the script gets in the place of its own objects, by their ids."""
        book = self._book_of(given, plan)
        self._optimizer = ServedOptimizer(
            given.optimizer, travelling=plan.travelling, link=self._link, book=book, served=plan.served,
            accumulate=given.accumulate, released=self._noted,
        )  # fmt: skip
        made: dict[int, Any] = {id(given.optimizer): self._optimizer}
        if given.scheduler is not None:  # before the groups show the server's rates: it copies scheduler and groups
            made[id(given.scheduler)] = ServedScheduler(
                given.scheduler, self._optimizer, self._clock, given.place, units=lambda: self._units(plan)
            )
        if given.loader is not None:
            made[id(given.loader)] = self._loader = self._served_loader(given, plan, book)
        if isinstance(book, GroupBook):
            made[id(given.model)] = averaged(given.model, book, self.device)
        self._renewed(welcome.released)
        return made

    def _book_of(self, given: Given, plan: Plan) -> WatchedBook:
        parameters, fed = plan.travelling.parameters, given.loader is not None
        if isinstance(self._link, GroupedLink):
            return GroupBook(parameters, fed=fed, link=self._link)
        return WatchedBook(parameters, fed=fed)

    def _served_loader(self, given: Given, plan: Plan, book: WatchedBook) -> ServedLoader:
        assert given.loader is not None
        drained = self._optimizer.drained
        if plan.orders is None:
            agreed = book.agreed if isinstance(book, GroupBook) else as_counted
            return StreamedLoader(given.loader, book, self._clock, drained, agreed=agreed)
        part = book.part if isinstance(book, GroupBook) else whole
        return LeasedLoader(given.loader, self._link, book, plan.orders, self._clock, drained, part=part)

    def epochs(self, number: int) -> Iterator[int]:
        """The epochs of the run, from the one that it has come to; see `Session.epochs`."""
        self._require_prepared("epochs")
        return self._clock.epochs(number)

    # -- beside the loop -------------------------------------------------------------------------------------

    def evaluate(
        self, function: Callable[[nn.Module], float | Mapping[str, float]], *, split: str = "test"
    ) -> Scores | None:
        """Judge the run's weights of this moment on the first worker; see `Session.evaluate`."""
        self._require_prepared("evaluate")
        if self._clock.inside and self._optimizer.under_way:
            raise mistakes.in_the_middle("evaluate")
        if self._released is None or not self._released.first:
            return None
        self._renewed(self._link.refresh(evaluation=True))
        if self.rank > 0:
            self._renewed(self._link.refresh())  # answered when the first process has judged
            return None
        since = time.perf_counter()
        with lent(self._travelling.buffers, self._welcome.buffers):
            scores = scores_of(function, self._model)
        self._travelling.require_untouched()
        self._link.evaluated({split: scores}, seconds=time.perf_counter() - since)
        self._renewed(self._link.refresh())
        return scores

    def log(self, **numbers: float) -> None:
        """Record numbers of the script's own; see `Session.log`."""
        self._link.log(numbers_of(numbers))

    def save_with(self, name: str, *, save: Callable[[], Any], load: Callable[[Any], object]) -> None:
        """Keep something of the script's own in the run's checkpoints; see `Session.save_with`."""
        if name in self._saved:
            raise mistakes.saved_twice(name)
        self._saved[name] = (save, load)
        if self._prepared:
            self._load(name, load)

    def close(self) -> None:
        """The script has come to its end: stop fetching, and say so to the server."""
        self.stop_fetching()
        self._link.finish()

    def stop_fetching(self) -> None:
        """End what the loader still does in the background, also where the script has ended with an error."""
        if self._loader is not None:
            self._loader.finish()

    # -- where it stands -------------------------------------------------------------------------------------

    @property
    def prepared(self) -> bool:
        """Whether the script has prepared anything."""
        return self._prepared

    @property
    def first_epoch(self) -> int:
        """With which epoch this worker begins."""
        self._require_prepared("first_epoch")
        return self._welcome.epoch

    @property
    def is_first(self) -> bool:
        """Whether this process does what is done once; before `prepare`: whether it is worker 0's first."""
        return self.rank == 0 and (self.worker == 0 if self._released is None else self._released.first)

    @property
    def version(self) -> int:
        """Of the weights that this worker has."""
        return 0 if self._released is None else self._released.version

    @property
    def samples(self) -> int:
        """Applied to the weights that this worker has, by all workers together."""
        return 0 if self._released is None else self._released.samples

    def _units(self, plan: Plan) -> int:
        """Steps of the schedule that the run has come to."""
        return 0 if plan.schedule is None else plan.schedule.units(self.samples)

    def _renewed(self, released: Released) -> None:
        """*Down* holds weights that were read anew, between two pushes."""
        self._optimizer.show(released)
        self._released = released

    def _noted(self, released: Released) -> None:
        """The answer to a push."""
        self._released = released
        if released.wants_state:
            self._link.save({name: save() for name, (save, _) in self._saved.items()})

    def _load(self, name: str, load: Callable[[Any], object]) -> None:
        if name in self._welcome.state:
            load(self._welcome.state[name])
