"""Recipes: functions that return a whole run configuration."""

from __future__ import annotations

from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument
from tardigrad.specs import Registry

RECIPES = Registry(
    "recipe",
    {
        "cifar10-small": "tardigrad.recipes.cifar10:cifar10_small",
        "cifar10-resnet20": "tardigrad.recipes.cifar10:cifar10_resnet20",
        "cifar10-resnet20-warmup": "tardigrad.recipes.cifar10:cifar10_resnet20_warmup",
        "digits": "tardigrad.recipes.digits:digits",
        "quadratic": "tardigrad.recipes.quadratic:quadratic",
    },
    group="tardigrad.recipes",
)


def load_recipe(name: str) -> RunConfig:
    """The configuration of a registered recipe."""
    config = RECIPES.build(name)
    if not isinstance(config, RunConfig):
        raise InvalidArgument(f"recipe {name!r} does not return a RunConfig.")
    return config.replace(recipe=name)
