"""Six research rules beside dc-lowrank: their equations, their laws, and the series that tunes them."""

import importlib
import json
import math
import sys

import pytest
import torch

from benchmark_scripts import load, quick
from tardigrad import rule
from tardigrad.commit.base import Part
from tardigrad.commit.exact import ExactPath
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.server import ParameterServer
from tardigrad.testing import check_rule

ORDINARY = ("diagonal-and-low-rank", "forgetting", "kronecker", "secant")
QUICK_LAWS = (
    "is written whole in its spec",
    "touches only its results",
    "is finite at zero",
    "does not depend on neighbours",
    "equals its baseline when fresh",
    "continues from a state",
)
SHAPES = ((4, 3, 2, 2), (3, 4), (5,), ())


@pytest.fixture(scope="module")
def benchmark():
    return load("between")


@pytest.fixture
def parts(benchmark):
    """The modules of the rules by name, loaded anew: what the ones before had registered was forgotten."""
    for name in benchmark.MODULES:
        sys.modules.pop(name, None)
    return {name: importlib.import_module(name) for name in benchmark.MODULES}


class Walk:
    """Late gradients on an exact path, in float64, and everything that the equations need."""

    def __init__(self, made, path=ExactPath):
        self.draw = torch.Generator().manual_seed(5)
        self.layout = FlatLayout.of([torch.zeros(shape, dtype=torch.float64) for shape in SHAPES])
        self.path = path(made, self.layout)
        self.pushed, self.repaired = [], []

    def normal(self):
        """A vector without anything in the gaps."""
        numbers = [torch.randn(shape, generator=self.draw, dtype=torch.float64) for shape in SHAPES]
        return self.layout.pack(numbers)

    def push(self):
        """One late gradient of worker 0: what the rule adds to it, over w - backup = d."""
        weights, g, d = self.normal(), self.normal(), self.normal()
        facts = Facts(staleness=3, lr=0.4, version=len(self.pushed), live=2, step=len(self.pushed), samples=8)
        part = self.path.remembered(Part(0, g, weights - d, facts))
        repaired = self.layout.zeros()
        for piece, found in self.path.compensated(weights, part, advance=True):
            piece.of(repaired).copy_(found)
        self.pushed.append(g)
        self.repaired.append(repaired)
        return repaired - g, d


def damped(curvature, d, step=0.4):
    """E (I + s E)^-1 d."""
    return curvature @ torch.linalg.solve(torch.eye(len(d), dtype=d.dtype) + step * curvature, d)


def near(found, wanted, tolerance=1e-9):
    assert (found - wanted).norm() <= tolerance * wanted.norm()


def test_diagonal_and_low_rank_are_damped_as_one(parts):
    walk = Walk(rule("diagonal-and-low-rank", scale=0.5))
    square = 0.0
    for number in range(1, 6):
        c, d = walk.push()
        g, rows = walk.pushed[-1], torch.stack(walk.pushed)
        square = 0.95 * square + 0.05 * g**2
        diagonal = torch.diag(0.5 * 2.0 * g**2 / (square + 1e-7).sqrt())
        near(c, damped(diagonal + 0.5 * 0.3 * math.sqrt(8 / number) * rows.T @ rows, d), 1e-2)


def test_gradients_that_are_forgotten_weigh_less(parts):
    walk = Walk(rule("forgetting", scale=2.0))
    for number in range(1, 6):
        c, d = walk.push()
        rows = torch.stack(walk.pushed)
        weights = (1.0 - 1.0 / 64) ** torch.arange(number - 1, -1, -1, dtype=torch.float64)
        kappa = 2.0 * 0.3 * (8 / weights.sum()).sqrt()
        near(c, damped(kappa * rows.T @ (weights[:, None] * rows), d), 1e-6)


def test_kronecker_factors_are_damped_in_their_joint_eigenbasis(parts):
    walk = Walk(rule("kronecker", scale=0.5, decay=0.9, refresh_every=1))
    for _ in range(4):
        c, d = walk.push()
    weights = [0.1 * 0.9**age / (1.0 - 0.9**4) for age in (3, 2, 1, 0)]
    for place, modes in enumerate([(4, 3, 4), (3, 4), (5,), (1,)]):
        gradients = [walk.layout.views(g)[place].reshape(modes) for g in walk.pushed]
        factors = []
        for mode in range(len(modes)):
            unfolded = [g.movedim(mode, 0).reshape(modes[mode], -1) for g in gradients]
            factor = sum(weight * u @ u.T for weight, u in zip(weights, unfolded, strict=True))
            factors.append(factor if modes[mode] ** 2 <= math.prod(modes) else torch.diag(factor.diagonal()))
        product = factors[0]
        for factor in factors[1:]:
            product = torch.kron(product, factor) / factor.trace()
        assert product.trace() == pytest.approx(
            sum(weight * g.square().sum() for weight, g in zip(weights, gradients, strict=True))
        )
        mine, apart = (walk.layout.views(v)[place].reshape(-1) for v in (c, d))
        near(mine, damped(0.5 * 8 * product, apart))


def test_a_secant_is_the_curvature_that_a_workers_own_pushes_show(parts):
    h, server = 0.7, ParameterServer([torch.ones(6)], rule("secant"), lr=0.5, workers=2)
    read = [server.pull(worker).weights[0] for worker in (0, 1)]
    for turn in range(4):
        worker = turn % 2
        before = server.flat.clone()
        server.push(worker, [h * read[worker]])
        applied = (before - server.flat) / 0.5
        known = h if turn >= 3 else 0.0  # worker 1 has had a push on weights that moved, and so has worker 0
        expected = h * read[worker] + known / (1.0 + 0.5 * known) * (before - read[worker])
        if turn != 2:
            torch.testing.assert_close(applied, expected)
        read[worker] = server.pull(worker).weights[0]


