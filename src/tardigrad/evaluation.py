"""Evaluation: the loss and the metric of given weights and buffers on the splits that are judged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tardigrad.arithmetic import Arithmetic
from tardigrad.buffers import copy_into, persistent_buffers
from tardigrad.layout import FlatLayout, attach
from tardigrad.tasks.base import Split, Task

_BATCH = 1000
_RECALIBRATION = 10_000  # training examples at most


class Evaluator:
    """Evaluates a task in a model of its own, so that no worker is disturbed.

    Args:
        task: its data on ``device``.
        seed: of the run.
        recalibrate: compute BatchNorm statistics anew on training data before each evaluation.
        arithmetic: how to compute.
    """

    def __init__(
        self, task: Task, *, seed: int, recalibrate: bool = False, arithmetic: Arithmetic | None = None
    ) -> None:
        self._task = task
        self._recalibrate = recalibrate
        self._arithmetic = arithmetic or Arithmetic()
        self._model = self._arithmetic.place(task.make_model(seed))
        layout = FlatLayout.of_model(self._model)
        self._flat = layout.zeros()
        attach(layout, self._model, self._flat)
        self._buffers = persistent_buffers(self._model)
        self._names = ["loss"] if task.metric is None else ["loss", task.metric.name]

    @torch.no_grad()
    def evaluate(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """For each split, the loss and the metric by name. ``flat``: weights, shape (size,) of the model's layout."""
        self._flat.copy_(flat)
        copy_into(self._buffers, buffers)
        with self._arithmetic.kernels():
            if self._recalibrate:
                self._renew_statistics()
            self._model.eval()
            return {name: self._judge(split) for name, split in self._task.splits().items()}

    def _judge(self, split: Split) -> dict[str, float]:
        starts = range(0, len(split), _BATCH)
        judged = [self._judge_batch(split, start) for start in starts]
        totals = {}
        for name, values in zip(self._names, zip(*judged, strict=True), strict=True):
            total = 0.0
            for start, value in zip(starts, torch.stack(values).tolist(), strict=True):  # on CUDA one transfer
                total += min(_BATCH, len(split) - start) / len(split) * value
            totals[name] = total
        return totals

    def _judge_batch(self, split: Split, start: int) -> list[Tensor]:
        """Loss and metric of one batch, means over it."""
        metric, targets = self._task.metric, split.targets[start : start + _BATCH]
        with self._arithmetic.autocast():
            outputs = self._outputs(split, start)
            loss = self._task.loss(outputs, targets)
        numbers = [loss] if metric is None else [loss, metric.function(outputs, targets)]
        return [torch.as_tensor(number).reshape(()) for number in numbers]

    def _outputs(self, split: Split, start: int) -> Tensor:
        inputs = self._arithmetic.lay_out(self._task.prepared(split.inputs[start : start + _BATCH]))
        outputs: Tensor = self._model(inputs)
        return outputs

    def _renew_statistics(self) -> None:
        """Replace running statistics by the plain average over training batches at the current weights."""
        norms = [module for module in self._model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
        self._model.train()
        train = self._task.train
        for start in range(0, min(len(train), _RECALIBRATION), _BATCH):
            with self._arithmetic.autocast():
                self._outputs(train, start)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
