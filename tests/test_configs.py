from __future__ import annotations

import dataclasses
import json
import typing

import pytest

from mezzotint import configs
from mezzotint.configs import DataFacts, Recipe, Spec, from_dict, to_dict
from mezzotint.errors import ConfigError

RECIPE = Recipe(
    "toy", "generate", configs.UNetConfig(), configs.VEConfig(sigma_max=5), configs.VLBConfig(), label=configs.LabelConfig(drop=0.1)
)
SPEC = Spec(RECIPE, DataFacts(1, (8, 4), ("a", "b"), 16), {"model.safetensors": {"ema": None, "sha256": "0"}}, {"from": ["x", 1]})


def through_json(value):
    return json.loads(json.dumps(to_dict(value)))


def test_a_spec_survives_json() -> None:
    assert from_dict(Spec, through_json(SPEC)) == SPEC


@pytest.mark.parametrize("union", ["ScheduleConfig", "NetworkConfig", "ObjectiveConfig"])
def test_every_alternative_survives_json(union) -> None:
    field = {"ScheduleConfig": "schedule", "NetworkConfig": "net", "ObjectiveConfig": "objective"}[union]
    for option in typing.get_args(getattr(configs, union)):
        recipe = dataclasses.replace(RECIPE, **{field: option()})
        assert from_dict(Recipe, through_json(recipe)) == recipe


def test_defaults_fill_in_what_an_older_file_lacks() -> None:
    value = through_json(SPEC)
    del value["recipe"]["sample"], value["recipe"]["net"]["dropout"]
    assert from_dict(Spec, value) == SPEC


def change(*path):
    """A copy of the spec as a table, with the value at a path replaced by the last argument, or left out if that is ``...``."""
    value = through_json(SPEC)
    at = value
    for key in path[:-2]:
        at = at[key]
    if path[-1] is ...:
        del at[path[-2]]
    else:
        at[path[-2]] = path[-1]
    return value


@pytest.mark.parametrize(
    "path, message",
    [
        (("recipe", "net", "widht", 3), "unknown setting of Spec.recipe.net 'widht'; did you mean 'width'"),
        (("recipe", "net", "kind", "unte"), "unknown kind of Spec.recipe.net 'unte'; did you mean 'unet'"),
        (("recipe", "net", "kind", ...), "unknown kind of Spec.recipe.net 'None'"),
        (("recipe", "name", ...), "Spec.recipe: 'name' is missing"),
        (("recipe", "net", "width", "3"), "Spec.recipe.net.width: expected int, got '3'"),
        (("recipe", "net", "width", True), "Spec.recipe.net.width: expected int, got True"),
        (("recipe", "net", "width", 1.5), "Spec.recipe.net.width: expected int, got 1.5"),
        (("recipe", "net", "scale_shift", 1), "Spec.recipe.net.scale_shift: expected bool, got 1"),
        (("recipe", "net", "mults", 3), "Spec.recipe.net.mults: expected a list, got 3"),
        (("recipe", "net", "mults", [1, "2"]), r"Spec.recipe.net.mults[1]: expected float, got '2'"),
        (("recipe", "optim", "betas", [0.9]), "Spec.recipe.optim.betas: expected two values, got [0.9]"),
        (("recipe", "optim", "decay", "cosin"), "unknown Spec.recipe.optim.decay 'cosin'; did you mean 'cosine'"),
        (("recipe", "optim", [1]), "Spec.recipe.optim: expected a table, got [1]"),
        (("weights", [1]), "Spec.weights: expected a table, got [1]"),
        (("recipe", "train", "micro_batch", "x"), "Spec.recipe.train.micro_batch: 'x' is not one of int | None"),
    ],
)
def test_a_damaged_table_says_where(path, message) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Spec, change(*path))
    assert str(caught.value).startswith(message)


def test_whole_numbers_become_floats_where_floats_are_due() -> None:
    spec = from_dict(Spec, change("recipe", "optim", "lr", 1))
    assert isinstance(spec.recipe.optim.lr, float)


def test_configs_cannot_be_changed_and_can_be_compared() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPE.net.width = 3  # type: ignore[misc]
    assert hash(RECIPE) == hash(from_dict(Recipe, through_json(RECIPE)))


def test_the_weight_table_is_the_readers_own() -> None:
    value = through_json(SPEC)
    spec = from_dict(Spec, value)
    value["weights"].clear()
    assert spec.weights
