"""How numbers are written: the same in the verdict, the table and the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from tardigrad.metrics.cells import Paired, Stat
from tardigrad.metrics.runs import Metric

NONE = "n/a"


def number(value: float | None, metric: Metric) -> str:
    """A value in the metric's displayed unit, without the unit: two decimals below 10 %, one above."""
    if value is None:
        return NONE
    if metric.unit != "%":
        return f"{value:.4g}"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def with_unit(value: float | None, metric: Metric) -> str:
    """The same with the unit."""
    text = number(value, metric)
    return f"{text} {metric.unit}" if metric.unit and value is not None else text


def spread(stat: Stat, metric: Metric, *, unit: bool = True) -> str:
    """``1.33 ± 0.25 %``; without the spread for one seed."""
    tail = f" {metric.unit}" if unit and metric.unit and stat.mean is not None else ""
    if stat.mean is None or stat.std is None:
        return number(stat.mean, metric) + tail
    return f"{number(stat.mean, metric)} ± {number(stat.std, metric)}{tail}"


def points(value: float, metric: Metric) -> str:
    """A difference: ``1.20 points`` for a metric in percent, else the number and its unit."""
    if metric.unit == "%":
        text = number(value, metric)
        return f"{text} point" if text == "1.00" else f"{text} points"
    return f"{value:.3g} {metric.unit}".strip()


def interval(paired: Paired, metric: Metric, *, flip: bool = False) -> str:
    """``0.40 to 2.00``; ``flip`` gives the interval of the opposite difference."""
    if paired.interval is None:
        return NONE
    low, high = paired.interval
    low, high = (-high, -low) if flip else (low, high)
    return f"{_signed(low, metric)} to {_signed(high, metric)}"


def seconds(value: float | None) -> str:
    """``160 s``, ``12 min``, ``3.4 h``: at least two figures."""
    if value is None:
        return NONE
    for unit, size, least in (("h", 3600.0, 7200.0), ("min", 60.0, 600.0)):
        if value >= least:
            return f"{figures(value / size)} {unit}"
    return f"{figures(value)} s"


def rate(lr: float | None) -> str:
    """A learning rate: the shortest form."""
    return NONE if lr is None else f"{lr:g}"


def listing(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def counted(n: int, word: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _signed(value: float, metric: Metric) -> str:
    text = number(value, metric) if metric.unit == "%" else f"{value:.3g}"
    return "0.00" if text == "-0.00" else text


def figures(value: float) -> str:
    """Two figures, or all before the point: ``1.7``, ``12``, ``340``."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
