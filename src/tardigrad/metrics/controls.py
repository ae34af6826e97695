"""What controls say about a rule's gain: is it direction, or length of steps? Decided by paired intervals only."""

from __future__ import annotations

from collections.abc import Callable

from tardigrad.metrics.cells import Cell
from tardigrad.metrics.comparison import Comparison
from tardigrad.metrics.contrasts import Contrast, beyond_half, contrast, controls_against, plain_beside, treated_cell
from tardigrad.metrics.quantities import counted, points, spread
from tardigrad.metrics.relations import amount_words, diverged_words, evidence, place_words, seeds_words, with_workers
from tardigrad.metrics.tuned_plan import POINTS, Point

_POINT = {"best": "at {}'s best point", "recipe": "at the untouched recipe"}


def control_sentences(c: Comparison) -> list[str]:
    """Per worker count and point: where the rule and ``asgd`` stand, then each control and what follows from it."""
    result: list[str] = []
    for workers in c.worker_counts:
        for point in POINTS:
            treated = treated_cell(c, workers, point)
            found = controls_against(c, workers, point)
            if treated is None or not found or _told_already(c, workers, point):
                continue
            result.append(_lead(c, treated, point))
            result += [_control(c, one) for one in found]
    return result


def _told_already(c: Comparison, workers: int, point: Point) -> bool:
    """Where a rule's best point is the untouched recipe, one set of runs serves both."""
    plan = c.tuning.plan if c.tuning is not None else None
    return point == "recipe" and plan is not None and plan.one_point(plan.treated, workers)


def _lead(c: Comparison, treated: Cell, point: Point) -> str:
    where = _POINT[point].format(treated.label)
    ends = f"{spread(treated.last_ten(c.split), c.metric)}{diverged_words(treated)}"
    first = f"{with_workers(treated.workers)}, {where} ({place_words(c, treated)}): {treated.label} ends at {ends}"
    asgd = plain_beside(c, treated)
    if asgd is None:
        return f"{first}; asgd was not run at this learning rate with these seeds."
    found = contrast(c, asgd, treated)
    level = f"{spread(asgd.last_ten(c.split), c.metric)}{diverged_words(asgd)}"
    return f"{first}, asgd at the same learning rate at {level}: {_against(c, found)}."


def _control(c: Comparison, found: Contrast) -> str:
    """``sign-flipped ends 12.0 points worse than dc-asgd-a (...): the direction of its compensation matters.``"""
    conclude = _CONCLUSIONS.get(found.cell.label)
    follows = conclude(c, found) if conclude is not None else ""
    name = f"{found.cell.label}{_WHAT.get(found.cell.label, '')}"
    return f"{name} ends {_against(c, found)}{': ' if follows else ''}{follows}."


def _against(c: Comparison, found: Contrast) -> str:
    """``1.20 points worse than dc-asgd-a (95 % interval 0.40 to 2.00; needs 4 seeds)``."""
    if found.paired is None:
        return f"without a number to compare with {found.reference.label}{diverged_words(found.cell)}"
    notes = [evidence(c, found), *seeds_words(c, found)]
    notes += ["within noise"] if found.kind == "noise" else []
    notes += [diverged_words(found.cell).strip(" ()")] if found.cell.diverged else []
    return f"{amount_words(c, found.paired)} than {found.reference.label} ({'; '.join(notes)})"


def _undecided(found: Contrast, what: str) -> str:
    why = {"noise": "", "diverged": ", because runs diverged", "one": ", from one seed", "none": ""}[found.kind]
    return f"whether {what} is not decided{why}"


def _sign(c: Comparison, found: Contrast) -> str:
    rule = found.reference.label
    if found.kind == "worse":
        return f"the direction of {rule}'s compensation matters"
    if found.kind == "better":
        return f"here {rule}'s compensation points the wrong way"
    return _undecided(found, f"the direction of {rule}'s compensation matters")


def _length(c: Comparison, found: Contrast) -> str:
    """asgd's gradient, made as long as the rule's: what is then left of the rule's lead is its direction."""
    treated, asgd = found.reference, plain_beside(c, found.reference)
    lead = contrast(c, treated, asgd) if asgd is not None else None
    leads = lead is not None and lead.kind == "better"
    most = asgd is not None and leads and beyond_half(c, found.cell, treated, asgd)
    mostly = f"most of {treated.label}'s lead over asgd at this learning rate is the length of its steps"
    if found.kind == "worse":
        worth = f"beside their length, the direction of {treated.label}'s steps matters"
        return f"{worth}, though {mostly}" if most else worth
    if found.kind == "better":
        return f"a plain gradient of {treated.label}'s length does better than {treated.label} itself"
    if found.kind == "noise" and most:
        seeds = counted(found.seeds, "seed")
        return f"with steps of that length asgd does as well, as far as {seeds} show, and {mostly}"
    return _undecided(found, f"the direction of {treated.label}'s steps adds anything to their length")


def _direction(c: Comparison, found: Contrast) -> str:
    """The rule's gradient, made as long as asgd's: what is then lost is the length's."""
    treated, asgd = found.reference, plain_beside(c, found.reference)
    gain = contrast(c, found.cell, asgd) if asgd is not None else None
    alone = ""
    if gain is not None and gain.paired is not None and gain.kind == "better":
        gained = points(abs(gain.paired.mean), c.metric)
        alone = f"; its direction alone leads asgd at this learning rate by {gained} ({evidence(c, gain)})"
    if found.kind == "worse":
        return f"the length of {treated.label}'s steps matters{alone}"
    if found.kind == "better":
        return f"{treated.label}'s direction does better with asgd's step length{alone}"
    return _undecided(found, f"the length of {treated.label}'s steps matters") + alone


def _clipping(c: Comparison, found: Contrast) -> str:
    rule = found.reference.label
    if found.kind == "worse":
        return f"{rule} does more than clipping gradients does"
    if found.kind == "better":
        return f"clipping gradients does better than {rule}"
    return _undecided(found, f"{rule} does more than clipping gradients does")


_WHAT = {
    "sign-flipped": " (the compensation with its sign flipped)",
    "sign-random": " (the compensation with random signs)",
    "its-length": " (asgd's gradient at its step length)",
    "its-direction": " (its direction at asgd's step length)",
    "clipping": " (plain gradients clipped, tuned for itself)",
}
_CONCLUSIONS: dict[str, Callable[[Comparison, Contrast], str]] = {
    "sign-flipped": _sign,
    "sign-random": _sign,
    "its-length": _length,
    "its-direction": _direction,
    "clipping": _clipping,
}
