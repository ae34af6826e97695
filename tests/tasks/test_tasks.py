"""The built-in tasks are what their pages say."""

import pytest
import torch

from tardigrad.errors import InvalidArgument
from tardigrad.evaluation import Evaluator
from tardigrad.layout import FlatLayout
from tardigrad.tasks.base import Split, error_rate
from tardigrad.tasks.digits import digits
from tardigrad.tasks.quadratic import quadratic


def test_digits_has_three_disjoint_splits_and_the_small_cnn():
    task = digits()
    assert [len(task.train), len(task.validation), len(task.test)] == [1257, 180, 360]
    everything = torch.cat([split.inputs for split in (task.train, task.validation, task.test)])
    assert len(torch.unique(everything.flatten(1), dim=0)) == 1797  # no image stands in two splits
    assert everything.mean().item() == pytest.approx(0.0, abs=0.01)
    assert everything.std().item() == pytest.approx(1.0, abs=0.01)
    assert sorted(set(task.train.targets.tolist())) == list(range(10))
    model = task.make_model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 38_282
    assert model(task.test.inputs[:2]).shape == (2, 10)


def test_models_depend_on_the_seed_only():
    task = digits()
    one, two, other = task.make_model(0), task.make_model(0), task.make_model(1)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_quadratics_excess_loss_is_its_closed_form():
    task = quadratic(dimension=3, condition=100.0, noise=0.5, samples=64)
    w = torch.tensor([0.3, -0.2, 0.9])
    h = torch.tensor([1.0, 0.1, 0.01])
    mean = task.train.inputs.mean(0)
    evaluator = Evaluator(task, seed=0)
    layout = FlatLayout.of_model(task.make_model(0))
    scores = evaluator.evaluate(layout.pack([w]), {})["test"]
    expected = 0.5 * (h * (w - mean) ** 2).sum().item()
    assert scores["excess loss"] == pytest.approx(expected, rel=1e-5)
    at_best = evaluator.evaluate(layout.pack([mean]), {})["test"]
    assert at_best["excess loss"] == pytest.approx(0.0, abs=1e-9)


def test_the_quadratics_gradient_vanishes_at_the_mean_of_the_data():
    task = quadratic()
    model = task.make_model(0)
    with torch.no_grad():
        model.w.copy_(task.train.inputs.mean(0))
    task.loss(model(task.train.inputs), task.train.targets).backward()
    assert model.w.grad.abs().max().item() < 1e-6


def test_error_rate_counts_wrong_classes():
    outputs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    assert error_rate(outputs, torch.tensor([0, 1, 1, 1])).item() == 0.5


@pytest.mark.parametrize("keyword", [{"dimension": 0}, {"condition": 0.5}, {"noise": -1.0}, {"samples": 0}])
def test_bad_keywords_are_refused(keyword):
    with pytest.raises(InvalidArgument, match=next(iter(keyword))):
        quadratic(**keyword)


def test_a_split_needs_as_many_targets_as_inputs():
    with pytest.raises(InvalidArgument, match="3 inputs and 2 targets"):
        Split(torch.zeros(3), torch.zeros(2))
