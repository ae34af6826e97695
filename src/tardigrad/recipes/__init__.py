"""Recipes: functions that return a whole run configuration."""

from __future__ import annotations

from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument
from tardigrad.specs import Registry

RECIPES = Registry(
    "recipe",
    {
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
