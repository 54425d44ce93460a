"""What training will need is predicted by shapes alone, and comes near what it takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mezzotint.configs import DataConfig, DataFacts, PixelConfig, Recipe
from mezzotint.errors import CapabilityError
from mezzotint.pipelines.build import build_network, resolve
from mezzotint.registry import get, names
from mezzotint.tasks.plan import fit, measure, needs


def recipe_of(name: str, side: int = 32, **train: object) -> Recipe:
    recipe = get("recipe", name)()
    recipe = replace(recipe, data=DataConfig(size=(side, side)), train=replace(recipe.train, precision="fp32", **train))
    return resolve(recipe, DataFacts(3, (side, side), tuple("0123456789")))


ONE_OF_EACH = {type(get("recipe", name)().net): name for name in names("recipe") if get("recipe", name)().codec == PixelConfig()}


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_every_kind_of_network_can_be_planned(name) -> None:
    recipe = recipe_of(name)
    what = needs(recipe)
    with torch.device("meta"):
        assert what.parameters == sum(p.numel() for p in build_network(recipe).parameters())
    assert what.flops > 2 * what.parameters / 10 and what.per_image > 0
    assert what.memory(64) > what.memory(8) > 12 * what.parameters


def test_flops_are_those_of_the_layers() -> None:
    """A U-ViT's work is nearly all in linear layers: 2 operations a weight and token forwards, and twice that backwards."""
    recipe = recipe_of("uvit")
    with torch.device("meta"):
        weights = sum(m.weight.numel() for m in build_network(recipe).modules() if isinstance(m, torch.nn.Linear))
    assert needs(recipe).flops == pytest.approx(6 * weights * 257, rel=0.1)


def test_half_precision_and_recomputing_need_less() -> None:
    whole = recipe_of("digits")
    half = replace(whole, train=replace(whole.train, precision="bf16"))
    again = replace(whole, net=replace(whole.net, checkpointing=True))
    assert needs(half).memory(256) < 0.6 * needs(whole).memory(256)
    assert needs(again).memory(256) < 0.8 * needs(whole).memory(256)
    assert needs(again).flops > 1.2 * needs(whole).flops


def test_fit_takes_the_largest_part_that_fits_and_recomputes_only_where_it_must() -> None:
    recipe = recipe_of("digits", batch=64)
    room = int(needs(recipe).memory(16) / 0.9) + 1
    fitted = fit(recipe, free=room)
    assert fitted.train.micro_batch == 16 and not fitted.net.checkpointing and fitted.train.batch == 64
    assert fit(recipe, free=room, ranks=4).train.micro_batch == 16
    tight = fit(recipe, free=int(needs(recipe).memory(6) / 0.9))
    assert tight.net.checkpointing and tight.train.micro_batch >= 4
    with pytest.raises(CapabilityError, match="for a single image"):
        fit(recipe, free=2**20)


def test_measuring_classifiers_and_parts() -> None:
    recipe = replace(recipe_of("small-classifier", 8, batch=4, micro_batch=2), codec=PixelConfig())
    assert measure(recipe, device=torch.device("cpu"), steps=1).images_per_second > 0


MEASURE = """
import sys, torch
from tests.tasks.test_plan import recipe_of
from mezzotint.tasks.plan import measure, needs
torch.set_num_threads(1)
recipe = recipe_of(sys.argv[1], batch=int(sys.argv[2]))
print(needs(recipe).memory(recipe.train.batch), measure(recipe, device=torch.device("cpu"), steps=1).memory)
"""


@pytest.mark.parametrize("name, batch", [("small", 32), ("ddpm", 4)])
def test_the_predicted_peak_is_within_15_percent_of_the_measured_one(name, batch) -> None:
    """In a process of its own, which has no other peak behind it."""
    done = subprocess.run([sys.executable, "-c", MEASURE, name, str(batch)], capture_output=True, text=True, check=True, timeout=250)
    predicted, measured = map(int, done.stdout.split())
    assert predicted == pytest.approx(measured, rel=0.15)
