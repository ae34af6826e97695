"""Which pictures a page has, in which order, and what stands below each."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.quantities import listing, rate
from tardigrad.report.compensation import compensation
from tardigrad.report.curves import close_up, error_against
from tardigrad.report.forest import control_forest, forest
from tardigrad.report.paper import paper_table
from tardigrad.report.quality import quality
from tardigrad.report.rates import error_against_rate
from tardigrad.report.staleness import staleness, staleness_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page; ``name`` is its file's, without the ending."""

    name: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """As a page embeds it."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, slots=True)
class Offer:
    """A picture that may have nothing to show; ``otherwise`` is then said in its place, if anything."""

    name: str
    caption: str
    make: Callable[[], Figure | None]
    otherwise: str = ""


def draw(comparison: Comparison) -> tuple[list[Picture], list[str]]:
    """All pictures that have something to show, in order, and a sentence for each of the others.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    offers = _grid(comparison) if comparison.tuning is None else _tuned(comparison)
    drawn, without = [], []
    for offer in [*offers, *_mechanism(comparison)]:
        figure = offer.make()
        if figure is not None:
            drawn.append(Picture(offer.name, offer.caption, png(figure)))
        elif offer.otherwise:
            without.append(offer.otherwise)
    return drawn, without


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _grid(c: Comparison) -> list[Offer]:
    return [
        Offer(
            "learning-rate",
            _caption_rates(c),
            lambda: error_against_rate(c),
            "One learning rate was run, so there is no picture of the error against it.",
        ),
        *_curves(c),
    ]


def _tuned(c: Comparison) -> list[Offer]:
    best, recipe = (_caption_forest(c, where) for where in ("each at its own best point", _untouched(c)))
    trials = c.trials
    return [
        Offer("forest-best", best, lambda: forest(c, "best"), "No two best points can be held against each other yet."),
        Offer("forest-recipe", recipe, lambda: forest(c, "recipe"), "Nothing has run at the untouched recipe yet."),
        Offer("controls", _caption_controls(c), lambda: control_forest(c)),
        Offer(
            "learning-rate",
            _caption_trials(c),
            lambda: error_against_rate(trials, rings=True) if trials is not None else None,
            "No trial runs over several learning rates have validation data to show.",
        ),
        *_curves(c),
        Offer(
            "epochs-recipe",
            f"Learning curves on {c.split} data against epochs of samples applied, {_untouched(c)}."
            f"{_bands(c)}{_paper(c)}",
            lambda: error_against(c, "epoch", point="recipe"),
        ),
    ]


def _curves(c: Comparison) -> list[Offer]:
    clock = c.runs[0].clock
    return [
        Offer(
            "epochs",
            _caption_curves(c, "epochs of samples applied") + _paper(c),
            lambda: error_against(c, "epoch"),
            "No run has two evaluations yet, so there are no learning curves.",
        ),
        Offer("time", _caption_curves(c, f"{clock} time"), lambda: error_against(c, "time")),
        Offer(
            "paper",
            f"The same learning curves against epochs where the paper's figures show theirs.{_bands(c)}{_paper(c)}",
            lambda: close_up(c),
        ),
    ]


def _mechanism(c: Comparison) -> list[Offer]:
    late = staleness_run(c)
    return [
        Offer(
            "staleness",
            _CAPTION_STALENESS,
            lambda: staleness(late) if late is not None else None,
            "No run with several workers recorded its staleness.",
        ),
        Offer(
            "compensation",
            _CAPTION_COMPENSATION,
            lambda: compensation(c),
            "No run measured the size of its compensation.",
        ),
        Offer("quality", _CAPTION_QUALITY, lambda: quality(c)),
    ]


def _caption_rates(c: Comparison) -> str:
    return (
        f"Which rule tolerates what: {c.split} {c.metric.name}, mean of the last ten evaluations, against the learning "
        "rate. Lines: mean over seeds; faint dots: single seeds; crosses above: diverged runs, counted with what their "
        "weights reach. Points of one rate are drawn side by side."
    )


def _caption_trials(c: Comparison) -> str:
    seeds = c.tuning.plan.trial_seeds if c.tuning is not None else ()
    which = f"{'seed' if len(seeds) == 1 else 'seeds'} {listing([str(seed) for seed in seeds])}"
    return (
        f"What learning rates were chosen by: the trial runs ({which}), validation {c.metric.name}, mean of the last "
        "ten evaluations, against the learning rate. Rings: the chosen rate; crosses above: diverged runs. A rule's "
        "other strengths were tried at its ring and are told in the verdict. Points of one rate are drawn side by side."
    )


def _caption_forest(c: Comparison, where: str) -> str:
    better = "Left" if c.metric.lower_is_better else "Right"
    return (
        f"Paired differences in {c.split} {c.metric.name}, {where}. {better} of the line is better. Markers: mean over "
        "seeds, filled where the interval excludes 0; bars: Student-t 95 % interval, an arrow where it goes on beyond "
        "the frame. Trial runs take no part."
    )


def _caption_controls(c: Comparison) -> str:
    treated = c.tuning.plan.treated if c.tuning is not None else ""
    return _caption_forest(c, f"controls and asgd at the learning rate of {treated}, minus {treated}")


def _untouched(c: Comparison) -> str:
    return f"everything at the untouched recipe, learning rate {rate(c.recipe_lr)}"


def _caption_curves(c: Comparison, against: str) -> str:
    if c.tuning is not None:
        chosen = ", each algorithm at its own best point"
    else:
        chosen = ", each algorithm at the learning rate chosen for it" if len(c.lrs) > 1 else ""
    return f"Learning curves on {c.split} data against {against}{chosen}.{_bands(c)}"


def _bands(c: Comparison) -> str:
    return " Lines: mean over seeds; bands: from the best seed to the worst." if len(c.seeds) > 1 else ""


def _paper(c: Comparison) -> str:
    if paper_table(c) is None:
        return ""
    return (
        " Thin and greyish behind them: the paper's own curves, one run each, by the same colours; above the axes of "
        "its figures they are not known."
    )


_CAPTION_STALENESS = (
    "Staleness: commits between a worker's pull and the commit of its push. Where workers are equal and delays "
    "exponential, theory gives the geometric law."
)
_CAPTION_QUALITY = (
    "What probes found: gradients as each rule compensates them, against the gradient of the same samples at the "
    "weights of now. Left, how much of the raw gradient's error is left: below 1 the compensation helps. Right, the "
    "cosine: above the dashed line it helps. Dots: single probes, some beyond the frame; lines: running medians. All "
    "rules are judged along the one run, on the same gradients."
)
_CAPTION_COMPENSATION = (
    "Norm of the compensation over norm of its gradient. Dots: measured commits; lines: running medians. Near or "
    "above 1 the repair outweighs what it repairs."
)
