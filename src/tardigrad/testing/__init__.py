"""Law books: what every rule, consistency and engine must keep, as functions that raise AssertionError.

They use no test framework: call them from the tests of your own package. ::

    import tardigrad
    from tardigrad.testing import check_consistency, check_engine, check_rule

    tardigrad.register_rule("mine", Mine)
    check_rule("mine(alpha=0.5)")
    check_consistency("ssp(2)", bound=2)
    check_engine("local")
"""

from tardigrad.testing.consistency import check_consistency
from tardigrad.testing.engines import ENGINE_LAWS, check_engine
from tardigrad.testing.rules import RULE_LAWS, check_rule

__all__ = ["ENGINE_LAWS", "RULE_LAWS", "check_consistency", "check_engine", "check_rule"]
