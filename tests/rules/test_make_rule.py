"""How a rule is asked for: by name, by spec, by keywords, from a stranger's module."""

import numpy as np
import pytest
import torch

import tardigrad
from tardigrad.errors import InvalidArgument, UnknownName
from tardigrad.rules import COMPENSATIONS


def test_names_of_the_rules():
    assert set(COMPENSATIONS.names()) >= {"asgd", "dc-asgd-c", "dc-asgd-a", "dc-asgd", "staleness-lr"}


def test_the_papers_numbers_are_the_defaults():
    assert tardigrad.rule("dc-asgd-c").spec == "dc-asgd-c(lambda0=0.04, clip_compensation=None, damped=False)"
    assert tardigrad.rule("dc-asgd-a").spec == (
        "dc-asgd-a(lambda0=2.0, mean_square_decay=0.95, eps=1e-07, clip_compensation=None, damped=False, shared=False)"
    )
    assert tardigrad.rule("asgd").optimizer_spec == "sgd(momentum=0.0, nesterov=False, dampening=0.0, weight_decay=0.0)"


def test_keywords_go_to_the_part_that_has_them():
    rule = tardigrad.rule("dc-asgd-a", lambda0=1.0, momentum=0.9)
    assert (rule.compensation.lambda0, rule.optimizer.momentum) == (1.0, 0.9)


def test_keywords_win_over_the_spec():
    assert tardigrad.rule("dc-asgd-c(lambda0=1, damped=True)", lambda0=3.0).spec == (
        "dc-asgd-c(lambda0=3.0, clip_compensation=None, damped=True)"
    )
    rule = tardigrad.rule("asgd", optimizer="sgd(momentum=0.5, weight_decay=0.1)", momentum=0.9)
    assert rule.optimizer_spec == "sgd(momentum=0.9, nesterov=False, dampening=0.0, weight_decay=0.1)"


def test_numbers_of_numpy_are_written_as_numbers():
    rule = tardigrad.rule("dc-asgd-c", lambda0=np.float64(0.5))
    assert tardigrad.rule(rule.spec) == rule
    assert "np." not in rule.spec


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownName, match=r"unknown rule 'dc-asgd-b'. Did you mean 'dc-asgd-\w'\?"):
        tardigrad.rule("dc-asgd-b")
    with pytest.raises(UnknownName, match=r"unknown optimizer 'sdg'. Did you mean 'sgd'"):
        tardigrad.rule("asgd", optimizer="sdg")


def test_a_built_in_name_cannot_be_taken():
    with pytest.raises(InvalidArgument, match="'asgd' is a built-in rule"):
        tardigrad.register_rule("asgd", object)


def test_a_name_must_be_writable_in_a_spec():
    with pytest.raises(InvalidArgument, match="cannot name a rule"):
        tardigrad.register_rule("my rule", object)


def test_something_else_under_a_rules_name_is_refused():
    tardigrad.register_rule("not-a-rule", lambda: "a word")
    with pytest.raises(InvalidArgument, match="'not-a-rule' must be a Compensation"):
        tardigrad.rule("not-a-rule")


def test_a_rule_can_be_named_by_its_place():
    rule = tardigrad.rule("tardigrad.rules.dc_asgd:DCASGDConstant", lambda0=1.0)
    assert rule == tardigrad.rule("dc-asgd-c", lambda0=1.0)
    for place in ("tardigrad.rules.dc_asgd:Nothing", "tardigrad.rules.nothing:Nothing"):
        with pytest.raises(InvalidArgument, match="cannot import"):
            tardigrad.rule(place)


def test_a_server_wants_a_rule_and_not_its_name():
    with pytest.raises(InvalidArgument, match=r"make one with tardigrad.rule\('dc-asgd-a'\)"):
        tardigrad.ParameterServer([torch.zeros(1)], "asgd", lr=0.1)
