"""Rules: a compensation (what a late gradient becomes) and an optimizer (the step it makes)."""

from __future__ import annotations

from tardigrad.specs import Registry

COMPENSATIONS = Registry(
    "rule",
    {
        "asgd": "tardigrad.rules.asgd:ASGD",
        "dc-asgd": "tardigrad.rules.dc_asgd:DCASGD",
        "dc-lowrank": "tardigrad.rules.dc_lowrank:DCLowRank",
        "dc-asgd-c": "tardigrad.rules.dc_asgd:DCASGDConstant",
        "dc-asgd-a": "tardigrad.rules.dc_asgd:DCASGDAdaptive",
        "staleness-lr": "tardigrad.rules.staleness_lr:StalenessLR",
        "sign-flipped": "tardigrad.rules.controls:SignFlipped",
        "sign-random": "tardigrad.rules.controls:SignRandom",
        "its-length": "tardigrad.rules.controls:ItsLength",
        "its-direction": "tardigrad.rules.controls:ItsDirection",
        "clipping": "tardigrad.rules.clipping:Clipping",
    },
    group="tardigrad.rules",
)


def register_rule(name: str, compensation: object) -> None:
    """Make a compensation known by a name, for this process.

    Args:
        name: letters, digits, '-', '_' and '.'; not a built-in one.
        compensation: a class made after `tardigrad.Compensation`, or ``"module:Class"``.

    A package makes its rules known to every process by the entry-point group ``tardigrad.rules``.
    """
    COMPENSATIONS.register(name, compensation)
