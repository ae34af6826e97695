"""An evaluation is the mean over every example of a split, at the weights and statistics it is given."""

import pytest
import torch
from torch import nn

from tardigrad.arithmetic import Arithmetic
from tardigrad.evaluation import Evaluator
from tardigrad.layout import FlatLayout
from tardigrad.tasks.base import ERROR, Split, Task


def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def a_task(metric=ERROR, model=normed):
    generator = torch.Generator().manual_seed(1)

    def split(count, shift):
        return Split(torch.randn(count, 4, generator=generator) + shift, torch.arange(count) % 3)

    loss = nn.functional.cross_entropy
    return Task("numbers", model, loss, split(1500, 3.0), split(2300, 0.0), split(30, 1.0), metric)


def given(task, seed=3):
    """Weights and statistics other than those of a new model, as a model and as an evaluator takes them."""
    model = task.make_model(seed)
    model(task.validation.inputs)  # running statistics
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    flat = FlatLayout.of_model(model).pack([parameter.detach() for parameter in model.parameters()])
    return model.eval(), flat, buffers


def test_means_are_over_examples_not_over_batches():
    task = a_task()
    model, flat, buffers = given(task)
    found = Evaluator(task, seed=0).evaluate(flat, buffers)
    assert set(found) == {"validation", "test"}
    for name, split in task.splits().items():
        outputs = model(split.inputs).double()
        loss = nn.functional.cross_entropy(outputs, split.targets)
        assert found[name]["loss"] == pytest.approx(loss.item(), rel=1e-6)
        wrong = (outputs.argmax(1) != split.targets).double().mean().item()
        assert found[name]["error"] == pytest.approx(wrong, abs=1e-12)


def test_without_a_metric_there_is_the_loss():
    task = a_task(metric=None)
    _, flat, buffers = given(task)
    assert list(Evaluator(task, seed=0).evaluate(flat, buffers)["test"]) == ["loss"]


def test_what_is_given_is_left_as_it_is_and_two_evaluations_agree():
    task = a_task()
    _, flat, buffers = given(task)
    before = flat.clone(), {name: buffer.clone() for name, buffer in buffers.items()}
    evaluator = Evaluator(task, seed=0, recalibrate=True)
    assert evaluator.evaluate(flat, buffers) == evaluator.evaluate(flat, buffers)
    assert torch.equal(flat, before[0])
    assert all(torch.equal(buffers[name], before[1][name]) for name in buffers)


def test_recalibrated_statistics_are_the_average_over_training_batches():
    task = a_task()
    model, flat, buffers = given(task)
    found = Evaluator(task, seed=0, recalibrate=True).evaluate(flat, buffers)["test"]["loss"]
    hidden = [model[0](task.train.inputs[start : start + 1000]).detach() for start in (0, 1000)]
    model[1].running_mean.copy_(torch.stack([each.mean(0) for each in hidden]).mean(0))
    model[1].running_var.copy_(torch.stack([each.var(0) for each in hidden]).mean(0))
    wanted = nn.functional.cross_entropy(model(task.test.inputs), task.test.targets).item()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found != pytest.approx(Evaluator(task, seed=0).evaluate(flat, buffers)["test"]["loss"], rel=1e-2)


def test_evaluation_computes_as_training_does():
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            y = self.conv(x)
            seen.append((x.is_contiguous(memory_format=torch.channels_last), y.dtype))
            return y.mean(dim=(2, 3))

    split = Split(torch.randn(4, 3, 5, 5), torch.arange(4) % 3)
    task = Task("pictures", Looking, nn.functional.cross_entropy, split, split)
    flat = FlatLayout.of_model(Looking()).zeros()
    Evaluator(task, seed=0).evaluate(flat, {})
    Evaluator(task, seed=0, arithmetic=Arithmetic("cpu", "bfloat16", "channels_last")).evaluate(flat, {})
    assert seen == [(False, torch.float32), (True, torch.bfloat16)]
