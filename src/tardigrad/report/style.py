"""What all pictures share: one colour, marker and line per algorithm, light background, labels beside the curves.

Colours are Okabe and Ito's (2008), those of controls Tol's (2021), told apart with every common colour blindness;
the marker repeats what the colour says, for print. matplotlib is imported when a picture is drawn, and only its
object interface is used: no window, no global figure, nothing to close.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tardigrad.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tardigrad.metrics.runs import Metric

INK, PALE, GRID = "#222222", "#767676", "#e4e4e4"

RC: Any = {
    "font.family": "DejaVu Sans", "font.size": 10.5, "axes.titlesize": 11.5, "axes.titlelocation": "left",
    "axes.titlepad": 10, "axes.labelsize": 10.5, "axes.labelcolor": INK, "axes.edgecolor": PALE,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.8, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "lines.linewidth": 1.8, "lines.markersize": 6, "savefig.dpi": 160, "figure.dpi": 100,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """How one algorithm is drawn in every picture."""

    colour: str
    marker: str
    line: str = "-"


LOOKS = {
    "sequential": Look("#000000", "s"),
    "ssgd": Look("#56b4e9", "v"),
    "ssgd-linear": Look("#0072b2", "^"),
    "asgd": Look("#d55e00", "o"),
    "staleness-lr": Look("#8c6d31", "P"),
    "dc-asgd-c": Look("#e69f00", "D"),
    "dc-asgd-a": Look("#009e73", "p"),
    "dc-asgd": Look("#b0508c", "*"),
    "dc-lowrank": Look("#4b2ca0", "8"),
    "m-synchronous": Look("#1f3f99", "<", "--"),
    "clipping": Look("#6b6b6b", "X", "--"),
    "sign-flipped": Look("#882255", "d", "--"),
    "sign-random": Look("#cc6677", "h", "--"),
    "its-length": Look("#332288", ">", "--"),
    "its-direction": Look("#117733", "H", "--"),
}
_OTHERS = (
    Look("#6a3d9a", "X", "--"),
    Look("#7a7a7a", "h", "--"),
    Look("#b15928", "<", "--"),
    Look("#1b6f5c", ">", "--"),
    Look("#c0392b", "d", "--"),
    Look("#34495e", "H", "--"),
)


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look per label: the known ones keep theirs everywhere, others take theirs in order of appearance."""
    result = {label: LOOKS[label] for label in labels if label in LOOKS}
    others = [label for label in dict.fromkeys(labels) if label not in LOOKS]
    return result | {label: _OTHERS[i % len(_OTHERS)] for i, label in enumerate(others)}


def greyish(colour: str) -> str:
    """A colour half way to light grey, for what stands behind: ``#000000`` becomes ``#5f5f5f``.

    >>> greyish("#000000")
    '#5f5f5f'
    """
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{(channel + 0xBE) // 2:02x}" for channel in channels)


@contextmanager
def drawing(width: float = 8.0, height: float = 4.6) -> Iterator[Figure]:
    """A figure of that many inches, drawn in the shared style.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="report", purpose="a picture") from error
    with matplotlib.rc_context(RC):
        yield Figure(figsize=(width, height), layout="constrained")


_DECADES = 1e6  # the largest ratio of two values on one axis


def value_axis(axis: Axes, metric: Metric, values: Sequence[float], *, close: bool = False) -> None:
    """Name the y axis and scale it: logarithmic where values span more than a factor of 6, else linear from 0.

    1 % and 92 % stand in one picture; on a linear axis all that is good would be one line at the bottom. ``close``: a
    linear axis begins near the lowest value instead, because small differences are what is looked for.
    """
    axis.set_ylabel(metric.axis)
    positive = [v for v in values if v > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    if metric.lower_is_better and high > low * _DECADES:
        high = low * _DECADES  # a curve on its way to infinity leaves at the top, and must not flatten all others
        axis.set_ylabel(f"{metric.axis}; above {high:.1g} not shown")
    if metric.lower_is_better and high / low > 6 and min(values) >= 0:
        if min(values) > 0:
            axis.set_yscale("log")
        else:  # a perfect score has no logarithm: below the smallest other one the axis is linear
            axis.set_yscale("symlog", linthresh=low, linscale=0.4)
        axis.set_ylim(low / 1.3 if min(values) > 0 else -0.15 * low, high * 1.25)
        plain_ticks(axis.yaxis, low / 1.3, high * 1.25)
    elif close:
        margin = 0.06 * (max(values) - min(values)) or 0.1 * high
        axis.set_ylim(min(values) - margin, max(values) + margin)
    elif min(values) >= 0:
        axis.set_ylim(0, high * 1.06)


def plain_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks at 1, 2, 5, 10, ... written as plain numbers, on a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    steps = (1, 2, 5) if high / low < 2e3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axis.set_major_locator(FixedLocator([s * 10.0**p for p in powers for s in steps]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def whole_ticks(axis: Any) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def label_ends(axis: Axes, ends: Sequence[tuple[str, float, Look]], *, gap: float = 0.062) -> None:
    """Write each curve's name to the right of the axes at the height of its end; crowded names are moved apart.

    Args:
        axis: its y scale and limits must be final.
        ends: name, y of the curve's right end, look.
        gap: least distance of two names, as a fraction of the axes' height.
    """
    to_axes = axis.transData + axis.transAxes.inverted()
    wanted = [min(1.0, max(0.0, float(to_axes.transform((1.0, y))[1]))) for _, y, _ in ends]
    placed = spread_out(wanted, gap=gap)
    for (name, _, look), here, there in zip(ends, wanted, placed, strict=True):
        axis.plot(
            [1.005, 1.03, 1.045], [here, there, there], transform=axis.transAxes, color=look.colour,
            linewidth=0.8, clip_on=False, zorder=1,
        )  # fmt: skip
        axis.plot(
            [1.06], [there], transform=axis.transAxes, color=look.colour, marker=look.marker, clip_on=False,
            linestyle="",
        )  # fmt: skip
        size = 10.5 if len(name) < 26 else 8.0
        axis.text(1.08, there, name, transform=axis.transAxes, color=look.colour, va="center", fontsize=size)


def spread_out(wanted: Sequence[float], *, gap: float) -> list[float]:
    """The places in [0, 1] nearest to ``wanted`` that keep ``gap``: names that touch are centred as one block.

    >>> [round(place, 2) for place in spread_out([0.5, 0.5, 0.9], gap=0.1)]
    [0.45, 0.55, 0.9]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # sum of what is wanted, how many
    for i in order:
        blocks.append((wanted[i], 1))
        while len(blocks) > 1 and _top(blocks[-2], gap) + gap > _bottom(blocks[-1], gap) + 1e-9:
            above, below = blocks.pop(), blocks.pop()
            blocks.append((above[0] + below[0], above[1] + below[1]))
    places = [_bottom(block, gap) + k * gap for block in blocks for k in range(block[1])]
    return [place for _, place in sorted(zip(order, places, strict=True))]


def _bottom(block: tuple[float, int], gap: float) -> float:
    total, count = block
    height = (count - 1) * gap
    return max(0.0, min(total / count - height / 2, 1.0 - height))


def _top(block: tuple[float, int], gap: float) -> float:
    return _bottom(block, gap) + (block[1] - 1) * gap
