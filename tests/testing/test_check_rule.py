"""The law book of rules catches each kind of broken rule, by the name of the law, and passes strangers that keep it."""

from collections import Counter
from dataclasses import dataclass, make_dataclass

import pytest
import torch

import tardigrad
from tardigrad.errors import UnknownName
from tardigrad.scopes import PER_WORKER
from tardigrad.testing import RULE_LAWS, check_rule


def stranger(name, compensate, **attributes):
    """Register a compensation made of one function, and return its name."""
    spec = attributes.pop("state", {})
    namespace = {"name": name, "compensate": compensate, "state_spec": lambda self: spec, **attributes}
    made = make_dataclass(name, [], bases=(tardigrad.Compensation,), namespace=namespace, frozen=True)
    tardigrad.register_rule(name, made)
    return name


def scribble(self, g, w, backup, state, facts):
    return g.mul_(2.0), {}


def scribble_on_state(self, g, w, backup, state, facts):
    return g, {"seen": state["seen"].add_(g)}


def widen(self, g, w, backup, state, facts):
    return g.double(), {}


def flatten(self, g, w, backup, state, facts):
    return torch.cat([g, g])[: g.numel() - 1], {}


def invent(self, g, w, backup, state, facts):
    return g, {"memory": g.clone()}


def forget_when_fresh(self, g, w, backup, state, facts):
    return (g, {}) if facts.staleness == 0 else (g, {"seen": state["seen"] + g})


def peek(self, g, w, backup, state, facts):
    return g + 0.1 * (w - backup), {}


CALLS = Counter()


def remember(self, g, w, backup, state, facts):
    CALLS["remember"] += 1
    return g * (1.0 + 0.01 * CALLS["remember"]), {}


def draw(self, g, w, backup, state, facts):
    return g * (1.0 + 0.01 * torch.randn_like(g)), {}


def average(self, g, w, backup, state, facts):
    return g if facts.staleness == 0 else g - g.mean(), {}


def normalise(self, g, w, backup, state, facts):
    return (g, {}) if facts.staleness == 0 else (g / g.norm(), {})


def shift(self, g, w, backup, state, facts):
    return g + 0.01, {}


def halve(self, g, w, backup, state, facts):
    return g / 2, {}


def ascend(self, g, w, backup, state, facts):
    return (g, {}) if facts.staleness == 0 else (-g, {})


def otherwise_when_traced(self, g, w, backup, state, facts):
    if facts.staleness == 0:
        return g, {}
    return g * (1.001 if torch.compiler.is_compiling() else 1.0), {}


BROKEN = [
    ("scribble", scribble, {}, "touches only its results", "writes into 'g'"),
    ("scribble-on-state", scribble_on_state, {"state": {"seen": PER_WORKER}}, "touches only", "writes into 'seen'"),
    ("widen", widen, {}, "touches only its results", "torch.float64"),
    ("flatten", flatten, {}, "touches only its results", "returns the gradient as"),
    ("invent", invent, {}, "touches only its results", r"returns the state \['memory'\]"),
    ("forgetful", forget_when_fresh, {"state": {"seen": PER_WORKER}}, "touches only", "at staleness 0 too"),
    ("peek", peek, {}, "reads only what it declares", "declare reads_backup = True"),
    ("remember", remember, {}, "function of its arguments", "keep state in state_spec"),
    ("draw", draw, {}, "function of its arguments", "ends elsewhere"),
    ("average", average, {}, "does not depend on chunks", "its scope is not 'element'"),
    ("normalise", normalise, {"scope": "tensor"}, "touches only|finite at zero", "not finite"),
    ("shift", shift, {}, "is finite at zero", "gaps"),
    ("halve", halve, {}, "equals its baseline when fresh", "differs from asgd's"),
    ("ascend", ascend, {}, "converges at every staleness", "at staleness 1"),
    ("two-ways", otherwise_when_traced, {}, "compiled equals exact", "off by"),
    ("unknown-scope", halve, {"scope": "galaxy"}, "declares what it needs", "'galaxy' is not one of"),
    ("unknown-sharing", halve, {"state": {"seen": "everyone"}}, "declares what it needs", "PER_WORKER or SHARED"),
    ("unknown-baseline", halve, {"baseline": "adgd"}, "declares what it needs", "Did you mean 'asgd'"),
]


