"""Every registered rule, with its safeguards and with every optimizer, keeps the laws of a rule."""

import re

import pytest

import tardigrad
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.rules import COMPENSATIONS
from tardigrad.specs import Spec, keywords_of
from tardigrad.testing import RULE_LAWS, check_rule

NAMES = COMPENSATIONS.names()
# What is tried where a rule has the keywords for it.
COMPENSATION_VARIANTS = [
    {"lambda0": 0.0},
    {"damped": True},
    {"clip_compensation": 1.0},
    {"damped": True, "clip_compensation": 0.1},
    {"mean_square_decay": 0.0},
    {"shared": True},
    {"power": 0.5},
    {"of": "dc-asgd-c"},
    {"of": "dc-asgd-a(shared=True, damped=True)"},
    {"of": "staleness-lr"},
    {"of": "dc-lowrank(window=5)"},
    {"seed": 7},
    {"max_norm": 0.1},
    {"lambda0": "auto"},
    {"kappa": "auto"},
    {"kappa": 1.0, "window": 3},
    {"scale": 4.0, "window": 20},
    {"kept": "bfloat16"},
]
ALONE = {"lambda0", "kappa", "window", "scale", "kept"}
"""Options that numpy does not compute again, at least not with these values."""
# (keywords, learning rate): a velocity multiplies the step by 1 / (1 - momentum).
OPTIMIZER_VARIANTS = [
    ({}, 0.05),
    ({"weight_decay": 0.01}, 0.05),
    ({"momentum": 0.9, "dampening": 0.5}, 0.01),
    ({"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 0.005),
    ({"optimizer": "adamw(amsgrad=True, beta2=0.99)"}, 0.01),
]
WALKED_FAR = ({}, OPTIMIZER_VARIANTS[3][0], OPTIMIZER_VARIANTS[4][0])  # the plainest, and those with most to go wrong
# A compensation with its sign flipped makes steps longer and less stable: it is there to do harm.
LR_FACTORS = {"sign-flipped": 0.4}


def variants():
    for name in NAMES:
        own = set(keywords_of(COMPENSATIONS.load(name)))
        yield from ((name, keywords) for keywords in COMPENSATION_VARIANTS if set(keywords) <= own)


EAGER = [law for law in RULE_LAWS if law != "compiled equals exact"]  # that one takes seconds to compile
# Half of the time goes into the walks that converge; what an option does to the equations, numpy says to 1e-12.
QUICK = [law for law in EAGER if law != "converges at every staleness"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("keywords", "lr"), OPTIMIZER_VARIANTS, ids=[str(v[0]) for v in OPTIMIZER_VARIANTS])
def test_every_rule_keeps_the_laws_with_every_optimizer(name, keywords, lr):
    laws = EAGER if keywords in WALKED_FAR else QUICK
    check_rule(tardigrad.rule(name, **keywords), lr=lr * LR_FACTORS.get(name, 1.0), laws=laws)


@pytest.mark.parametrize(("name", "keywords"), list(variants()), ids=str)
def test_every_rule_keeps_the_laws_with_every_option(name, keywords):
    alone = set(keywords) <= ALONE
    check_rule(tardigrad.rule(name, **keywords), lr=0.05 * LR_FACTORS.get(name, 1.0), laws=EAGER if alone else QUICK)


COMPILED = [
    *((name, {}) for name in NAMES),
    ("dc-asgd-c", {"damped": True, "clip_compensation": 0.1}),
    ("dc-asgd-a", {"mean_square_decay": 0.0, "momentum": 0.9, "dampening": 0.5}),
    ("dc-asgd", {"shared": True, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("dc-asgd", {"optimizer": "adamw"}),
    ("dc-asgd-a", {"optimizer": "adam(amsgrad=True, weight_decay=0.01)"}),
]


@pytest.mark.parametrize(("name", "keywords"), COMPILED, ids=str)
def test_every_rule_is_the_same_compiled(name, keywords, needs_compiler):
    lr = 0.005 if {"momentum", "optimizer"} & set(keywords) else 0.05
    check_rule(tardigrad.rule(name, **keywords), lr=lr * LR_FACTORS.get(name, 1.0), laws=["compiled equals exact"])


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_goes_by_the_name_it_is_registered_under(name):
    assert tardigrad.rule(name).name == name


# Values that no hyper-parameter of this kind accepts. A keyword of a new rule needs its line here.
ANY = [float("nan"), "2", None, [1.0], True]
POSITIVE = [*ANY, 0.0, -1.0, float("inf")]
NOT_NEGATIVE = [*ANY, -1e-9, float("inf"), float("-inf")]
DECAY = [*ANY, -0.1, 1.0, 1.5, float("inf")]
FLAG = [0, 1, 0.5, "True", None, float("nan")]
REFUSED = {
    "lambda0": NOT_NEGATIVE,
    "mean_square_decay": DECAY,
    "eps": POSITIVE,
    "clip_compensation": [value for value in POSITIVE if value is not None],
    "damped": FLAG,
    "shared": FLAG,
    "power": NOT_NEGATIVE,
    "of": [4, None, ["dc-asgd-a"], "asgd", "its-length", "clipping"],
    "seed": [*ANY, -1, 0.5],
    "max_norm": POSITIVE,
    "kappa": [value for value in POSITIVE if value is not None],
    "scale": POSITIVE,
    "window": [float("nan"), "2", [1.0], True, 0, -1, 2.5],
    "kept": ["float16", None, 2],
    "momentum": DECAY,
    "dampening": [*ANY, -0.1, 1.1, float("inf")],
    "weight_decay": NOT_NEGATIVE,
    "nesterov": FLAG,
    "beta1": DECAY,
    "beta2": DECAY,
    "amsgrad": FLAG,
}


def keywords_with_values():
    for name in NAMES:
        for keyword in [*keywords_of(COMPENSATIONS.load(name)), "momentum", "dampening", "weight_decay", "nesterov"]:
            for value in REFUSED[keyword]:
                yield name, keyword, value


@pytest.mark.parametrize(("name", "keyword", "value"), list(keywords_with_values()))
def test_a_value_outside_its_range_is_refused_with_a_sentence(name, keyword, value):
    with pytest.raises(
        ValueError,
        match=rf"{keyword}={re.escape(repr(value))} is not (a number in|an integer|True or False|one of|to be wrapped)",
    ):
        tardigrad.rule(name, **{keyword: value})


def optimizers_keywords_with_values():
    for name in OPTIMIZERS.names():
        for keyword in keywords_of(OPTIMIZERS.load(name)):
            yield from ((name, keyword, value) for value in REFUSED[keyword])


@pytest.mark.parametrize(("name", "keyword", "value"), list(optimizers_keywords_with_values()))
def test_a_value_outside_an_optimizers_range_is_refused_with_a_sentence(name, keyword, value):
    words = rf"{name}: {keyword}={re.escape(repr(value))} is not (a number in|True or False)"
    with pytest.raises(ValueError, match=words):
        OPTIMIZERS.build(Spec(name, (), {keyword: value}))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_goes_by_the_name_it_is_registered_under(name):
    assert OPTIMIZERS.build(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_keyword_nobody_has_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=rf"rule '{name}' has no keyword 'momentun'. Did you mean 'momentum'\?"):
        tardigrad.rule(name, momentun=0.9)


@pytest.mark.parametrize("name", NAMES)
def test_nesterov_needs_a_velocity(name):
    for keywords in ({}, {"momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="nesterov=True needs momentum > 0 and dampening=0"):
            tardigrad.rule(name, nesterov=True, **keywords)
