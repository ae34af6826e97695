"""Schedules: factors on the learning rate, by epochs of samples applied."""

import math

import pytest
import torch

import tardigrad
from tardigrad.errors import InvalidArgument
from tardigrad.schedules import SCHEDULES, build_schedule


def values(spec, epochs, **keywords):
    return [pytest.approx(build_schedule(spec, **keywords).factor(epoch), rel=1e-12) for epoch in epochs]


def test_constant():
    assert values("constant", [0, 1, 1000]) == [1.0, 1.0, 1.0]


def test_step_is_the_papers_ten_times_less_after_80_and_120_epochs():
    assert values("step(at=(80, 120))", [0, 79.999, 80, 119.99, 120, 1000]) == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert values("step(at=[1], gamma=0.5)", [0.5, 1]) == [1, 0.5]
    assert values("step", [0, 5]) == [1, 1]


def test_cosine():
    assert values("cosine(epochs=10)", [0, 5, 10, 20]) == [1.0, 0.5, 0.0, 0.0]
    assert values("cosine(epochs=10, final=0.2)", [0, 2.5, 10]) == [1.0, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.2]


def test_linear():
    assert values("linear(epochs=10)", [0, 2.5, 10, 20]) == [1.0, 0.75, 0.0, 0.0]
    assert values("linear(epochs=10, final=0.5)", [0, 5, 10]) == [1.0, 0.75, 0.5]


def test_warm_up_rises_in_a_line_to_the_schedules_own_factor():
    assert values("constant", [0, 0.5, 1, 2], warmup=2.0) == [0, 0.25, 0.5, 1]
    assert values("step(at=(1,), gamma=0.1)", [0.5, 1, 2, 3], warmup=2.0) == [0.25, 0.05, 0.1, 0.1]
    assert values("constant", [0, 1], warmup=0.0) == [1, 1]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_starts_at_one_and_is_never_negative(name):
    spec = name if name in ("constant", "step") else f"{name}(epochs=3.0)"
    schedule = build_schedule(spec)
    assert schedule.factor(0.0) == 1.0
    assert min(schedule.factor(epoch / 10) for epoch in range(100)) >= 0.0


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("step(at=5)", "not a list of epochs"),
        ("step(at=(2, 1))", "must rise"),
        ("step(at=(-1,))", r"at=-1 is not a number in \[0, inf\]"),
        ("step(at=(1,), gamma=0)", "gamma=0 is not a number"),
        ("step(gamma=nan)", "gamma=nan is not a number"),
        ("cosine(epochs=0)", "epochs=0 is not a number"),
        ("cosine(epochs=1, final=2)", r"final=2 is not a number in \[0, 1\]"),
        ("linear(epochs=-1)", "epochs=-1"),
        ("linear", "epochs"),
        ("cosine(epochs=1, end=0)", "has no keyword 'end'"),
        ("cosin(epochs=1)", "Did you mean 'cosine'"),
    ],
)
def test_values_without_meaning_are_refused(spec, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        build_schedule(spec)


@pytest.mark.parametrize("warmup", [-1.0, float("nan"), float("inf")])
def test_a_warm_up_without_meaning_is_refused(warmup):
    with pytest.raises(InvalidArgument, match="warm"):
        build_schedule("constant", warmup=warmup)


@pytest.mark.parametrize("samples", [1, 4, 10])
def test_the_servers_clock_is_samples_applied(samples):
    """The same schedule for any batch size and number of workers: a rate is read off the samples before its commit."""
    schedule = build_schedule("step(at=(1,), gamma=0.1)")
    server = tardigrad.ParameterServer(
        [torch.zeros(1)], tardigrad.rule("asgd"), lr=lambda applied: 0.5 * schedule.factor(applied / 20), workers=3
    )
    for push in range(40 // samples):
        commit = server.push(push % 3, [torch.ones(1)], samples=samples)
        assert commit.lr == pytest.approx(0.5 if push * samples < 20 else 0.05)
    assert server.samples_applied == 40 // samples * samples
    assert server.lr == pytest.approx(0.05)