@pytest.mark.parametrize(("name", "compensate", "attributes", "law", "sentence"), BROKEN, ids=[b[0] for b in BROKEN])
def test_a_broken_rule_is_named_with_its_law(name, compensate, attributes, law, sentence, needs_compiler):
    spec = stranger(name, compensate, **attributes)
    with pytest.raises(AssertionError, match=f"{name} breaks the law '.*({law}).*{sentence}"):
        check_rule(spec)


def test_every_other_law_is_broken_by_some_rule_above():
    covered = [law for law in RULE_LAWS for row in BROKEN if any(p in law for p in row[3].split("|"))]
    assert set(RULE_LAWS) - set(covered) == {
        "is written whole in its spec",  # below
        "does not depend on neighbours",  # below
        "continues from a state",  # below
    }


def move_with_the_tensor(self, g, w, backup, state, facts):
    return (g, {}) if facts.staleness == 0 else (g / (1.0 + (w - backup).norm()), {})


def test_a_stranger_of_tensor_scope_passes():
    check_rule(stranger("tensorwise", move_with_the_tensor, scope="tensor", reads_backup=True))


def test_neighbours_are_found_out_even_where_chunks_are_not_tried():
    with pytest.raises(AssertionError, match=r"without the others; scope .model."):
        check_rule(stranger("neighbourly", average), laws=["does not depend on neighbours"])


def test_what_a_state_leaves_out_is_found():
    with pytest.raises(AssertionError, match=r"a restored server .* goes elsewhere"):
        check_rule(stranger("remember-2", remember), laws=["continues from a state"])


def test_a_rule_that_its_spec_does_not_find_cannot_be_written_down():
    made = tardigrad.rule(stranger("two-faced", halve))
    type(made.compensation).name = "never-registered"
    with pytest.raises(AssertionError, match=r"cannot be built again.*Register it under its own name"):
        check_rule(made, laws=["is written whole in its spec"])


@dataclass(frozen=True)
class Halving(tardigrad.Compensation):
    """Keeps half of what it is given, so that what is written down is not what was asked for."""

    name = "halving"
    amount: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "amount", self.amount / 2)

    def compensate(self, g, w, backup, state, facts):
        return g, {}


def test_a_keyword_that_is_kept_as_another_value_is_found():
    tardigrad.register_rule("halving", Halving)
    with pytest.raises(AssertionError, match="builds a different rule"):
        check_rule("halving")


def test_a_keyword_that_is_no_field_is_found():
    class Hidden(tardigrad.rule("dc-asgd-c").compensation.__class__):
        name = "hidden"

        def __init__(self, lambda0=1.0, secret=3):
            object.__setattr__(self, "lambda0", lambda0)
            object.__setattr__(self, "clip_compensation", None)
            object.__setattr__(self, "damped", False)

    tardigrad.register_rule("hidden", Hidden)
    with pytest.raises(AssertionError, match=r"leaves out \['secret'\]"):
        check_rule("hidden")


@dataclass(frozen=True)
class GapAware(tardigrad.Compensation):
    """With a number over the whole vector: the gradient divided by 1 + distance / scale."""

    name = "gap-aware-test"
    reads_backup = True
    read_passes = 1
    scale: float = 1.0

    def measure(self, g, w, backup, state, facts):
        return {"square": (w - backup).double().square().sum()}

    def conclude(self, sums, facts):
        return {"gap": sums["square"] ** 0.5}

    def compensate(self, g, w, backup, state, facts):
        return (g, {}) if facts.staleness == 0 else (g / (1.0 + facts.measured["gap"] / self.scale), {})


def test_a_stranger_with_a_read_pass_passes():
    tardigrad.register_rule("gap-aware-test", GapAware)
    check_rule("gap-aware-test(scale=2.0)")
    eager = [law for law in RULE_LAWS if law != "compiled equals exact"]
    check_rule("gap-aware-test", lr=0.005, laws=eager)
    check_rule(lambda: tardigrad.rule("gap-aware-test", momentum=0.9), lr=0.005, laws=eager)


def test_an_unknown_law_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'is finite at zero'"):
        check_rule("asgd", laws=["is finite at zer0"])


def test_a_single_law_can_be_checked_alone():
    check_rule(stranger("halve-2", halve), laws=["is finite at zero"])
