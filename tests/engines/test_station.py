"""Station: when a worker counts as hung, whatever the clock says it is."""

import pytest
import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.engines.base import Limits
from tardigrad.engines.local.processes import Duty
from tardigrad.engines.local.station import Station
from tardigrad.layout import FlatLayout
from tardigrad.records import Lease
from tardigrad.transports.slots import Order, ServerEnd, SlotLayout, WorkerEnd, ends

LIMITS = Limits(hang_after=1.0, first_step=10.0)
ORDER = Order(0, 0, Lease(0, 0, 8))


@pytest.fixture
def station():
    """One whose process is this one."""
    layout = SlotLayout.of(FlatLayout.of([torch.zeros(3)]), {})
    made = Station(Duty(0, Blueprint("digits", 0, Arithmetic())), layout)
    mine, theirs = ends()
    made.end, made.other = ServerEnd(mine), WorkerEnd(theirs)
    yield made
    made.close()
    mine.close()
    theirs.close()


def ordered(station, now, *steps):
    """Steps that took so long, then an order at ``now``."""
    for seconds in steps:
        station.order(ORDER, now, LIMITS)
        station.pushed(seconds, now)
    station.order(ORDER, now, LIMITS)


def test_the_first_gradient_of_a_life_may_take_long(station):
    ordered(station, 100.0)
    assert not station.is_overdue(110.0)
    assert station.is_overdue(110.1)


def test_a_later_one_is_given_less(station):
    ordered(station, 100.0, 0.01)
    assert not station.is_overdue(101.0)
    assert station.is_overdue(101.1)


def test_slow_workers_are_given_twenty_times_their_median(station):
    ordered(station, 100.0, 0.5, 0.2, 0.1)
    assert not station.is_overdue(104.0)
    assert station.is_overdue(104.1)


@pytest.mark.parametrize(("steps", "patience"), [((), 10.0), ((0.01,), 1.0), ((0.2,), 4.0)])
def test_time_in_which_the_machine_stood_still_does_not_count(station, steps, patience):
    ordered(station, 100.0, *steps)
    station.postpone(7.0)
    station.postpone(1.0)
    assert not station.is_overdue(108.0 + patience)
    assert station.is_overdue(108.1 + patience)


def test_what_was_postponed_is_of_one_order_only(station):
    ordered(station, 100.0, 0.2)
    station.postpone(50.0)
    ordered(station, 200.0, 0.2)
    assert station.is_overdue(204.1)


def test_who_waits_is_never_overdue(station):
    ordered(station, 100.0, 0.01)
    station.pushed(0.01, 100.5)
    assert not station.is_overdue(1e9)


def test_an_order_arrives_and_one_to_a_worker_that_is_gone_does_no_harm(station):
    ordered(station, 100.0)
    assert station.other.receive() == ORDER
    station.other._end.close()
    station.order(ORDER, 101.0, LIMITS)
    assert station.view(101.0).state == "ended"
    assert not station.is_free
