"""The contract of a task: what is trained on what, and how it is judged.

Bring your own in a few lines::

    import torch, tardigrad
    from tardigrad.tasks.base import ERROR, Split

    x = torch.randn(1000, 20)
    y = (x[:, 0] > 0).long()
    task = tardigrad.Task(
        name="sign",
        model=lambda: torch.nn.Linear(20, 2),
        loss=torch.nn.functional.cross_entropy,
        metric=ERROR,
        train=Split(x[:800], y[:800]),
        validation=Split(x[800:900], y[800:900]),
        test=Split(x[900:], y[900:]),
    )
    run = tardigrad.train(task, rule="dc-asgd", workers=8, lr=0.1, epochs=5, batch_size=16)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tardigrad.errors import InvalidArgument
from tardigrad.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Metric:
    """How outputs are judged.

    Attributes:
        name: the word on axes and in tables.
        function: (outputs, targets) -> a scalar tensor, the mean over the batch.
        unit, scale: shown are ``scale * value`` and ``unit``, such as 100 and "%".
        lower_is_better: which way is up.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    unit: str = ""
    scale: float = 1.0
    lower_is_better: bool = True


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of wrong classes. outputs: (batch, classes); targets: (batch,) of class indices."""
    return (outputs.argmax(dim=1) != targets).double().mean()


ERROR = Metric("error", error_rate, unit="%", scale=100.0)


@dataclass(frozen=True, slots=True)
class Split:
    """Examples held in memory: inputs (n, ...) and targets (n, ...)."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Inputs and targets must be as many."""
        if len(self.inputs) != len(self.targets) or len(self.inputs) == 0:
            raise InvalidArgument(
                f"a split has {len(self.inputs)} inputs and {len(self.targets)} targets; give equally many, at least 1."
            )

    def __len__(self) -> int:
        """How many examples."""
        return len(self.inputs)

    def to(self, device: torch.device | str) -> Split:
        """The same examples on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, slots=True)
class Task:
    """Model + data + loss + metric.

    Attributes:
        name: a word for files and tables.
        model: makes a new model; drawn under the run's seed.
        loss: (outputs, targets) -> a scalar tensor, the mean over the batch.
        train: examples to learn from.
        test: examples to report on, never to choose on.
        validation: examples to choose on (learning rate, lambda0); None where there are none.
        metric: how outputs are judged beside the loss; None: by the loss alone.
        prepare: what a batch of inputs becomes before the model sees it, in training and evaluation alike, such as
            pixels of 0 to 255 becoming normalised numbers; None: they are ready.
        augment: (prepared inputs, generator) -> inputs of the same shape, on training batches only; every random
            number comes from the generator, which is seeded for each lease. None: no augmentation.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Split
    test: Split
    validation: Split | None = None
    metric: Metric | None = None
    prepare: Callable[[Tensor], Tensor] | None = None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def make_model(self, seed: int) -> nn.Module:
        """A new model on the CPU, the same for the same seed; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "model"))
            return self.model()

    def prepared(self, inputs: Tensor) -> Tensor:
        """A batch of inputs as the model takes it."""
        return inputs if self.prepare is None else self.prepare(inputs)

    def splits(self) -> dict[str, Split]:
        """The splits that are evaluated, by name."""
        both = {"validation": self.validation, "test": self.test}
        return {name: split for name, split in both.items() if split is not None}

    def to(self, device: torch.device | str) -> Task:
        """The same task with its data on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)
