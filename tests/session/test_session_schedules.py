"""Schedules: a scheduler's table holds exactly the learning rates that plain PyTorch would use, step by step."""

import copy
import pickle

import pytest
import torch
from leasing_desk import Desk
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tardigrad.errors import InvalidArgument, SessionError
from tardigrad.session.loader import EpochClock
from tardigrad.session.schedules import ServedScheduler, rows_needed, table, unit_of


def optimizer(kind=SGD):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    return kind([{"params": parameters[:1], "lr": 0.3}, {"params": parameters[1:]}], lr=0.1)


SCHEDULERS = {
    "step": lambda own: StepLR(own, 2, gamma=0.5),
    "multi-step": lambda own: MultiStepLR(own, [2, 5], gamma=0.1),
    "exponential": lambda own: ExponentialLR(own, 0.9),
    "cosine": lambda own: CosineAnnealingLR(own, 8),
    "restarts": lambda own: CosineAnnealingWarmRestarts(own, 3),
    "lambda": lambda own: LambdaLR(own, [lambda step: 1 / (1 + step), lambda step: 0.5**step]),
    "warm-up then cosine": lambda own: SequentialLR(
        own, [LinearLR(own, 0.1, total_iters=3), CosineAnnealingLR(own, 6)], milestones=[3]
    ),
    "chained": lambda own: ChainedScheduler([ConstantLR(own, 0.5, 2), ExponentialLR(own, 0.9)]),
    "cyclic": lambda own: CyclicLR(own, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "one cycle": lambda own: OneCycleLR(own, 0.1, total_steps=10, cycle_momentum=False),
}


def rates(own):
    return tuple(group["lr"] for group in own.param_groups)


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("taken", [0, 2], ids=["new", "taken up"])
@pytest.mark.filterwarnings("ignore:Detected call")
def test_a_table_holds_plain_pytorchs_rates(make, taken):
    own = optimizer()
    scheduler = make(own)
    for _ in range(taken):
        scheduler.step()
    found = table(scheduler, own, 8)
    expected = [rates(own)]
    for _ in range(7):
        scheduler.step()
        expected.append(rates(own))
    assert [found[min(row, len(found) - 1)] for row in range(8)] == expected


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_making_a_table_changes_neither_scheduler_nor_optimizer(make, recwarn):
    own = optimizer()
    own.state[own.param_groups[0]["params"][0]]["momentum_buffer"] = buffer = torch.ones(2)
    scheduler = make(own)
    before = copy.deepcopy((own.state_dict()["param_groups"], scheduler.get_last_lr()))
    recwarn.clear()
    table(scheduler, own, 20)
    assert (own.state_dict()["param_groups"], scheduler.get_last_lr()) == before
    assert own.state[own.param_groups[0]["params"][0]]["momentum_buffer"] is buffer
    assert [str(warning.message) for warning in recwarn] == []


def test_no_tensor_is_copied(monkeypatch):
    own = optimizer()
    own.state[own.param_groups[0]["params"][0]]["momentum_buffer"] = torch.ones(2)
    for kind in (torch.Tensor, torch.nn.Parameter):
        monkeypatch.setattr(kind, "__deepcopy__", lambda *_: pytest.fail("a tensor was copied"))
    table(StepLR(own, 1), own, 3)


def test_a_table_ends_where_nothing_changes_any_more():
    own = optimizer()
    assert table(MultiStepLR(own, [1]), own, 100) == ((0.3, 0.1), (0.3 * 0.1, 0.1 * 0.1))
    assert table(LambdaLR(own, lambda step: 1.0), own, 500) == (rates(own),)


def test_a_table_ends_where_its_scheduler_does():
    own = optimizer()
    assert len(table(OneCycleLR(own, 0.1, total_steps=10, cycle_momentum=False), own, 100)) == 1 + 10
    own = optimizer()
    assert len(table(LambdaLR(own, lambda step: [1.0, 0.5, 0.2][step]), own, 100)) == 3


def test_a_table_ends_before_a_rate_below_zero_or_not_finite():
    own = optimizer()
    assert table(LambdaLR(own, lambda step: 1 - step / 2), own, 9)[-1] == (0.0, 0.0)
    own = optimizer()
    assert len(table(LambdaLR(own, lambda step: float("inf") if step == 4 else 1 / (1 + step)), own, 9)) == 4


def test_of_adams_other_numbers_none_is_mistaken_for_a_change():
    own = optimizer(Adam)
    assert len(table(ExponentialLR(own, 0.9), own, 5)) == 5


class Locked(LambdaLR):
    def __deepcopy__(self, memo):
        raise TypeError("it is locked")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda own: ReduceLROnPlateau(own), "needs a metric"),
        (lambda own: StepLR(optimizer(), 2), "belongs to another optimizer"),
        (lambda own: lambda step: 1.0, "takes a torch.optim.lr_scheduler.LRScheduler; function is none"),
        (lambda own: Locked(own, lambda step: 1.0), r"Locked cannot be copied \(it is locked\)"),
    ],
)
def test_what_has_no_table_is_refused_with_a_sentence(make, sentence):
    own = optimizer()
    with pytest.raises(SessionError, match=sentence):
        table(make(own), own, 5)


