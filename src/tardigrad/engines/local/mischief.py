"""Mischief: faults that come to a worker from outside. (Those of its own code travel with its order.)"""

from __future__ import annotations

import signal

from tardigrad.engines.local.keeper import Keeper
from tardigrad.engines.local.timers import Timers
from tardigrad.faults import Fault, FaultPlan

_GUESSED_STEP = 0.01  # seconds; of a worker that has not pushed yet


def bring_about(fault: Fault, station: Keeper, timers: Timers, *, now: float) -> None:
    """Have a worker, which has just been given an order, killed in the middle of its step, stand still, or cut off."""
    if fault.kind == "kill":
        moment = now + fault.moment * (station.median_step or _GUESSED_STEP)
        _signal_at(moment, station, signal.SIGKILL, timers)
    elif fault.kind == "pause":
        station.signal(signal.SIGSTOP)
        _signal_at(now + fault.seconds, station, signal.SIGCONT, timers)
    elif fault.kind == "cut":
        station.lodging.cut(fault.seconds)


def hold_up(faults: FaultPlan, station: Keeper, gradient: int) -> None:
    """Before the order for this gradient: from now on what passes the worker's link is as late as the plan says."""
    if faults.delays:
        station.lodging.slow_down(faults.latency(station.worker, gradient))


def _signal_at(moment: float, station: Keeper, number: signal.Signals, timers: Timers) -> None:
    """Send a signal then, if the worker still lives the same life."""
    incarnation = station.incarnation

    def send() -> None:
        if station.incarnation == incarnation:
            station.signal(number)

    timers.add(moment, send)
