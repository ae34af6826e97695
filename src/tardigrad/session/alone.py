"""AloneSession: the same script without a server, plain PyTorch on the script's own objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tardigrad.buffers import persistent_buffers
from tardigrad.hyperparameters import require_integer
from tardigrad.session import mistakes
from tardigrad.session.accumulating import AccumulatingOptimizer, AccumulatingScheduler, EndingLoader
from tardigrad.session.given import Given
from tardigrad.session.judged import scores_of
from tardigrad.session.names import plain_name
from tardigrad.session.session import Scores, Session, numbers_of


class AloneSession(Session):
    """A session of one worker that is the whole run.

    `prepare` hands back the very objects it is given. Only ``accumulate`` above 1 needs stand-ins for optimizer and
    loader, and for a scheduler by steps.

    Args:
        seed: of the run.
        device: where the model is to compute.

    Attributes:
        logged: what the script has logged: (version, numbers).
        evaluations: what was evaluated: (version, split, scores).
    """

    def __init__(self, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.worker, self.workers, self.incarnation, self.seed = 0, 1, 0, seed
        self.device = torch.device(device)
        self.logged: list[tuple[int, Scores]] = []
        self.evaluations: list[tuple[int, str, Scores]] = []
        self._saved: dict[str, Callable[[], Any]] = {}
        self._given: Given | None = None
        self._model: nn.Module | None = None
        self._version = 0

    def _prepare(self, given: Given) -> tuple[Any, ...]:
        self._given, self._model = given, given.model
        made = _accumulating(given) if given.accumulate > 1 else {}
        given.optimizer.register_step_post_hook(self._stepped)
        return given.handed_back(made)

    def _prepare_trainer(self, trainer: Any) -> Any:
        """The trainer itself: it is plain PyTorch by itself."""
        self._model = trainer.model
        return trainer

    def epochs(self, number: int) -> Iterator[int]:
        """The numbers from 0 to ``number`` - 1."""
        return iter(range(require_integer("session.epochs", "number", number, low=0)))

    def evaluate(
        self, function: Callable[[nn.Module], float | Mapping[str, float]], *, split: str = "test"
    ) -> Scores | None:
        """What the function says of the model, in evaluation mode and without gradients."""
        self._require_prepared("evaluate")
        assert self._model is not None
        scores = scores_of(function, self._model)
        self.evaluations.append((self.version, split, scores))
        return scores

    def log(self, **numbers: float) -> None:
        """Keep numbers in `logged`."""
        self.logged.append((self.version, numbers_of(numbers)))

    def save_with(self, name: str, *, save: Callable[[], Any], load: Callable[[Any], object]) -> None:
        """Nothing is saved without a run directory; only a name used twice is refused."""
        if name in self._saved:
            raise mistakes.saved_twice(name)
        self._saved[name] = save

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the trained weights and of the model's buffers, by name; empty before `prepare`."""
        if self._model is None:
            return {}
        trained = {name: each for name, each in self._model.named_parameters() if each.requires_grad}
        values = trained | persistent_buffers(self._model)
        return {plain_name(name): tensor.detach().clone() for name, tensor in values.items()}

    @property
    def first_epoch(self) -> int:
        """0."""
        return 0

    @property
    def is_first(self) -> bool:
        """True."""
        return True

    @property
    def version(self) -> int:
        """Steps of the optimizer so far."""
        return self._version

    @property
    def samples(self) -> int:
        """Samples behind those steps, where every batch of the loader is stepped; see `samples_in`."""
        if self._given is None or self._given.loader is None:
            return self._version
        return samples_in(self._given.loader, self._version, self._given.accumulate)

    def _stepped(self, optimizer: object, arguments: object, keywords: object) -> None:
        self._version += 1


def samples_in(loader: DataLoader[Any], steps: int, accumulate: int = 1) -> int:
    """Samples that so many steps stand for, in loops over a whole loader with a step for every ``accumulate`` batches.

    >>> samples_in(DataLoader(list(range(10)), batch_size=4), steps=4)  # 4 + 4 + 2, and 4 of the next epoch
    14
    """
    size = loader.batch_size or 1
    if isinstance(loader.dataset, IterableDataset):
        return steps * accumulate * size
    batches = len(loader)
    everything = min(batches * size, len(loader.sampler))  # type: ignore[arg-type]
    steps_of_one = -(-batches // accumulate)
    epochs, rest = divmod(steps, max(1, steps_of_one))
    return epochs * everything + min(rest * accumulate * size, everything)


def _accumulating(given: Given) -> dict[int, Any]:
    """Stand-ins by the id of what they stand in for."""
    optimizer = AccumulatingOptimizer(given.optimizer, given.accumulate)
    made: dict[int, Any] = {id(given.optimizer): optimizer}
    if given.loader is not None:
        made[id(given.loader)] = EndingLoader(given.loader, optimizer.drained)
    if given.scheduler is not None and given.place == "step":
        made[id(given.scheduler)] = AccumulatingScheduler(given.scheduler, optimizer)
    return made
