"""Evaluation: the loss and the metric of given weights and buffers on the splits that are judged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tardigrad.buffers import persistent_buffers
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
        device: where to compute.
    """

    def __init__(self, task: Task, *, seed: int, recalibrate: bool = False, device: torch.device | str = "cpu") -> None:
        self._task = task
        self._recalibrate = recalibrate
        self._model = task.make_model(seed, device)
        layout = FlatLayout.of_model(self._model)
        self._flat = layout.zeros()
        attach(layout, self._model, self._flat)
        self._buffers = persistent_buffers(self._model)

    @torch.no_grad()
    def evaluate(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """For each split, the loss and the metric by name. ``flat``: weights, shape (size,) of the model's layout."""
        self._flat.copy_(flat)
        for name, value in buffers.items():
            self._buffers[name].copy_(value)
        if self._recalibrate:
            _recalibrate(self._model, self._task.train)
        self._model.eval()
        return {name: self._judge(split) for name, split in self._task.splits().items()}

    def _judge(self, split: Split) -> dict[str, float]:
        metric = self._task.metric
        totals = {"loss": 0.0} if metric is None else {"loss": 0.0, metric.name: 0.0}
        for start in range(0, len(split), _BATCH):
            targets = split.targets[start : start + _BATCH]
            outputs = self._model(split.inputs[start : start + _BATCH])
            share = len(targets) / len(split)
            totals["loss"] += share * float(self._task.loss(outputs, targets))
            if metric is not None:
                totals[metric.name] += share * float(metric.function(outputs, targets))
        return totals


def _recalibrate(model: nn.Module, train: Split) -> None:
    """Replace running statistics by the plain average over training batches at the current weights."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.train()
    for start in range(0, min(len(train), _RECALIBRATION), _BATCH):
        model(train.inputs[start : start + _BATCH])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