@pytest.mark.parametrize(
    ("make", "kind", "changed"),
    [
        (lambda own: OneCycleLR(own, 0.1, total_steps=10), SGD, "momentum"),
        (lambda own: OneCycleLR(own, 0.1, total_steps=10), Adam, "betas"),
        (lambda own: CyclicLR(own, 0.01, 0.1, step_size_up=3), SGD, "momentum"),
    ],
)
def test_a_scheduler_that_changes_more_than_rates_is_refused(make, kind, changed):
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    own = SGD(parameters, lr=0.1, momentum=0.9) if kind is SGD else Adam(parameters, lr=0.1)
    with pytest.raises(SessionError, match=rf"changes {changed} besides the learning rate.*cycle_momentum=False"):
        table(make(own), own, 5)


def test_units():
    assert unit_of("epoch", samples=1000, batch_size=32) == 1000
    assert unit_of("step", samples=1000, batch_size=32, accumulate=4) == 128
    assert unit_of("step", samples=None, batch_size=32) == 32
    with pytest.raises(SessionError, match="schedule='step'"):
        unit_of("epoch", samples=None, batch_size=32)
    with pytest.raises(InvalidArgument, match="epoch"):
        unit_of("batch", samples=10, batch_size=1)


def test_rows_are_enough_for_the_run():
    assert rows_needed("epoch", samples=1000, unit=1000, epochs=10) == 11
    assert rows_needed("step", samples=10, unit=4, epochs=2) == 7  # an epoch is three steps: 4, 4 and 2
    assert rows_needed("epoch", samples=1000, unit=1000, epochs=None) == 1_000
    assert rows_needed("step", samples=None, unit=4, epochs=3) == 100_000


def served(place, units=None):
    own, mirror = optimizer(), optimizer()
    clock = EpochClock(Desk(1, 1).link())
    return ServedScheduler(StepLR(own, 2, gamma=0.5), mirror, clock, place, units=units), mirror, clock


def test_step_is_refused_inside_a_loop_where_it_is_meant_once_an_epoch():
    scheduler, mirror, clock = served("epoch")
    scheduler.step()
    clock.begin()
    with pytest.raises(SessionError, match=r"schedule='step'"):
        scheduler.step()
    clock.end(early=False)
    scheduler.step()
    assert rates(mirror) == (0.3, 0.1)


def test_step_is_refused_outside_a_loop_where_it_is_meant_for_every_step():
    scheduler, _, clock = served("step")
    with pytest.raises(SessionError, match="Leave schedule='step' out"):
        scheduler.step()
    clock.begin()
    scheduler.step()


def test_step_takes_no_argument():
    scheduler, _, _ = served("epoch")
    with pytest.raises(SessionError, match="no argument"):
        scheduler.step(3)


def test_the_last_rates_are_the_mirrored_ones():
    scheduler, mirror, _ = served("epoch")
    mirror.param_groups[1]["lr"] = 0.025
    assert scheduler.get_last_lr() == [0.3, 0.025]


@pytest.mark.filterwarnings("ignore:Detected call")
def test_its_state_is_the_users_after_as_many_steps_as_the_run_has_come_to():
    scheduler, _, _ = served("epoch", units=lambda: 5)
    own = optimizer()
    plain = StepLR(own, 2, gamma=0.5)
    for _ in range(5):
        plain.step()
    assert scheduler.state_dict() == plain.state_dict()
    assert (scheduler.last_epoch, scheduler.gamma) == (5, 0.5)
    pickle.dumps(scheduler.state_dict())
    with pytest.raises(AttributeError):
        _ = scheduler.nothing_of_the_kind


def test_without_a_count_its_own_steps_count():
    scheduler, _, _ = served("epoch")
    assert scheduler.last_epoch == 0
    scheduler.step()
    scheduler.step()
    assert scheduler.last_epoch == 2


def test_loading_a_state_is_refused():
    scheduler, _, _ = served("epoch")
    with pytest.raises(SessionError, match=r"before session\.prepare"):
        scheduler.load_state_dict({})
