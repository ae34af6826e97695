"""Law books: what every rule, consistency, engine and transport must keep, as functions that raise AssertionError.

They use no test framework: call them from the tests of your own package. ::

    import tardigrad
    from tardigrad.testing import check_consistency, check_engine, check_rule, check_transport

    tardigrad.register_rule("mine", Mine)
    check_rule("mine(alpha=0.5)")
    check_consistency("ssp(2)", bound=2)
    check_engine("local")
    check_transport("stream")
"""

from tardigrad.testing.consistency import check_consistency
from tardigrad.testing.engines import ENGINE_LAWS, check_engine
from tardigrad.testing.rules import RULE_LAWS, check_rule
from tardigrad.testing.transports import TRANSPORT_LAWS, check_transport

__all__ = [
    "ENGINE_LAWS",
    "RULE_LAWS",
    "TRANSPORT_LAWS",
    "check_consistency",
    "check_engine",
    "check_rule",
    "check_transport",
]
