"""Session: what a training script holds in a worker; its loop stays as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tardigrad.session import mistakes
from tardigrad.session.given import Given

Scores = dict[str, float]


class Session(ABC):
    """One worker's end of a run.

    A script is a function ``main(session)`` that every worker runs from its beginning to its end::

        def main(session):
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            loader = torch.utils.data.DataLoader(dataset, batch_size=128, shuffle=True)
            model, optimizer, loader = session.prepare(model, optimizer, loader)
            for epoch in session.epochs(10):
                for inputs, labels in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(inputs), labels).backward()
                    optimizer.step()
                session.evaluate(accuracy)

    Without an engine the same script is plain PyTorch in one process, on the script's own objects.

    Attributes:
        worker: this worker's number, from 0.
        workers: how many there were at first.
        incarnation: which life of the worker this is, from 0; more where it was started again.
        seed: of the run. The global generators of torch, random and numpy were seeded with it before ``main``.
        device: where the model is to compute: ``model.to(session.device)``.
        rank: which process of its worker this is, from 0.
        group: of how many processes a worker is; they compute parts of the same batches.
    """

    worker: int
    workers: int
    incarnation: int
    seed: int
    device: torch.device
    rank: int = 0
    group: int = 1

    _prepared = False

    def prepare(
        self, *objects: Any, accumulate: int = 1, schedule: str | int = "epoch", epochs: int | None = None
    ) -> Any:
        """Hand over the model, its optimizer, the DataLoader to train on and a learning rate scheduler; once.

        Returns what to use from here on, in the same order: ``model, optimizer, loader = session.prepare(model,
        optimizer, loader)``. Loader and scheduler may be left out. A `transformers.Trainer` is prepared alone, and
        comes back itself.

        Args:
            *objects: a torch.nn.Module, a torch.optim.SGD, Adam or AdamW, a torch DataLoader, a scheduler.
            accumulate: batches that make one step of the optimizer, >= 1. The loop stays as it is, with a ``step()``
                for every batch; the mean of so many gradients is applied, and at the end of the loader of those left.
                What is clipped is each batch's gradient; to clip their mean, accumulate by not stepping.
            schedule: when the script steps its scheduler: ``"epoch"``, after the loop over the loader, or ``"step"``,
                after every step. The rates follow the samples that all workers have applied: an ``"epoch"`` is as many
                as the data set has, a ``"step"`` batch size x accumulate. A script that accumulates by not stepping
                says how many samples a step of its scheduler stands for, >= 1: batch size x batches of a step.
            epochs: of the whole run, if the script does not call `epochs`: how far the schedule is worked out.

        Raises:
            SessionError: something that cannot be served, or differs between workers; the sentence says what to write.
            InvalidArgument: for a value outside its range.
        """
        if self._prepared:
            raise mistakes.prepared_twice()
        if len(objects) == 1 and _is_trainer(objects[0]):
            return self._prepare_trainer(objects[0])
        given = Given.of(objects, accumulate=accumulate, schedule=schedule, epochs=epochs)
        self._prepared = True
        return self._prepare(given)

    @abstractmethod
    def _prepare(self, given: Given) -> tuple[Any, ...]:
        """What `prepare` hands back."""

    @abstractmethod
    def _prepare_trainer(self, trainer: Any) -> Any:
        """What `prepare` hands back for a `transformers.Trainer`."""

    @abstractmethod
    def epochs(self, number: int) -> Iterator[int]:
        """The epochs of the run: ``for epoch in session.epochs(10)``, with one loop over the loader inside.

        Workers share the samples of every epoch, and none waits for another between epochs: a worker for which
        nothing is left begins the next. One that is started again begins with the epoch that the run has come to.
        After the last epoch every sample was applied, or is listed as lost.

        Args:
            number: of epochs, >= 0, the same in every worker.
        """

    @abstractmethod
    def evaluate(
        self, function: Callable[[nn.Module], float | Mapping[str, float]], *, split: str = "test"
    ) -> Scores | None:
        """Judge the run's weights of this moment, on the first worker; the others go on, and get None.

        The function gets the model with fresh weights and with the model buffers (BatchNorm statistics) that the
        run's policy makes of all workers', in evaluation mode and without gradients. Mode and buffers are afterwards
        what they were. The other workers train on meanwhile: the scores belong to the weights that were read.

        Args:
            function: of the model; returns a number, or numbers by name.
            split: what the scores were measured on, for the record.

        Returns:
            Scores by name; a plain number is called ``"score"``.

        Raises:
            SessionError: called in the loop over the loader between a backward pass and its step, or before `prepare`.
        """

    @abstractmethod
    def log(self, **numbers: float) -> None:
        """Record numbers of the script's own by name, with the version they belong to: ``log(loss=loss.item())``.

        A tensor of one element is a number too.
        """

    @abstractmethod
    def save_with(self, name: str, *, save: Callable[[], Any], load: Callable[[Any], object]) -> None:
        """Keep something of the script's own in the run's checkpoints.

        Args:
            name: in the checkpoint; each once.
            save: called when a checkpoint is due, on the first worker: returns dicts, lists, tensors, numbers, strings.
            load: called with that, where the run goes on from a checkpoint: at once, or at `prepare`.
        """

    @property
    @abstractmethod
    def first_epoch(self) -> int:
        """With which epoch this worker begins: 0, and more where it was started again."""

    @property
    @abstractmethod
    def is_first(self) -> bool:
        """Whether this process does what is done once: it prints and writes files. One of the whole run is."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Of the weights that this worker has: how many updates there were."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """Applied to the weights that this worker has, by all workers together."""

    def _require_prepared(self, call: str) -> None:
        if not self._prepared:
            raise mistakes.not_prepared(call)


def numbers_of(values: Mapping[str, Any]) -> Scores:
    """Values as plain numbers.

    Raises:
        SessionError: one is none.
    """
    return {name: _number(name, value) for name, value in values.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise mistakes.not_a_number(name, value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise mistakes.not_a_number(name, value) from None


def _is_trainer(item: object) -> bool:
    """Whether it is a `transformers.Trainer`, found out without importing transformers."""
    return any(
        kind.__name__ == "Trainer" and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(item).__mro__
    )
