"""Every recipe is a whole configuration whose parts exist; no data is read for that."""

import pytest

from tardigrad.config import RunConfig
from tardigrad.consistency import build_consistency
from tardigrad.delays import build_delay
from tardigrad.engines import ENGINES
from tardigrad.errors import UnknownName
from tardigrad.recipes import RECIPES, load_recipe
from tardigrad.rules.base import make_rule
from tardigrad.schedules import build_schedule
from tardigrad.specs import keywords_of, parse_spec
from tardigrad.tasks import TASKS


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_part_of_a_recipe_exists(name):
    config = load_recipe(name)
    assert config.recipe == name
    task = parse_spec(config.task)
    assert set(task.kwargs) <= set(keywords_of(TASKS.load(task.name)))
    assert make_rule(config.rule, optimizer=config.optimizer).spec
    assert build_schedule(config.schedule, warmup=config.warmup).factor(config.epochs / 2) > 0.0
    assert build_delay(config.delay)
    assert build_consistency(config.consistency)
    assert ENGINES.load(config.engine)


@pytest.mark.parametrize("name", RECIPES.names())
def test_a_recipe_survives_being_written_down(name):
    config = load_recipe(name)
    assert RunConfig.from_json(config.as_json()) == config


@pytest.mark.parametrize("name", RECIPES.names())
def test_a_recipe_says_what_it_is(name):
    assert len(RECIPES.load(name).__doc__.split()) > 5


def test_the_papers_setting():
    config = load_recipe("cifar10-resnet20")
    assert (config.lr, config.batch_size, config.epochs, config.leases) == (0.5, 128, 160, "static")
    schedule = build_schedule(config.schedule, warmup=config.warmup)
    factors = [schedule.factor(epoch) for epoch in (0.0, 79.9, 80.0, 119.9, 120.0, 159.9)]
    assert factors == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])
    assert config.optimizer == "sgd"  # no momentum, no weight decay
    warm = load_recipe("cifar10-resnet20-warmup")
    assert warm.replace(warmup=0.0, recipe=config.recipe) == config
    assert warm.warmup == 1.0


def test_an_unknown_recipe_is_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match="cifar10-resnet20"):
        load_recipe("cifar10-resnet2")