def test_applied_directions_stand_in_the_window(parts):
    windows = parts["between_windows"]
    made = rule("applied-directions", kappa=0.5)
    walk = Walk(made, windows.DirectionsPath)
    for _ in range(5):
        c, d = walk.push()
        rows = torch.stack([*walk.repaired[:-1], walk.pushed[-1]])
        near(c, damped(0.5 * rows.T @ rows, d), 1e-6)
    rows = torch.stack(walk.repaired)
    near(walk.path.state.window.gram[:5, :5], rows @ rows.T)
    with pytest.raises(InvalidArgument, match="--commit-path directions"):
        Walk(made).push()


def test_predicted_weights_lie_ahead_along_the_smoothed_direction(parts):
    server = ParameterServer([torch.zeros(3)], rule("weight-prediction", ahead=0.5), lr=0.1, workers=3)
    forecast = parts["between_prediction"].Forecast(server, 0.5)
    direction, draw = torch.zeros(3), torch.Generator().manual_seed(1)
    for turn in range(6):
        worker, g = turn % 3, torch.randn(3, generator=draw)
        snapshot = server.pull(worker)
        forecast.pulled(0.0, worker, snapshot)
        torch.testing.assert_close(forecast.handed[worker], server.flat - 0.1 * 0.5 * 2 * direction)
        forecast.committed(0.0, server.push(worker, [g]))
        direction = 2 / 3 * direction + g / 3
    again = parts["between_prediction"].Forecast(server, 0.5)
    again.load_state_dict(forecast.state_dict())
    for each in (forecast, again):
        each.pulled(0.0, 0, server.pull(0))
    torch.testing.assert_close(again.handed[0], forecast.handed[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ORDINARY)
def test_laws(parts, name):
    check_rule(name, laws=QUICK_LAWS)


@pytest.mark.parametrize("name", ["asgd", *ORDINARY])
def test_ten_times_the_learning_rate(parts, name):
    """A quadratic of curvatures up to 1, staleness 8: plain SGD is stable below 0.18."""
    h = torch.linspace(0.25, 1.0, 20)
    server = ParameterServer([torch.ones(20)], rule(name), lr=0.5, workers=9)
    read = [server.pull(worker).weights[0] for worker in range(9)]
    for commit in range(120):
        worker = commit % 9
        server.push(worker, [h * read[worker]], samples=32)
        read[worker] = server.pull(worker).weights[0]
    largest = float(server.flat.abs().max())
    assert largest > 100.0 if name == "asgd" else largest < 1.0


def test_the_quick_series(benchmark, tmp_path, capsys):
    arms = ["dc-lowrank", "applied-directions", "weight-prediction"]
    words = ["--arms", *arms, "--seeds", "1", "2", "--directory", str(tmp_path / "runs")]
    found = quick("between", tmp_path, *words)
    assert [(row["arm"], row["point"]) for row in found["rows"]] == [
        (arm, point) for arm in arms for point in ("best", "recipe")
    ]
    assert all(row["seeds"] == [1, 2] and row["pairs"] == 2 for row in found["rows"])
    assert [len(one["trials"]) for one in found["choices"]] == [1, 1, 1]
    said = capsys.readouterr().out
    assert said.count("finished") == 3 + 2 * 3
    assert "| applied-directions (scale=1.0) | best | 0.1 |" in said
    again = quick("between", tmp_path, *words)
    assert "finished" not in capsys.readouterr().out
    assert again["rows"] == found["rows"]


def test_every_arm_is_trained_as_it_must_be(benchmark, parts):
    options = benchmark.parsed([])
    comparison = benchmark.comparison_of(options)
    arms = {arm.name: arm.config for arm in comparison.arms()}
    assert list(arms) == list(benchmark.ARMS)
    assert {config.workers for config in arms.values()} == {32}
    assert arms["applied-directions"].commit_path == "directions"
    assert arms["weight-prediction"].engine == "predicting"
    assert (comparison.budget.trials, comparison.trials(), comparison.most_runs()) == (7, 56, 56 + 48)
    for arm in comparison.arms():
        strength = rule(arm.rule).compensation.strength
        assert strength is not None or arm.name == "asgd"


def test_without_the_images_nothing_is_run(benchmark, tmp_path, capsys):
    benchmark.main(["--data-dir", str(tmp_path), "--directory", str(tmp_path / "runs")])
    assert "skipped: CIFAR-10 is not here" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_number_that_is_missing_is_no_difference(benchmark):
    assert benchmark.paired({1: 3.0, 2: None}, {1: 1.0, 2: 1.0}) == {"difference": 2.0, "interval": None, "pairs": 1}
    both = benchmark.paired({1: 3.0, 2: 5.0}, {1: 1.0, 2: 2.0, 3: 9.0})
    assert both["difference"] == 2.5
    assert both["interval"][0] == pytest.approx(2.5 - 12.7062 * 0.5, abs=1e-3)
    row = {"arm": "asgd", "rule": "asgd", "point": "best", "lr": 0.1, "mean": None, "sd": None, "diverged": 1}
    row |= {"seeds": [1], "difference": None, "interval": None}
    assert list(benchmark.table([row]))[-1] == "| asgd | best | 0.1 | - |  | 1 of 1 |"
    assert json.dumps(both)
